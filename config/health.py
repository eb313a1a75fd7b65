"""Whether the desk is alive and ready, its figures, and what unknown routes and bugs answer."""

import hmac
import time
from typing import Any, NamedTuple

import redis
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.defaults import server_error as django_server_error
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from accounts import networks
from core import catalogue, problem
from core.requests import DeskRequest
from wallets.services import ledger_halt


def alive(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> HttpResponse:
    """200 when the database and Redis answer and this version is deployed; else 503 and what is missing.

    A halted ledger, and a key, trigger or right that is not as the code wants it, are reported as "degraded" with 200:
    a proxy must not take away a desk that has to close trades.
    """
    state: dict[str, Any] = {"database": _database(), "redis": _redis()}
    differences: list[str] = []
    if state["database"] == "ok":
        deployment = _deployment()
        state["migrations"], state["functions"] = deployment.migrations, deployment.functions
        differences = deployment.differences
    else:
        state["migrations"] = state["functions"] = "unknown"
    good = all(answer == "ok" for answer in state.values())
    if state["database"] == "ok":
        state["catalogue"] = differences or "ok"
    halted = ledger_halt.halted() if good else ""
    if good:
        state["ledger"] = f"halted: {halted}" if halted else "ok"
    status = "not ready" if not good else "degraded" if halted or differences else "ready"
    return JsonResponse({"status": status, **state}, status=200 if good else 503)


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
    """What else of the database is not as the code wants it."""


_LASTS_S = 5.0
_deployments: tuple[float, Deployment] | None = None


def _deployment() -> Deployment:
    """Whether this version's migrations and functions are deployed. Looked up at most every five seconds a process."""
    global _deployments
    if _deployments is None or time.monotonic() - _deployments[0] > _LASTS_S:
        _deployments = (time.monotonic(), _look_at_deployment())
    return _deployments[1]


def _look_at_deployment() -> Deployment:
    executor = MigrationExecutor(connections["default"])
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        return Deployment(f"{len(waiting)} not applied: run manage.py migrate", "unknown", [])
    found = catalogue.differences()
    if found and catalogue.is_ahead():  # this process is of the version before: it serves until it is replaced
        return Deployment("ok", "ok", ["a newer version has migrated this database"])
    stale = [difference.subject for difference in found if difference.cured_by_migrate]
    functions = f"{len(stale)} stale: run manage.py migrate ({', '.join(stale)})" if stale else "ok"
    return Deployment("ok", functions, [str(difference) for difference in found if not difference.cured_by_migrate])


def metrics(request: DeskRequest) -> HttpResponse:
    """Prometheus figures: for whoever has METRICS_TOKEN, or where none is set for this machine alone."""
    token = settings.METRICS_TOKEN
    if token:
        may = hmac.compare_digest(request.META.get("HTTP_AUTHORIZATION", "").encode(), f"Bearer {token}".encode())
    else:
        may = networks.is_loopback(request.client_ip)
    if not may:
        no = problem.response(
            problem.body(status=401, code="not_authenticated", detail="Send Authorization: Bearer METRICS_TOKEN.")
        )
        no["WWW-Authenticate"] = "Bearer"
        return no
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def unknown_route(request: HttpRequest) -> HttpResponse:
    request_id = getattr(request, "request_id", "")
    return problem.response(
        problem.body(status=404, code="not_found", detail="There is no such route.", request_id=request_id)
    )


def server_error(request: HttpRequest) -> HttpResponse:
    """A bug. The outcome of the request is unknown: a bot repeats it with the same Idempotency-Key."""
    if not request.path.startswith(("/api/", "/signal")):
        return django_server_error(request)
    request_id = getattr(request, "request_id", "")
    detail = "The outcome is unknown: repeat with a new time and number and the same Idempotency-Key."
    return problem.response(
        problem.body(status=500, code="internal", detail=detail, retry="same_key", request_id=request_id)
    )
