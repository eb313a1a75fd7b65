"""Clients of the real server process that send or read too slowly, or hold too many connections, are ended."""

import json
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from accounts.models import User
from config import http_connections, web_server
from core import descriptors
from tests import ports
from tests.conftest import ROOT, Serving
from tests.signed import opening
from tests.sockets import watch, watch_as_bot
from trades.places import Places, TooManySockets

HEAD = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


Connect = Callable[..., socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A function that opens a connection. `receives`: the size of its receive buffer, so that little is on the way to a
    client that does not read.
    """
    opened: list[socket.socket] = []

    def connect(port: int, receives: int = 0) -> socket.socket:
        connection = socket.socket()
        opened.append(connection)
        if receives:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", port))
        return connection

    yield connect
    for connection in opened:
        connection.close()


def ended_after(connection: socket.socket, began: float) -> float:
    """Read until the server ends the connection; return the seconds since `began`."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


def test_half_sent_heads_and_bodies_end(web: Serving, connect: Connect) -> None:
    began = time.monotonic()
    silent, half, second = connect(web.port), connect(web.port), connect(web.port)
    body = connect(web.port)
    half.sendall(HEAD.encode())
    second.sendall(f"{HEAD}\r\n{HEAD}".encode())
    body.sendall(b"POST /login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nuser")

    for connection in (silent, half, second):
        assert http_connections.HEAD_S - 0.5 < ended_after(connection, began) < http_connections.HEAD_S + 4
    assert body.recv(12) == b"HTTP/1.1 408"
    assert ended_after(body, began) < 20


def test_a_head_that_drips_ends_all_the_same(web: Serving, connect: Connect) -> None:
    drip = connect(web.port)
    drip.sendall(HEAD.encode())
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < began + 30:
            drip.sendall(b"X-More: 1\r\n")
            time.sleep(0.5)

    assert time.monotonic() - began < http_connections.HEAD_S + 4


def test_an_endless_head_ends(web: Serving, connect: Connect) -> None:
    endless = connect(web.port)
    endless.sendall(HEAD.encode())
    sent = 0
    with pytest.raises(OSError):
        while sent < 64 * 1024 * 1024:
            endless.sendall(b"X-More: " + b"1" * 1000 + b"\r\n")
            sent += 1010

    assert sent < 8 * 1024 * 1024


def test_a_body_that_comes_on_after_its_answer_ends(web: Serving, connect: Connect) -> None:
    """The answer is 413, before the body is read."""
    endless = connect(web.port)
    began = time.monotonic()
    endless.sendall(b"POST /api/v2/signal/close HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n")
    with pytest.raises(OSError):
        while time.monotonic() < began + 40:
            endless.sendall(b"x" * 100_000)
            time.sleep(0.2)

    assert time.monotonic() - began < 30


@pytest.fixture
def bulky(tmp_path: Path) -> Iterator[int]:
    """The port of the desk's server with an application that answers with 64 MiB at once."""
    (tmp_path / "bulky.py").write_text(
        "async def application(scope, receive, send):\n"
        "    if scope['type'] != 'http':\n"
        "        return\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'x' * 2**26})\n"
    )
    port = ports.free()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    process = subprocess.Popen(web_server.command("bulky:application", port), env=environ, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not web_server.answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield port
    process.terminate()
    process.wait(20)


def test_a_client_that_does_not_read_its_answer_is_ended(bulky: int, connect: Connect) -> None:
    deaf = connect(bulky, receives=4096)
    deaf.sendall(f"{HEAD}\r\n".encode())
    time.sleep(http_connections.WRITE_S + 2)

    size = 0
    with suppress(ConnectionResetError):
        while piece := deaf.recv(1024 * 1024):
            size += len(piece)
    assert 0 < size < 16 * 1024 * 1024


# --- descriptors


LIMIT = 160


@pytest.fixture
def tight(desk_db: str, cast: dict[str, Any]) -> Iterator[Serving]:
    """A web process that may have few descriptors."""
    serving = Serving(desk_db, cast)
    serving.prefix = ("sh", "-c", f'ulimit -n {LIMIT} && exec "$@"', "sh")
    yield serving.start()
    serving.stop()


def metric(web: Serving, name: str) -> float:
    connection = HTTPConnection("127.0.0.1", web.port, timeout=20)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_sockets_leave_descriptors_for_closes_and_are_refused_with_a_code(tight: Serving) -> None:
    lena = tight.bot("lena", "master")
    lena.open(**opening("1"))
    finn = tight.bot("finn", "copier")
    refused: list[Any] = []
    with ExitStack() as open_sockets:
        for _ in range(LIMIT):
            try:
                open_sockets.enter_context(watch_as_bot(finn))
            except InvalidStatus as answer:
                refused.append(answer.response)
        assert 20 < LIMIT - len(refused) <= LIMIT * 3 // 8
        assert {answer.status_code for answer in refused} == {429}
        assert {json.loads(answer.body)["code"] for answer in refused} == {"too_many_sockets"}
        assert {json.loads(answer.body)["of"] for answer in refused} == {"process"}
        assert metric(tight, "copydesk_sockets_refused_total") == len(refused)

        began = time.monotonic()
        lena.close("1", close_price="1.11", profit="1")
        assert time.monotonic() - began < 5
    with watch_as_bot(finn):  # places are given back
        pass


def test_connections_leave_descriptors_for_the_database_and_files(tight: Serving, connect: Connect) -> None:
    lena = tight.bot("lena", "master")
    lena.open(**opening("1"))
    idle = [connect(tight.port) for _ in range(LIMIT)]
    time.sleep(1)
    idle[0].close()
    time.sleep(0.5)

    lena.close("1", close_price="1.11", profit="1")
    assert metric(tight, "copydesk_connections_ended_total") >= LIMIT // 2


@pytest.mark.parametrize(("hard", "connections", "sockets"), [(160, 80, 60), (1024, 928, 696), (10**7, 65_440, 49_080)])
def test_descriptors_are_shared_out(hard: int, connections: int, sockets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    descriptors.limit.cache_clear()
    try:
        assert (descriptors.connections(), descriptors.sockets()) == (connections, sockets)
        assert raised == [(min(hard, descriptors.MOST), hard)]
    finally:
        descriptors.limit.cache_clear()


# --- one caller's sockets


def test_each_kind_of_owner_has_its_most() -> None:
    places = Places({"key": 2, "address": 3}, most_of_all=5)

    def taken(key: str, address: str) -> str:
        block = places.one()
        try:
            places.take(block.__enter__(), [("key", key), ("address", address)])
        except TooManySockets as refusal:
            block.__exit__(None, None, None)
            return str(refusal.extra["of"])
        opened.append(block)
        return ""

    opened: list[Any] = []
    assert [taken("a", "x") for _ in range(3)] == ["", "", "key"]
    assert [taken(key, "x") for key in "bc"] == ["", "address"]
    assert [taken(key, "y") for key in "cc"] == ["", ""]
    with pytest.raises(TooManySockets, match="Too many sockets"):
        places.one().__enter__()
    opened.pop(0).__exit__(None, None, None)
    assert taken("a", "x") == ""
    for block in opened:
        block.__exit__(None, None, None)
    assert (places.all, dict(places.taken)) == (0, {})


def test_one_session_has_a_bounded_number_of_sockets(web: Serving, settings: Any, client: Any) -> None:
    headers = session_headers(web, "finn")
    with ExitStack() as open_sockets:
        for _ in range(settings.SOCKETS["session"]):
            open_sockets.enter_context(watch(web.url, headers))
        with pytest.raises(InvalidStatus) as refused, watch(web.url, headers):
            pass
    assert json.loads(refused.value.response.body)["of"] == "session"
    assert refused.value.response.headers["Retry-After"] == "5"


def session_headers(web: Serving, name: str) -> dict[str, str]:
    from django.test import Client

    visitor = Client()
    visitor.force_login(User.objects.get(username=name))
    return {"Cookie": f"sessionid={visitor.cookies['sessionid'].value}", "Origin": web.url}


def test_one_key_has_a_bounded_number_of_sockets_in_production(serve: Callable[..., Serving]) -> None:
    web = serve(SOCKETS_PER_KEY="3", SOCKETS_PER_ADDRESS="5")
    finn, sam = web.bot("finn", "copier"), web.bot("sam", "copier")

    def opened(bot: Any) -> str:
        try:
            open_sockets.enter_context(watch_as_bot(bot))
        except InvalidStatus as answer:
            return str(json.loads(answer.response.body)["of"])
        return ""

    with ExitStack() as open_sockets:
        assert [opened(finn) for _ in range(4)] == ["", "", "", "key"]
        assert [opened(sam) for _ in range(3)] == ["", "", "address"]


def test_every_server_has_the_same_options() -> None:
    """The unit of production has the limits that are tested here."""
    unit = (ROOT / "ops/systemd/copydesk-web@.service").read_text()

    assert " ".join(web_server.OPTIONS) in unit


@pytest.mark.parametrize(
    "head", [f"{HEAD}\r\n", "GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "no request\r\n\r\n"]
)
def test_no_answer_names_the_server(head: str, web: Serving, connect: Connect) -> None:
    connection = connect(web.port)
    connection.sendall(head.encode())

    lines = connection.recv(65536).decode().lower().splitlines()

    assert lines[0].startswith("http/1.1 ")
    assert not [line for line in lines if line.startswith(("server:", "x-powered-by:"))]
