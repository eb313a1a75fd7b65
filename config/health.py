"""Liveness, readiness and metrics of the desk, and its responses to unknown routes and bugs."""

import time
from typing import Any, NamedTuple

import redis
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.defaults import server_error as django_server_error
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config import access
from config.access import by_policy
from core import catalogue, problem
from core.requests import DeskRequest
from wallets.services import ledger_halt


def alive(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "alive"})


@by_policy("READYZ")
def ready(request: DeskRequest) -> HttpResponse:
    """Respond 200 where the database and Redis answer and this version is deployed; else 503 and what is missing.

    A halted ledger, and a key, trigger or right that is not as the code wants it, are "degraded" with 200: a proxy must
    not take a desk out of service that has to close trades.
    """
    global _was_ready
    state: dict[str, Any] = {"database": _database(), "redis": _redis()}
    deployment = _deployment() if state["database"] == "ok" else Deployment("unknown", "unknown", [])
    state["migrations"], state["functions"] = deployment.migrations, deployment.functions
    # A process that was ready has its functions replaced by a deployment: it serves on until it is replaced as well.
    is_stale = _was_ready and deployment.functions not in ("ok", "unknown")
    is_ready = all(answer == "ok" for name, answer in state.items() if not (is_stale and name == "functions"))
    _was_ready = _was_ready or is_ready
    shows_details = access.is_trusted(request)
    if state["database"] == "ok":
        count = f"{len(deployment.differences)} differences: run manage.py check --database"
        state["catalogue"] = (deployment.differences if shows_details else count) if deployment.differences else "ok"
    halted = ledger_halt.halted() if is_ready else ""
    if is_ready:
        state["ledger"] = ("halted" + (f": {halted}" if shows_details else "")) if halted else "ok"
    is_degraded = halted or deployment.differences or is_stale
    status = "not ready" if not is_ready else "degraded" if is_degraded else "ready"
    return JsonResponse({"status": status, **state}, status=200 if is_ready else 503)


def _database() -> str:
    try:
        for alias in ("default", "bot"):
            with connections[alias].cursor() as cursor:
                cursor.execute("select 1")
    except DatabaseError as fault:
        return type(fault).__name__
    return "ok"


def _redis() -> str:
    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1).ping()
    except redis.RedisError as fault:
        return type(fault).__name__
    return "ok"


class Deployment(NamedTuple):
    migrations: str
    functions: str
    differences: list[str]
    """All else in the database that is not as the code wants it."""


_CACHED_S = 5.0
_deployments: tuple[float, Deployment] | None = None
_was_ready = False


def _deployment() -> Deployment:
    """Return whether this version is deployed. A process checks at most every five seconds."""
    global _deployments
    if _deployments is None or time.monotonic() - _deployments[0] > _CACHED_S:
        _deployments = (time.monotonic(), _check_deployment())
    return _deployments[1]


def _check_deployment() -> Deployment:
    executor = MigrationExecutor(connections["default"])
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        return Deployment(f"{len(waiting)} not applied: run manage.py migrate", "unknown", [])
    differences = catalogue.differences()
    if differences and catalogue.is_ahead():  # this process is of the version before and serves until it is replaced
        switched_off = [str(difference) for difference in differences if difference.is_switched_off]
        return Deployment("ok", "ok", ["a newer version has migrated this database", *switched_off])
    stale = [difference.subject for difference in differences if difference.cured_by_migrate]
    functions = f"{len(stale)} stale: run manage.py migrate ({', '.join(stale)})" if stale else "ok"
    others = [str(difference) for difference in differences if not difference.cured_by_migrate]
    return Deployment("ok", functions, others)


@by_policy("METRICS")
def metrics(request: DeskRequest) -> HttpResponse:
    """Metrics for Prometheus."""
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def unknown_route(request: HttpRequest) -> HttpResponse:
    request_id = getattr(request, "request_id", "")
    return problem.response(
        problem.body(status=404, code="not_found", detail="There is no such route.", request_id=request_id)
    )


def server_error(request: HttpRequest) -> HttpResponse:
    """Respond to a bug. The outcome of the request is unknown: a bot repeats it with the same Idempotency-Key."""
    if not request.path.startswith(("/api/", "/signal")):
        return django_server_error(request)
    request_id = getattr(request, "request_id", "")
    detail = "The outcome is unknown. Repeat with a new X-Cd-Time and X-Cd-Seq and the same Idempotency-Key."
    return problem.response(
        problem.body(status=500, code="internal", detail=detail, retry="same_key", request_id=request_id)
    )
