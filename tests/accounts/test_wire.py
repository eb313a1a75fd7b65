"""Over a real socket, without a client library: bytes that a client or a proxy might read in another way than the desk.

None of them has an effect that its bot has not signed.
"""

import contextlib
import json
import re
import select
import socket
import time
from typing import Any

import pytest

from tests.accounts.test_tampering import ACTIVE, HEADERS, other
from tests.conftest import Serving
from tests.signed import Bot, opening


def _is_whole(answer: Any) -> Any:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


class Wire:
    """A raw connection to a web process."""

    def __init__(self, web: Serving, key: Any) -> None:
        self.port, self.bot = web.port, Bot(key)
        self.host = f"127.0.0.1:{web.port}"

    def signed(
        self,
        ticket: str = "1",
        *,
        path: Any = ACTIVE,
        method: str = "POST",
        body: Any = None,
        query: str = "",
        **parts: Any,
    ) -> Any:
        """Return the header lines of a signed open."""
        body = json.dumps(opening(ticket)).encode() if body is None else body
        request = self.bot.request(method, path, body=body, query=query, host=self.host, **parts)
        lines = {"Host": self.host, **request.headers(), "Content-Length": str(len(body))}
        if body:
            lines["Content-Type"] = "application/json"
        return lines, body

    def send(self, target: Any, lines: Any, body: bytes = b"", method: str = "POST", version: str = "HTTP/1.1") -> Any:
        """Return the response's status and body. `lines` may be a list of pairs with repeated names."""
        pairs = lines.items() if isinstance(lines, dict) else lines
        head = b"".join(
            (name if isinstance(name, bytes) else name.encode()) + b": " + value.encode("latin-1") + b"\r\n"
            for name, value in pairs
        )
        target = target if isinstance(target, bytes) else target.encode()
        return self.raw(method.encode() + b" " + target + b" " + version.encode() + b"\r\n" + head + b"\r\n" + body)

    def raw(self, sent: Any, patience_s: float = 60.0) -> Any:
        """Return the first response; status 0 where the server closes without one or waits for more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience_s) as line:
            line.sendall(sent)
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while (piece := line.recv(65_536)) and not _is_whole(answer := answer + piece):
                    pass
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else 0, body

    def count(self) -> Any:
        lines, _ = self.signed(method="GET", body=b"")
        status, body = self.send(ACTIVE, {**lines, "Connection": "close"}, method="GET")
        assert status == 200
        return json.loads(body)["count"]


@pytest.fixture
def wire(web: Serving, cast: dict[str, Any]) -> Wire:
    return Wire(web, next(key for key in cast["keys"] if (key["owner"], key["kind"]) == ("lena", "master")))


def test_the_wire_carries_what_is_signed(wire: Wire) -> None:
    lines, body = wire.signed()

    assert wire.send(ACTIVE, {**lines, "Connection": "close"}, body)[0] == 201
    assert wire.count() == 1


TARGETS: dict[str, Any] = {
    "a letter encoded": b"/api/v2/trades/%61ctive",
    "a slash encoded": b"/api/v2/trades%2Factive",
    "a dot segment": b"/api/v2/./trades/active",
    "a parent segment": b"/api/v2/x/../trades/active",
    "an encoded parent": b"/api/v2/x/%2e%2e/trades/active",
    "two slashes": b"/api/v2//trades/active",
    "two slashes first": b"//api/v2/trades/active",
    "a slash at the end": b"/api/v2/trades/active/",
    "a parameter": b"/api/v2/trades/active;a=1",
    "NUL encoded": b"/api/v2/trades/active%00",
    "NUL": b"/api/v2/trades/active\x00",
    "LF encoded": b"/api/v2/trades/active%0a",
    "a tab": b"/api/v2/trades/active\t",
    "eight bits": b"/api/v2/trades/active\xe9",
    "eight bits encoded": b"/api/v2/trades/active%e9",
    "UTF-8": "/api/v2/trades/аctive".encode(),
    "a backslash": b"\\api\\v2\\trades\\active",
    "capitals": b"/API/V2/TRADES/ACTIVE",
    "eight bits in the query": b"/api/v2/trades/active?a=\xe9",
    "an encoded query": b"/api/v2/trades/active?a=%31",
    "a query": b"/api/v2/trades/active?a=1",
    "a question mark alone": b"/api/v2/trades/active??",
    "another host's address": b"http://evil.example/api/v2/trades/active?b",
    "an asterisk": b"*",
    "a blank": b"/api/v2/trades/active /",
    "nothing": b"",
}


def test_another_spelling_of_the_signed_path_is_refused(wire: Wire) -> None:
    for what, target in TARGETS.items():
        for path in {ACTIVE, target.decode("latin-1").partition("?")[0]}:
            lines, body = wire.signed(path=path) if path.isascii() and "\0" not in path else wire.signed()

            status, _ = wire.send(target, {**lines, "Connection": "close"}, body)

            assert status in (400, 401, 403, 404, 0), (what, path, status)
    assert wire.count() == 0


PLAIN = {"Content-Type": "text/plain", "Host": "evil.example", "Content-Length": "1"}


def test_a_repeated_signed_header_is_refused(wire: Wire) -> None:
    for name in (*HEADERS, "Content-Type", "Host", "Content-Length"):
        for twin in ("the same", "another"):
            lines, body = wire.signed()
            second = lines[name] if twin == "the same" else PLAIN.get(name) or other(wire.bot, name)

            status, said = wire.send(ACTIVE, [("Connection", "close"), *lines.items(), (name, second)], body)

            assert status in (400, 0), (name, twin, status, said)
    assert wire.count() == 0


def test_a_header_with_underscores_does_not_replace_the_signed_one(wire: Wire) -> None:
    """In WSGI, X_Cd_Seq and X-Cd-Seq are the same name."""
    for name in HEADERS:
        lines, body = wire.signed()
        value = lines.pop(name)

        lines |= {name.replace("-", "_"): value, "Connection": "close"}
        status, _ = wire.send(ACTIVE, lines, body)

        assert status == 400 or name == "X-Cd-Window", name


FRAMINGS = {
    "a length and chunks": ([("Transfer-Encoding", "chunked")], b"%x\r\n%s\r\n0\r\n\r\n"),
    "two lengths": ([("Content-Length", "0")], b"%s"),
    "a length below zero": ([("Content-Length", "-1")], b"%s"),
    "a coding of the transfer": ([("Transfer-Encoding", "gzip")], b"%s"),
    "a coding hidden by a tab": ([("Transfer-Encoding", "\tchunked")], b"%x\r\n%s\r\n0\r\n\r\n"),
    "a name with a blank": ([(b"Transfer-Encoding ", "chunked")], b"%x\r\n%s\r\n0\r\n\r\n"),
}


def test_conflicting_lengths_are_refused(wire: Wire) -> None:
    for what, (more, shape) in FRAMINGS.items():
        lines, body = wire.signed()
        sent = shape.replace(b"%x", b"%x" % len(body)).replace(b"%s", body)

        status, said = wire.send(ACTIVE, [("Connection", "close"), *lines.items(), *more], sent)

        assert status in (400, 501, 0), (what, status, said)
    assert wire.count() == 0


def test_a_chunked_body_is_read_or_refused_but_never_treated_as_empty(wire: Wire) -> None:
    lines, body = wire.signed()
    del lines["Content-Length"]
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    status, said = wire.send(ACTIVE, {**lines, "Transfer-Encoding": "chunked", "Connection": "close"}, chunks)

    assert status == 201 or (status, json.loads(said)["code"]) == (400, "request_malformed")


def test_a_request_hidden_in_a_body_is_not_executed(wire: Wire) -> None:
    """Bytes beyond the length are another request, which needs a signature of its own."""
    lines, body = wire.signed()
    hidden = b"POST /api/v2/trades/active HTTP/1.1\r\nHost: " + wire.host.encode() + b"\r\n\r\n"

    status, _ = wire.send(ACTIVE, lines, body + hidden)

    assert status == 201
    assert wire.count() == 1


HEADS = {
    "folded": b"X-Cd-Note: a\r\n folded",
    "a blank before the colon": b"X-Cd-Note : a",
    "no colon": b"X-Cd-Note",
    "no name": b": a",
    "NUL": b"X-Cd-Note: a\x00b",
    "CR": b"X-Cd-Note: a\rb",
    "eight bits in a name": b"X-Cd-\xe9: a",
}


def test_a_malformed_http_head_is_refused(wire: Wire) -> None:
    for what, head in HEADS.items():
        lines, body = wire.signed()
        written = b"".join(f"{name}: {value}\r\n".encode() for name, value in lines.items())

        status, _ = wire.raw(b"POST /api/v2/trades/active HTTP/1.1\r\n" + head + b"\r\n" + written + b"\r\n" + body)

        assert status in (400, 0), what
    lines, body = wire.signed()
    assert wire.send(ACTIVE, lines, body, method="post")[0] in (400, 0)
    assert wire.count() == 0


def test_a_truncated_body_has_no_effect(wire: Wire) -> None:
    lines, body = wire.signed()

    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, "Content-Length": str(len(body) + 10)}.items())
    status, _ = wire.raw(f"POST {ACTIVE} HTTP/1.1\r\n{head}\r\n".encode() + body, patience_s=0.3)

    assert status == 0
    assert wire.count() == 0


def test_clients_that_never_send_their_body_delay_nobody(wire: Wire) -> None:
    idle = [socket.create_connection(("127.0.0.1", wire.port)) for _ in range(40)]
    try:
        for line in idle:
            lines, _ = wire.signed()
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            line.sendall(f"POST {ACTIVE} HTTP/1.1\r\n{head}\r\n".encode())
        time.sleep(0.2)
        assert wire.count() == 0
        answered, _, _ = select.select(idle, [], [], 0)
        assert answered == []  # the server still waits for each of them
    finally:
        for line in idle:
            line.close()
