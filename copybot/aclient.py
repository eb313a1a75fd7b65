"""The connection for asyncio: `client.Client` with `await`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from copybot.client import ACCOUNT, ACTIVE, HEARTBEAT, MOST_BYTES, ORDERS, PLAIN, SKIPS, TIME, trusted
from copybot.errors import Transport
from copybot.protocol import Answer, Attempt, Call, Line, Repeat, encoded, query_of


@dataclass
class AsyncClient(Line):
    """One key's connection in one event loop. Tasks that share it wait for each other. Otherwise like Client."""

    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False, kw_only=True)
    _http: httpx.AsyncClient | None = field(default=None, init=False, repr=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    # --- trades

    async def active(self, *, etag: str = "") -> Any:
        """The snapshot; None if it still has this `etag`. Sets `self.etag`: its ETag, if the desk signed that."""
        answer = await self._finish(Call(self, "GET", ACTIVE, etag=etag))
        return None if answer.status == 304 else answer.json()

    async def open(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        return (await self.send("POST", ACTIVE, fields, idempotency_key=idempotency_key)).json()

    async def modify(self, ticket: str, *, idempotency_key: str = "", **stops: Any) -> Any:
        return (await self.send("PATCH", f"{ACTIVE}/{ticket}", stops, idempotency_key=idempotency_key)).json()

    async def reduce(self, ticket: str, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Close a part. `volume`: the lots that remain open."""
        return (await self.send("POST", f"{ACTIVE}/{ticket}/reduce", fields, idempotency_key=idempotency_key)).json()

    async def close(self, ticket: str, *, idempotency_key: str = "", **query: Any) -> Any:
        return (await self.send("DELETE", f"{ACTIVE}/{ticket}", query=query, idempotency_key=idempotency_key)).json()

    # --- a copier's reports

    async def heartbeat(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Report the held copies and renew the lease. Raises LeaseLost if a newer instance has it."""
        return (await self.send("POST", HEARTBEAT, fields, idempotency_key=idempotency_key)).json()

    async def skip(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Report why a trade is not copied."""
        return (await self.send("POST", SKIPS, fields, idempotency_key=idempotency_key)).json()

    async def report_order(self, *, idempotency_key: str = "", **fields: Any) -> Any:
        """Report an order's execution; the answer has its slippage."""
        return (await self.send("POST", ORDERS, fields, idempotency_key=idempotency_key)).json()

    async def account(self) -> Any:
        """What the desk knows of the key's account: its currency, its copier's lease, its subscriptions."""
        return (await self.send("GET", ACCOUNT)).json()

    async def time(self) -> Any:
        """The desk's time from an unsigned answer, for display only. Use `desk_ms`, which signed answers set."""
        try:
            return (await self._connected().get(f"{self.origin}{TIME}")).json()
        except (httpx.HTTPError, ValueError) as fault:
            raise Transport(f"no answer to GET {TIME}: {fault}") from fault

    # --- any request

    async def send(
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
        return await self._finish(Call(self, method, path, query_of(query), body, idempotency_key))

    async def hang_up(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _finish(self, call: Call) -> Answer:
        while True:
            outcome = await self._step(call)
            if isinstance(outcome, Answer):
                return outcome
            await self.sleep(outcome.after_s)

    async def _step(self, call: Call) -> Answer | Repeat:
        async with self._turn:
            self._connected()  # connect before signing: the signature's time window is short
            try:
                answer = await asyncio.wait_for(self._exchange(call.next()), self.timeout_s)
            except (httpx.HTTPError, TimeoutError) as fault:
                return call.failed(fault)
            return call.judge(answer)

    async def _exchange(self, attempt: Attempt) -> Answer:
        """Read the whole answer, within the size allowed."""
        body = bytearray()
        response = self._connected().stream(
            attempt.method, attempt.url, headers=attempt.headers, content=attempt.body or None
        )
        async with response as raw:
            async for chunk in raw.aiter_raw():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise httpx.ReadError("the answer is too long")
            return Answer(raw.status_code, {name.lower(): value for name, value in raw.headers.items()}, bytes(body))

    def _connected(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=self.timeout_s, trust_env=False, headers=PLAIN, verify=trusted())
        return self._http
