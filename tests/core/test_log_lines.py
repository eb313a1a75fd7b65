"""Each log line says whose request it belongs to: user, key and address."""

import json
from typing import Any

import pytest
import structlog
from django.test import Client, RequestFactory
from structlog.testing import capture_logs

from accounts.models import User
from config.logging import _with_caller
from config.middleware import RequestLog
from core.requests import DeskRequest
from tests.signed import HOST, Bot
from trades import consumers


def line(logs: Any) -> Any:
    return next(entry for entry in logs if entry["event"] == "request")


def test_a_bots_line_has_key_and_address(lena_bot: Bot) -> None:
    with capture_logs() as logs:
        lena_bot.send("GET")

    assert (line(logs)["key"], line(logs)["ip"], line(logs)["user"]) == (lena_bot.key, "127.0.0.1", None)


def test_a_persons_line_has_user_and_address_also_when_signing_in_and_out(cast: dict[str, Any]) -> None:
    client, lena = Client(headers={"Host": HOST}), User.objects.get(username="lena")
    form = {"username": "lena", "password": cast["users"]["lena"]["password"]}
    for method, path, data in (("post", "/login/", form), ("get", "/", None), ("post", "/logout/", None)):
        with capture_logs() as logs:
            assert getattr(client, method)(path, data).status_code in (200, 302)

        assert (line(logs)["user"], line(logs)["ip"], line(logs)["key"]) == (str(lena.pk), "127.0.0.1", None), path
        assert "lena" not in str(line(logs))


def test_a_strangers_line_has_the_address_and_the_id_that_they_sent(desk_db: str) -> None:
    with capture_logs() as logs:
        answer = Client(headers={"Host": HOST}).get("/login/", headers={"X-Request-ID": "trace-0123456789"})

    found = line(logs)
    assert (found["ip"], found["user"], found["caller_request_id"]) == ("127.0.0.1", None, "trace-0123456789")
    assert found["request_id"] == answer["X-Request-ID"] != "trace-0123456789"


def test_other_lines_of_a_request_have_its_caller_too() -> None:
    written: list[Any] = []

    def view(request: DeskRequest) -> Any:
        written.append(_with_caller(None, "info", {"event": "something"}))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        RequestLog(view)(RequestFactory().get("/x", REMOTE_ADDR="203.0.113.7"))

    assert written[0]["ip"] == "203.0.113.7"
    assert len(written[0]["request_id"]) == 32
    assert _with_caller(None, "info", {"event": "later"}) == {"event": "later"}
    assert _with_caller in structlog.get_config()["processors"]


def test_a_sockets_line_has_its_caller(desk_db: str) -> None:
    scope: dict[str, Any] = {
        "path": "/ws/v2/active",
        "client": ("203.0.113.7", 1),
        "headers": [(b"host", HOST.encode())],
    }
    with capture_logs() as logs, pytest.raises(consumers.OriginDenied):
        consumers._watcher(scope, None)

    (found,) = [entry for entry in logs if entry["event"] == "socket"]
    assert (found["ip"], found["outcome"], found["request_id"]) == ("203.0.113.7", "origin_denied", scope["request_id"])


def test_a_line_is_json_with_its_time_in_utc() -> None:
    text = 'a line\n{"event": "forged"}'
    rendered = structlog.get_config()["processors"]
    line: Any = {"event": text}
    for processor in rendered:
        line = processor(None, "info", line)

    assert b"\n" not in line
    assert json.loads(line)["event"] == text
    assert json.loads(line)["timestamp"].endswith("Z")
