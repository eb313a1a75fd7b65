"""A bot's connection to the desk: signs each request, checks each answer, repeats what is safe to repeat.

No answer, or a 5xx, means that the outcome is unknown. The client then repeats the request with a new time and number
and the *same* Idempotency-Key, so that its effect happens at most once. `protocol` makes the decisions, this module
sends. `aclient` is the same for asyncio.
"""

import functools
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from copybot.errors import AnswerForged, DeskError, Transport
from copybot.protocol import Answer, Attempt, Call, Line, Repeat, encoded, query_of

__all__ = ["ACTIVE", "Answer", "AnswerForged", "Client", "DeskError", "Transport"]

ACTIVE = "/api/v2/trades/active"
ORDERS = "/api/v2/trades/orders"
HEARTBEAT = "/api/v2/copier/beat"
SKIPS = "/api/v2/copier/skips"
ACCOUNT = "/api/v2/account"
TIME = "/api/v2/time"
MOST_BYTES = 64 * 1024 * 1024


@dataclass
class Client(Line):
    """One key's connection. A key is for one sender at a time: threads that share a client wait for each other.

    `attempts` and `patience_s` bound a call as a whole, `timeout_s` bounds each attempt. A call raises a DeskError of
    `errors` if the desk refused, Transport if no certain answer came, AnswerForged if the answers were not the desk's.
    Every write takes an `idempotency_key`, which names its effect: use the same key for the same effect, also after a
    crash. Without a key each call is an effect of its own. `etag`: the last snapshot's.
    """

    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, kw_only=True)
    _http: httpx.Client | None = field(default=None, init=False, repr=False)
    _turn: Any = field(default_factory=threading.RLock, init=False, repr=False)

    # --- trades

    def active(self, *, etag: str = "") -> Any:
        """The snapshot; None if it still has this `etag`. Sets `self.etag`: its ETag, if the desk signed that."""
        answer = self._finish(Call(self, "GET", ACTIVE, etag=etag))
        return None if answer.status == 304 else answer.json()

    def open(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        return self.send("POST", ACTIVE, fields, idempotency_key=idempotency_key).json()

    def modify(self, ticket: str, *, idempotency_key: str = "", **stops: Any) -> Any:
        return self.send("PATCH", f"{ACTIVE}/{ticket}", stops, idempotency_key=idempotency_key).json()

    def reduce(self, ticket: str, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Close a part. `volume`: the lots that remain open."""
        return self.send("POST", f"{ACTIVE}/{ticket}/reduce", fields, idempotency_key=idempotency_key).json()

    def close(self, ticket: str, *, idempotency_key: str = "", **query: Any) -> Any:
        return self.send("DELETE", f"{ACTIVE}/{ticket}", query=query, idempotency_key=idempotency_key).json()

    # --- a copier's reports

    def heartbeat(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Report the held copies and renew the lease. Raises LeaseLost if a newer instance has it."""
        return self.send("POST", HEARTBEAT, fields, idempotency_key=idempotency_key).json()

    def skip(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Report why a trade is not copied."""
        return self.send("POST", SKIPS, fields, idempotency_key=idempotency_key).json()

    def report_order(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Report an order's execution; the answer has its slippage."""
        return self.send("POST", ORDERS, fields, idempotency_key=idempotency_key).json()

    def account(self) -> Any:
        """What the desk knows of the key's account: its currency, its copier's lease, its subscriptions."""
        return self.send("GET", ACCOUNT).json()

    def time(self) -> Any:
        """The desk's time from an unsigned answer, for display only. Use `desk_ms`, which signed answers set."""
        try:
            return self._connected().get(f"{self.origin}{TIME}").json()
        except (httpx.HTTPError, ValueError) as fault:
            raise Transport(f"no answer to GET {TIME}: {fault}") from fault

    # --- any request

    def send(
        self,
        method: str,
        path: str,
        fields: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
    ) -> Answer:
        """Send a request until its outcome is known. Raises DeskError if the desk refused it."""
        body = b"" if fields is None else encoded(fields)
        return self._finish(Call(self, method, path, query_of(query), body, idempotency_key))

    def once(self, method: str, path: str, query: str, body: bytes, effect: str) -> Answer:
        """One attempt; returns its answer, refusals too. Raises Transport, or AnswerForged if the desk did not sign."""
        with self._turn:
            self._connected()
            attempt = self.attempt(method, path, query, body, effect)
            try:
                answer = self._exchange(attempt)
            except httpx.HTTPError as fault:
                raise Transport(f"no answer to {method} {path}: {fault}", idempotency_key=effect) from fault
            self.check(answer, attempt)
            return answer

    def headers(self, method: str, path: str, query: str = "", body: bytes = b"", effect: str = "") -> dict[str, str]:
        with self._turn:
            return super().headers(method, path, query, body, effect)

    def hang_up(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _finish(self, call: Call) -> Answer:
        while True:
            outcome = self._step(call)
            if isinstance(outcome, Answer):
                return outcome
            self.sleep(outcome.after_s)

    def _step(self, call: Call) -> Answer | Repeat:
        with self._turn:
            self._connected()  # connect before signing: the signature's time window is short
            try:
                answer = self._exchange(call.next())
            except httpx.HTTPError as fault:
                return call.failed(fault)
            return call.judge(answer)

    def _exchange(self, attempt: Attempt) -> Answer:
        """Read the whole answer, within the time and the size allowed."""
        until_s, body = self.monotonic_s() + self.timeout_s, bytearray()
        response = self._connected().stream(
            attempt.method, attempt.url, headers=attempt.headers, content=attempt.body or None
        )
        with response as raw:
            for chunk in raw.iter_raw():
                body += chunk
                if self.monotonic_s() > until_s or len(body) > MOST_BYTES:
                    raise httpx.ReadTimeout("the answer is too slow, or too long")
            return Answer(raw.status_code, {name.lower(): value for name, value in raw.headers.items()}, bytes(body))

    def _connected(self) -> httpx.Client:
        if self._http is None:
            self._http = httpx.Client(timeout=self.timeout_s, trust_env=False, headers=PLAIN, verify=trusted())
        return self._http


@functools.cache
def trusted() -> ssl.SSLContext:
    """The trusted certificate authorities. Cached, because reading them takes longer than a request."""
    return httpx.create_ssl_context(trust_env=False)


# No compression: the signature covers the bytes on the wire.
PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "copybot"}
