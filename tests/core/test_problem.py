"""Refusals: each has its code, all have one format, and all are in the documentation."""

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import OperationalError
from django.test import Client
from pytest_django import Settings
from rest_framework.test import APIRequestFactory

from accounts.models import TradingAccount
from core import errors, problem
from tests.signed import HOST, Bot, opening

DOCUMENTED = Path(__file__).resolve().parent.parent.parent / "docs" / "errors.md"
RETRIES = {"never", "new_seq", "same_key", "after", "rotate", "resync"}
# Codes without a class: of framework errors, or where there is no request to refuse.
WITHOUT_A_CLASS = {"internal": (500, "same_key")}


SERVERS = {"asgi", "wsgi"}  # they check the database as they start, and define no refusal


def refusals() -> Any:
    """Return all classes, after importing every module of the desk."""
    for app in apps.get_app_configs():
        if "site-packages" in app.path:
            continue
        for module in pkgutil.iter_modules([app.path]):
            if module.name not in SERVERS:
                importlib.import_module(f"{app.name}.{module.name}")
    return errors.every_error()


def documented() -> dict[Any, Any]:
    """code → status, retry, meaning, what to do."""
    lines = re.findall(r"^\| `([a-z_0-9]+)` \| (\d{3}) \| (\w+) \| (.+?) \| (.+?) \|$", DOCUMENTED.read_text(), re.M)
    return {code: (int(status), retry, meaning, do) for code, status, retry, meaning, do in lines}


def expected() -> dict[str, Any]:
    by_code = {cls.code: (int(cls.status), cls.retry) for cls in refusals()}
    framework = {code: (status, "never") for status, code, _ in problem._FRAMEWORK.values()}
    return {**framework, **by_code, **WITHOUT_A_CLASS}


def test_every_refusal_has_its_own_code_and_a_detail() -> None:
    classes = refusals()
    codes = [cls.code for cls in classes]

    assert len(classes) > 25
    assert sorted(set(codes)) == codes
    for cls in classes:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.code)
        assert cls.retry in RETRIES
        assert 400 <= cls.status < 600
        assert cls.detail.endswith(".")


def test_a_second_class_with_the_same_code_is_refused() -> None:
    with pytest.raises(TypeError, match="AlsoBusy and Busy have the same code 'busy'"):
        type("AlsoBusy", (errors.DomainError,), {"code": "busy"})

    assert errors.of_code("busy").__class__ is errors.Busy


def test_a_refused_outcome_of_the_database_becomes_its_refusal() -> None:
    refused = {"code": "busy", "refused": True, "replayed": True, "retry_after_ms": 100}

    refusal = errors.of_outcome(refused)

    assert (type(refusal), refusal.extra, refusal.replayed) == (errors.Busy, {"retry_after_ms": 100}, True)
    assert errors.of_outcome({"code": "opened"}) is None


def test_a_refusal_of_a_newer_versions_function_goes_out_with_its_code() -> None:
    """The version before serves on the new schema until it is replaced."""
    refusal = errors.of_outcome({"code": "of_tomorrow", "refused": True, "largest": 2})

    assert refusal is not None
    assert (refusal.code, refusal.status, refusal.extra) == ("of_tomorrow", 409, {"largest": 2})
    with pytest.raises(RuntimeError, match="of_tomorrow"):
        errors.of_code("of_tomorrow")


def test_the_documentation_has_every_code() -> None:
    rows = documented()

    assert {code: row[:2] for code, row in rows.items()} == expected()
    assert list(rows) == sorted(rows)
    assert all(meaning.endswith(".") and do.endswith(".") for _, _, meaning, do in rows.values())


def test_the_documentation_says_that_only_a_500_may_be_repeated() -> None:
    for code, (status, retry) in expected().items():
        assert (status < 500) or retry == "same_key", code


def test_a_refusal_is_a_problem_document() -> None:
    document = problem.of(errors.Busy(retry_after_ms=1500), "a-request")

    assert document == {
        "type": "/problems/busy",
        "title": "Conflict",
        "status": 409,
        "detail": errors.Busy.detail,
        "code": "busy",
        "retry": "same_key",
        "request_id": "a-request",
        "server_time": document["server_time"],
        "retry_after_ms": 1500,
    }
    assert problem.response(document)["Retry-After"] == "2"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("55P03", "busy"),
        ("40P01", "busy"),
        ("40001", "busy"),
        ("57014", "busy"),
        ("22003", "invalid"),
        ("57P01", "unavailable"),
        (None, "unavailable"),
    ],
)
def test_a_temporary_failure_of_the_database_may_be_repeated(state: str | None, code: str) -> None:
    fault = OperationalError()
    fault.__cause__ = psycopg.errors.lookup(state)() if state else psycopg.OperationalError()

    assert problem.of_database(fault).code == code


def test_a_violated_constraint_is_a_bug() -> None:
    from django.db import IntegrityError

    fault = IntegrityError()
    fault.__cause__ = psycopg.errors.UniqueViolation()

    assert problem.of_database(fault) is None
    assert problem.handle(fault, {"request": APIRequestFactory().get("/"), "view": None}) is None


# --- over HTTP


def refused(response: Any, status: Any, code: Any) -> Any:
    body = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert response["Content-Type"] == "application/problem+json"
    assert body["request_id"] == response["X-Request-ID"]
    assert body.keys() >= {"type", "title", "status", "detail", "code", "retry", "request_id", "server_time"}
    return body


