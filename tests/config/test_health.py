"""Liveness, readiness, and who may read the metrics."""

from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from pytest_django import Settings

from config import checks, health
from tests.signed import HOST
from tests.sql import as_owner


@pytest.fixture(autouse=True)
def _fresh_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the state of another test's database."""
    monkeypatch.setattr(health, "_deployments", None)
    monkeypatch.setattr(health, "_was_ready", False)


def get(path: Any, **more: Any) -> Any:
    return Client().get(path, HTTP_HOST=HOST, **more)


def state(answer: Any) -> Any:
    return answer.status_code, {name: value for name, value in answer.json().items() if value != "ok"}


def test_is_alive_without_a_database_or_redis(settings: Settings, tmp_path: Path) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/nobody.sock"

    assert (get("/healthz").status_code, get("/healthz").json()) == (200, {"status": "alive"})


def test_is_ready(desk_db: str) -> None:
    assert state(get("/readyz")) == (200, {"status": "ready"})


def test_is_not_ready_without_redis(desk_db: str, settings: Settings, tmp_path: Path) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/nobody.sock"

    assert state(get("/readyz")) == (503, {"status": "not ready", "redis": "ConnectionError"})


@pytest.mark.parametrize("alias", ["default", "bot"])
def test_is_not_ready_without_its_database(alias: str, desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise OperationalError("password=hunter2")

    with monkeypatch.context() as offline:
        offline.setattr(connections[alias], "cursor", away)
        answer = get("/readyz")

    expected = {"status": "not ready", "database": "OperationalError", "migrations": "unknown", "functions": "unknown"}
    assert state(answer) == (503, expected)
    assert b"hunter2" not in answer.content


def test_is_not_ready_before_its_migrations(desk_db: str) -> None:
    recorder = MigrationRecorder(connections["owner"])
    latest = recorder.migration_qs.filter(app="trades").order_by("-id").first()
    recorder.record_unapplied(latest.app, latest.name)

    assert state(get("/readyz")) == (
        503,
        {"status": "not ready", "migrations": "1 not applied: run manage.py migrate", "functions": "unknown"},
    )


@pytest.mark.breaks_the_books
def test_names_a_missing_guard_and_still_closes_trades(desk_db: str) -> None:
    as_owner("alter table trades disable trigger never_deleted")

    code, body = state(get("/readyz"))

    assert (code, body["status"]) == (200, "degraded")
    (difference,) = body["catalogue"]
    assert difference.startswith("trigger trades.never_deleted is «disabled: ")
    assert difference.endswith("As the tables' owner: alter table trades enable always trigger never_deleted.")


@pytest.mark.breaks_the_books
def test_the_version_before_stays_ready_while_the_next_is_deployed(desk_db: str) -> None:
    as_owner(
        "create or replace function house_shards() returns int language sql immutable as 'select 1'",
        "update sql_functions set version = '99.0.0'",
    )

    expected = {"status": "degraded", "catalogue": ["a newer version has migrated this database"]}
    assert state(get("/readyz")) == (200, expected)


@pytest.mark.breaks_the_books
def test_compares_the_catalogue_only_every_few_seconds(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    get("/readyz")
    as_owner("alter table trades disable trigger never_deleted")
    assert state(get("/readyz")) == (200, {"status": "ready"})

    looked_at, deployment = health._deployments
    monkeypatch.setattr(health, "_deployments", (looked_at - 6, deployment))
    assert state(get("/readyz"))[1]["status"] == "degraded"


# --- metrics


def metrics(ip: str = "127.0.0.1", **headers: Any) -> Any:
    return get("/metrics", REMOTE_ADDR=ip, headers=headers)


def test_without_a_token_only_this_machine_reads_metrics(desk_db: str, settings: Settings) -> None:
    settings.METRICS_TOKEN = ""

    assert metrics().status_code == 200
    assert metrics()["Content-Type"].startswith("text/plain")
    for ip in ("203.0.113.9", "10.0.0.1", ""):
        answer = metrics(ip)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert answer["WWW-Authenticate"] == "Bearer"
        assert b"python_info" not in answer.content


def test_a_forwarded_loopback_address_is_not_this_machine(settings: Settings) -> None:
    settings.METRICS_TOKEN = ""

    assert metrics("203.0.113.9", **{"X-Forwarded-For": "127.0.0.1"}).status_code == 401
    settings.TRUSTED_PROXIES = 1
    assert metrics("127.0.0.1", **{"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}).status_code == 401


def test_with_a_token_metrics_need_the_token(desk_db: str, settings: Settings) -> None:
    settings.METRICS_TOKEN = "a-token-for-the-test"

    assert metrics("203.0.113.9", Authorization="Bearer a-token-for-the-test").status_code == 200
    for wrong in ("", "Bearer", "Bearer a-token-for-the-tes", "Basic a-token-for-the-test", "Bearer ä"):
        assert metrics("127.0.0.1", Authorization=wrong).status_code == 401
    assert metrics().status_code == 401


@pytest.mark.breaks_the_books
def test_a_stranger_learns_how_many_guards_are_gone_and_not_which(desk_db: str) -> None:
    as_owner("alter table trades disable trigger never_deleted")

    response = get("/readyz", REMOTE_ADDR="203.0.113.9")

    assert response.json()["catalogue"] == "1 differences: run manage.py check --database"
    assert b"never_deleted" not in response.content


@pytest.mark.breaks_the_books
def test_a_process_that_was_ready_serves_on_while_its_functions_are_replaced(
    desk_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment between two versions would else take every running node out of the proxy."""
    stale = "create or replace function house_shards() returns int language sql immutable as 'select 1'"
    assert get("/readyz").status_code == 200
    as_owner(stale)
    monkeypatch.setattr(health, "_deployments", None)

    response = get("/readyz")

    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert "house_shards" in response.json()["functions"]
    monkeypatch.setattr(health, "_was_ready", False)  # a process that has just started
    assert get("/readyz").status_code == 503


@pytest.mark.breaks_the_books
def test_a_newer_version_hides_no_trigger_that_is_switched_off(desk_db: str) -> None:
    as_owner("alter table trades disable trigger never_deleted", "update sql_functions set version = '99.0'")

    newer, difference = get("/readyz").json()["catalogue"]

    assert newer == "a newer version has migrated this database"
    assert difference.startswith("trigger trades.never_deleted")


# --- who may see what


PAGES = {"READYZ": "/readyz", "METRICS": "/metrics", "DOCS": "/api/schema/"}
CALLERS: dict[str, dict[str, str]] = {
    "anybody": {"REMOTE_ADDR": "203.0.113.9"},
    "a thief": {"REMOTE_ADDR": "203.0.113.9", "HTTP_AUTHORIZATION": "Bearer guess"},
    "token": {"REMOTE_ADDR": "203.0.113.9", "HTTP_AUTHORIZATION": "Bearer right"},
    "this machine": {},
    "through a proxy": {"HTTP_X_FORWARDED_FOR": "203.0.113.9"},
}
SEES = {
    "open": set(CALLERS),
    "token": {"token"},
    "token, none set": {"this machine"},
    "loopback": {"this machine"},
}


@pytest.mark.parametrize("policy", SEES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_for_those_whom_its_policy_names(name: str, policy: str, desk_db: str, settings: Settings) -> None:
    settings.ACCESS = {**settings.ACCESS, name: policy.partition(",")[0]}
    settings.METRICS_TOKEN = "" if "," in policy else "right"

    sees = {who for who, caller in CALLERS.items() if get(PAGES[name], **caller).status_code == 200}

    assert sees == SEES[policy]


def test_the_page_of_the_api_has_its_documents_policy(desk_db: str, settings: Settings) -> None:
    settings.ACCESS = {**settings.ACCESS, "DOCS": "loopback"}

    refused = get("/api/docs/", REMOTE_ADDR="203.0.113.9")
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert get("/api/docs/").status_code == 200


def test_by_default_metrics_are_for_this_machine_or_the_token_and_the_rest_is_open(settings: Settings) -> None:
    assert settings.ACCESS == {"READYZ": "open", "METRICS": "token", "DOCS": "open"}


def test_an_unknown_policy_stops_the_start(settings: Settings) -> None:
    settings.ACCESS = {**settings.ACCESS, "DOCS": "nobody"}

    assert "copydesk.E009" in {message.id for message in checks.secrets_are_set(None)}
