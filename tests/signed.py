"""Signed requests through Django's test client: the whole stack except the web server."""

import itertools
import json
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django.test import Client as DjangoClient

from copybot import signing

HOST = "127.0.0.1:8000"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)  # terms from then on apply to every trade of a test
_effects = itertools.count(1)


@dataclass(frozen=True)
class Request:
    """The signed request. `but` changes what is sent after signing."""

    key: str
    secret: str
    method: str = "GET"
    path: str = "/api/v2/trades/active"
    query: str = ""
    body: bytes = b""
    seq: int = 0
    time_ms: int = 0
    window_ms: int = 30_000  # the longest allowed, for busy machines
    effect: str = ""
    host: str = HOST
    but: dict[str, Any] = field(default_factory=dict)

    def signature(self) -> str:
        return signing.sign(
            self.secret, method=self.method, host=self.host, path=self.path, query=self.query, key=self.key,
            time_ms=self.time_ms, window_ms=self.window_ms, seq=self.seq, idempotency_key=self.effect, body=self.body,
        )  # fmt: skip

    def headers(self) -> dict[str, str]:
        headers = {
            "X-Cd-Key": self.key,
            "X-Cd-Time": str(self.time_ms),
            "X-Cd-Window": str(self.window_ms),
            "X-Cd-Seq": str(self.seq),
            "X-Cd-Sig": f"v1={self.signature()}",
        }
        return headers | ({"Idempotency-Key": self.effect} if self.effect else {})

    def send(self) -> Any:
        """Return Django's response. `but` may have method, path, query, body, host, headers (None omits a header)."""
        headers = {
            name: value
            for name, value in {**self.headers(), **self.but.get("headers", {})}.items()
            if value is not None
        }
        body = self.but.get("body", self.body)
        query = self.but.get("query", self.query)
        path = self.but.get("path", self.path)
        return DjangoClient(headers=headers, raise_request_exception=False).generic(
            self.but.get("method", self.method),
            f"{path}?{query}" if query else path,
            body,
            content_type=self.but.get("content_type", "application/json" if body else ""),
            HTTP_HOST=self.but.get("host", self.host),
            REMOTE_ADDR=self.but.get("ip", "127.0.0.1"),
        )


class Bot:
    """A key with its next sequence number."""

    def __init__(self, key: dict[str, str]) -> None:
        self.key, self.secret = key["key"], key["secret"]
        self.seq = time.time_ns() // 1000

    def request(self, method: str, path: str = "/api/v2/trades/active", fields: Any = None, **more: Any) -> Request:
        """Return a request with the next number, without sending it."""
        self.seq += 1
        body = b"" if fields is None else json.dumps(fields).encode()
        effect = "" if method == "GET" else f"effect-{next(_effects):012d}"
        signed = Request(
            self.key,
            self.secret,
            method,
            path,
            body=body,
            seq=self.seq,
            time_ms=time.time_ns() // 1_000_000,
            effect=effect,
        )
        return replace(signed, **more)

    def send(self, method: str, path: str = "/api/v2/trades/active", fields: Any = None, **more: Any) -> Any:
        return self.request(method, path, fields, **more).send()


def opening(ticket: str | int = "987654", **more: Any) -> dict[str, Any]:
    """The fields of an ordinary open."""
    return {
        "ticket_id": str(ticket),
        "symbol": "EURUSD",
        "type": "BUY",
        "volume": "0.10000000",
        "open_price": "1.10500000",
        "sl": "1.10000000",
        "tp": "1.12000000",
        **more,
    }