UNKNOWN = [
    "/api", "/api/", "/api/v2", "/api/v2/", "/api/v2/nothing", "/api/v1/trades", "/api/v2/trades/active/1/2/3",
    "/signal", "/signals/", "/signal/open", "/api/%00", "/api/../etc/passwd", "/api/schema",
]  # fmt: skip


def test_an_unknown_route_is_a_problem(client: Client, desk_db: str) -> None:
    for path in UNKNOWN:
        for method in ("get", "post", "delete"):
            refused(getattr(client, method)(path, HTTP_HOST=HOST), 404, "not_found")


def test_an_unsupported_method_gets_the_supported_ones(lena_bot: Bot, client: Client) -> None:
    body = refused(lena_bot.send("PUT", fields={}), 405, "method_not_allowed")
    assert body["retry"] == "never"
    assert lena_bot.send("PUT", fields={})["Allow"] == "GET, POST, HEAD, OPTIONS"
    answer = client.post("/api/v2/time", HTTP_HOST=HOST)
    refused(answer, 405, "method_not_allowed")
    assert answer["Allow"] == "GET, HEAD, OPTIONS"


def test_an_unsupported_representation_is_not_acceptable(client: Client, desk_db: str) -> None:
    answer = client.get("/api/v2/time", HTTP_HOST=HOST, headers={"Accept": "application/xml"})

    refused(answer, 406, "not_acceptable")


def test_an_anonymous_request_is_not_authenticated(client: Client, desk_db: str) -> None:
    answer = client.get("/api/v2/trades/history", HTTP_HOST=HOST)

    refused(answer, 401, "not_authenticated")
    assert answer["WWW-Authenticate"]


def test_an_unknown_host_is_malformed_on_every_route_of_the_api(
    lena_bot: Bot, client: Client, finn: TradingAccount
) -> None:
    client.force_login(finn.owner)
    for path in ("/api/v2/trades/history", "/api/v2/trades/active", "/signals", "/api/nothing"):
        answer = client.get(path, HTTP_HOST="evil.example")

        assert (answer.status_code, answer["Content-Type"]) in (
            (400, "application/problem+json"),
            (404, "application/problem+json"),
        ), path
        assert b"ALLOWED_HOSTS" not in answer.content


@pytest.fixture
def in_production(settings: Settings, tmp_path: Path) -> dict[str, Any]:
    settings.DEBUG, settings.STATIC_ROOT = False, tmp_path
    settings.SECURE_PROXY_SSL_HEADER, settings.TRUSTED_PROXIES = ("HTTP_X_FORWARDED_PROTO", "https"), 1
    return {"headers": {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}}


def test_a_bug_is_logged_with_its_traceback(
    client: Client, desk_db: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from trades import api

    def broken(*_: Any) -> Any:
        raise RuntimeError("the inside of the desk")

    monkeypatch.setattr(api.Time, "get", broken)
    client.raise_request_exception = False
    client.get("/api/v2/time", HTTP_HOST=HOST)

    (record,) = [record for record in caplog.records if record.exc_info]
    assert "the inside of the desk" in str(record.exc_info)


def test_a_bug_is_a_problem_without_its_traceback(
    in_production: dict[str, Any], client: Client, desk_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trades import api

    def broken(*_: Any) -> Any:
        raise RuntimeError("the inside of the desk")

    monkeypatch.setattr(api.Time, "get", broken)
    client.raise_request_exception = False

    answer = client.get("/api/v2/time", HTTP_HOST=HOST)

    body = refused(answer, 500, "internal")
    assert body["retry"] == "same_key"
    assert b"inside" not in answer.content
    assert b"Traceback" not in answer.content


def test_a_bug_in_a_signed_request_is_a_problem_with_unknown_outcome(
    in_production: dict[str, Any], lena_bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trades import services

    real = services.run_signed

    def broken(*args: Any) -> None:
        real(*args)
        raise RuntimeError("after the commit")

    monkeypatch.setattr(services, "run_signed", broken)
    effect = "open-000000000000001"

    answer = lena_bot.send("POST", fields=opening("1"), effect=effect, but=in_production)

    refused(answer, 500, "internal")
    assert b"after the commit" not in answer.content
    monkeypatch.setattr(services, "run_signed", real)
    again = lena_bot.send("POST", fields=opening("1"), effect=effect, but=in_production)
    assert (again.status_code, again["Idempotency-Replayed"]) == (201, "true")


def test_an_unreachable_database_is_unavailable_and_may_be_repeated(
    lena_bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trades import services

    def away(*_: Any) -> Any:
        raise OperationalError from psycopg.OperationalError("connection refused to 10.0.0.7")

    monkeypatch.setattr(services, "run_signed", away)

    answer = lena_bot.send("POST", fields=opening("1"))

    body = refused(answer, 503, "unavailable")
    assert (body["retry"], answer["Retry-After"]) == ("same_key", "1")
    assert b"10.0.0.7" not in answer.content


def test_a_callers_request_id_is_kept_apart_from_the_desks(client: Client, desk_db: str) -> None:
    """Somebody who sends the id of another request must not be found under it."""
    for given, is_kept in (("0123-abcd.EF_", True), ("short", False), ("x" * 65, False), ("a b c d e f", False)):
        answers = [client.get("/api/nothing", HTTP_HOST=HOST, headers={"X-Request-ID": given}) for _ in range(2)]

        ids = {answer["X-Request-ID"] for answer in answers}
        assert len(ids) == 2 and given not in ids
        assert ids == {answer.json()["request_id"] for answer in answers}
        assert [answer.get("X-Caller-Request-ID") for answer in answers] == [given if is_kept else None] * 2
