"""A bot's connection to the desk: signs each request, checks each answer, repeats what is safe to repeat.

No answer, or a 5xx, means that the outcome is unknown. The request is then repeated with a new time and number and
the *same* Idempotency-Key, so that its effect happens at most once.
"""

import http.client
import json
import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from copybot import signing

_SAFE_TO_REPEAT = {"new_seq", "same_key", "after"}


class DeskError(Exception):
    """The desk refused. `code` is stable, `problem` the whole document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem.get('code', 'unknown')}: {problem.get('detail', '')}")
        self.status, self.problem = status, problem

    @property
    def code(self) -> str:
        return str(self.problem.get("code", ""))


class AnswerForged(Exception):
    """The answer to a signed request was not signed by the desk. It must not be acted on."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Client:
    """One key's connection. Not to be shared between threads: a key is for one sender at a time."""

    url: str
    key: str
    secret: str = field(repr=False)
    window_ms: int = 5000
    timeout_s: float = 10
    attempts: int = 6
    seq: int = field(default_factory=lambda: time.time_ns() // 1000)
    clock_offset_ms: int = 0
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def open(self, **fields: Any) -> Any:
        return self.send("POST", "/api/v2/trades/active", fields).json()

    def modify(self, ticket: str, **stops: Any) -> Any:
        return self.send("PATCH", f"/api/v2/trades/active/{ticket}", stops).json()

    def reduce(self, ticket: str, **fields: Any) -> Any:
        return self.send("POST", f"/api/v2/trades/active/{ticket}/reduce", fields).json()

    def close(self, ticket: str, **query: str) -> Any:
        return self.send("DELETE", f"/api/v2/trades/active/{ticket}", query=query).json()

    def active(self) -> Any:
        return self.send("GET", "/api/v2/trades/active").json()

    def send(
        self,
        method: str,
        path: str,
        fields: Any = None,
        *,
        query: dict[str, str] | None = None,
        idempotency_key: str = "",
    ) -> Answer:
        """Send one request to its end: repeat while the outcome is unknown, raise DeskError where it was refused."""
        effect = "" if method == "GET" else idempotency_key or f"{method.lower()}-{secrets.token_hex(12)}"
        body = b"" if fields is None else json.dumps(fields, default=str).encode()
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - jitter, not a secret
            try:
                answer = self.once(method, path, urlencode(query or {}), body, effect)
            except (OSError, http.client.HTTPException):
                self.hang_up()
                continue
            if answer.status < 400:
                return answer
            problem = answer.json() if answer.headers.get("content-type", "").startswith("application/problem") else {}
            if answer.status < 500 and not self._may_repeat(problem):
                raise DeskError(answer.status, problem)
        raise ConnectionError(f"no certain answer to {method} {path} in {self.attempts} attempts")

    def _may_repeat(self, problem: dict[str, Any]) -> bool:
        """Learn from a refusal what the next attempt needs; whether there should be one."""
        if problem.get("code") == "clock_outside_window":
            self.clock_offset_ms = int(problem["server_time"]) - time.time_ns() // 1_000_000
        if problem.get("code") == "seq_replayed":
            self.seq = max(self.seq, int(problem.get("last_seq", 0)))
        if "retry_after_ms" in problem:
            time.sleep(int(problem["retry_after_ms"]) / 1000)
        return problem.get("retry") in _SAFE_TO_REPEAT

    def headers(self, method: str, path: str, query: str = "", body: bytes = b"", effect: str = "") -> dict[str, str]:
        """The signed headers of one request, with the next number."""
        self.seq += 1
        time_ms = time.time_ns() // 1_000_000 + self.clock_offset_ms
        parts = urlsplit(self.url)
        signature = signing.sign(
            self.secret, method=method, host=parts.netloc.lower().removesuffix(":443"), path=path, query=query,
            key=self.key, time_ms=time_ms, window_ms=self.window_ms, seq=self.seq, idempotency_key=effect, body=body,
        )  # fmt: skip
        named = {
            "X-Cd-Key": self.key,
            "X-Cd-Time": str(time_ms),
            "X-Cd-Window": str(self.window_ms),
            "X-Cd-Seq": str(self.seq),
            "X-Cd-Sig": f"v1={signature}",
        }
        if effect:
            named["Idempotency-Key"] = effect
        if body:
            named["Content-Type"] = "application/json"
        return named

    def once(self, method: str, path: str, query: str, body: bytes, effect: str) -> Answer:
        """One attempt. Raises AnswerForged where the desk's signature is missing or wrong on a verified request."""
        headers = self.headers(method, path, query, body, effect)
        connection = self._connected()
        connection.request(method, f"{path}?{query}" if query else path, body or None, headers)
        raw = connection.getresponse()
        answer = Answer(raw.status, {name.lower(): value for name, value in raw.getheaders()}, raw.read())
        signed = "x-cd-response-sig" in answer.headers
        if (signed or answer.status < 400) and not self._is_genuine(answer, headers["X-Cd-Sig"]):
            raise AnswerForged(f"{method} {path}")
        return answer

    def _is_genuine(self, answer: Answer, signature: str) -> bool:
        return signing.answers(
            self.secret,
            request_signature=signature.removeprefix("v1="),
            status=answer.status,
            time_ms=answer.headers.get("x-cd-response-time", ""),
            body=answer.body,
            response_signature=answer.headers.get("x-cd-response-sig", ""),
        )

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            parts = urlsplit(self.url)
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(parts.netloc, timeout=self.timeout_s)
        return self._connection

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
