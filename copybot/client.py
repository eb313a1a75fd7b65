"""A bot's connection to the desk: signs each request, checks each answer, repeats what is safe to repeat.

No answer, or a 5xx, means that the outcome is unknown. The request is then repeated with a new time and number and
the *same* Idempotency-Key, so that its effect happens at most once. What is decided lies in `protocol`; here it is
sent. `aclient` has the same for asyncio.
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
TIME = "/api/v2/time"
MOST_BYTES = 64 * 1024 * 1024


@dataclass
class Client(Line):
    """One key's connection. A key is for one sender at a time: threads that share a client wait for each other.

    `attempts` and `patience_s` bound a call as a whole, `timeout_s` each attempt. Calls raise a DeskError of `errors`
    where the desk refused, Transport where no certain answer came, AnswerForged where the answers were not the desk's.
    Every write takes an `idempotency_key`, which names its effect: the same one for the same effect, also after a
    crash. Without one each call is an effect of its own. `etag`: that of the last snapshot.
    """

    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, kw_only=True)
    _http: httpx.Client | None = field(default=None, init=False, repr=False)
    _turn: Any = field(default_factory=threading.RLock, init=False, repr=False)

    # --- trades

    def active(self, *, etag: str = "") -> Any:
        """The snapshot; None where it is still the one of this `etag`."""
        answer = self._finish(Call(self, "GET", ACTIVE, etag=etag))
        self.etag = answer.headers.get("etag", "")
        return None if answer.status == 304 else answer.json()

    def open(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        return self.send("POST", ACTIVE, fields, idempotency_key=idempotency_key).json()

    def modify(self, ticket: str, *, idempotency_key: str = "", **stops: Any) -> Any:
        return self.send("PATCH", f"{ACTIVE}/{ticket}", stops, idempotency_key=idempotency_key).json()

    def reduce(self, ticket: str, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Partial close. `volume` is what must remain."""
        return self.send("POST", f"{ACTIVE}/{ticket}/reduce", fields, idempotency_key=idempotency_key).json()

    def close(self, ticket: str, *, idempotency_key: str = "", **query: Any) -> Any:
        return self.send("DELETE", f"{ACTIVE}/{ticket}", query=query, idempotency_key=idempotency_key).json()

    # --- a copier's reports

    def heartbeat(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Say what is held, and have the lease renewed. Raises LeaseLost where a newer instance has it."""
        return self.send("POST", HEARTBEAT, fields, idempotency_key=idempotency_key).json()

    def skip(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Say why a trade is not copied."""
        return self.send("POST", SKIPS, fields, idempotency_key=idempotency_key).json()

    def report_order(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Say how an order fared; the answer has its slippage."""
        return self.send("POST", ORDERS, fields, idempotency_key=idempotency_key).json()

    def time(self) -> Any:
        """The desk's time, unsigned: to be looked at, not to be trusted. `desk_ms` is what signed answers told."""
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
        """Send one request to its end: repeat while the outcome is unknown, raise DeskError where it was refused."""
        body = b"" if fields is None else encoded(fields)
        return self._finish(Call(self, method, path, query_of(query), body, idempotency_key))

    def once(self, method: str, path: str, query: str, body: bytes, effect: str) -> Answer:
        """One attempt, whatever its answer. Raises Transport, and AnswerForged where the desk did not sign it."""
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
            found = self._step(call)
            if isinstance(found, Answer):
                return found
            self.sleep(found.after_s)

    def _step(self, call: Call) -> Answer | Repeat:
        with self._turn:
            self._connected()  # before it is signed: the signature's time runs
            try:
                answer = self._exchange(call.next())
            except httpx.HTTPError as fault:
                return call.failed(fault)
            return call.judge(answer)

    def _exchange(self, attempt: Attempt) -> Answer:
        """The whole of the answer, within the time and the size that an answer may have."""
        until_s, body = self.monotonic_s() + self.timeout_s, bytearray()
        asked = self._connected().stream(
            attempt.method, attempt.url, headers=attempt.headers, content=attempt.body or None
        )
        with asked as raw:
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
    """The authorities that a desk's certificate may come from. Reading them takes longer than a request."""
    return httpx.create_ssl_context(trust_env=False)


# What is signed is what is on the wire: nothing is packed on the way.
PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "copybot"}
