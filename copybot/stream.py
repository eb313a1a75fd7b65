"""The stream of deltas. Deltas are hints: `Client.active` gives the active trades, at the start and after each gap.

`Follow` tracks the sequence numbers, without a socket or a clock. `Stream` reads in a thread of its own, so that a desk
that does not answer never keeps a copier's loop waiting. `AsyncStream` is the same for asyncio.
"""

import asyncio
import contextlib
import json
import queue
import random
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from copybot.errors import DeskError, KeyRefused, RateLimited, ScopeDenied, refusal
from copybot.protocol import Answer, Attempt, Line

PATH = "/ws/v2/active"
MOST_BYTES = 16 * 1024 * 1024
MOST_WAITING = 256
RESYNC = '{"type": "resync"}'
POLICY = 1008  # the key has ended, or lost the right to the stream


@dataclass(frozen=True, slots=True)
class Connected:
    """A new socket is open. Its snapshot follows."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The socket is gone; the next attempt is in `again_s` seconds. Messages sent meanwhile do not arrive."""

    why: str
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """A message of this strategy is missing. A snapshot was requested; until it arrives, numbers are out of turn."""

    strategy: str


@dataclass(frozen=True, slots=True)
class Message:
    """A snapshot or a delta from the desk, also one out of turn. Heartbeats are not passed on."""

    body: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.body.get("type", ""))


Event = Connected | Lost | Gap | Message


class Unreadable(Exception):
    """The desk sent something that is not a message."""


@dataclass
class Follow:
    """The sequence numbers of one socket's strategies. Times are seconds of a monotonic clock."""

    now_s: float
    silence_s: float = 15.0
    as_of: dict[str, int] = field(default_factory=dict)
    to_say: list[str] = field(default_factory=list)
    _gaps: set[str] = field(default_factory=set)
    _ahead: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.heard_s = self.now_s

    def heard(self, text: str | bytes, now_s: float) -> list[Event]:
        """Take a message and return its events. Raises Unreadable."""
        self.heard_s = now_s
        try:
            message = json.loads(text, parse_float=Decimal)
            return self._take(message)
        except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise Unreadable(f"the desk sent an unreadable message ({type(fault).__name__})") from fault

    def is_silent(self, now_s: float) -> bool:
        return now_s - self.heard_s >= self.silence_s

    def _take(self, message: dict[str, Any]) -> list[Event]:
        kind = message["type"]
        if kind == "snapshot":
            self.as_of = _numbers(message["as_of"])
            self._gaps.clear()
            self._ahead.clear()
            return [Message(message)]
        if kind == "heartbeat":
            return self._compare(_numbers(message["as_of"]))
        if not kind.startswith("trade."):
            return []  # a message type of a newer desk
        return [*self._number(message["strategy"], int(message["seq"])), Message(message)]

    def _number(self, strategy: str, seq: int) -> list[Event]:
        last_seq = self.as_of.get(strategy)
        if last_seq is None or seq > last_seq + 1:
            return self._gap(strategy)
        if strategy not in self._gaps:
            self.as_of[strategy] = max(last_seq, seq)
        return []

    def _compare(self, numbers: Mapping[str, int]) -> list[Event]:
        """Find lost deltas: a strategy was ahead of us at the last heartbeat, and its delta has not come since."""
        events: list[Event] = []
        for strategy, seq in numbers.items():
            last_seq = self.as_of.get(strategy, -1)
            if last_seq < self._ahead.get(strategy, -1):
                events += self._gap(strategy)
            if seq > last_seq:
                self._ahead[strategy] = seq
            else:
                self._ahead.pop(strategy, None)
        return events

    def _gap(self, strategy: str) -> list[Event]:
        """Report a gap once, until a snapshot closes it. One snapshot is enough for all strategies."""
        if strategy in self._gaps:
            return []
        if not self._gaps:
            self.to_say.append(RESYNC)
        self._gaps.add(strategy)
        return [Gap(strategy)]


def _numbers(as_of: Mapping[str, Any]) -> dict[str, int]:
    return {str(strategy): int(seq) for strategy, seq in as_of.items()}


@dataclass
class Backoff:
    """The wait before the next attempt: a random time whose bound doubles with each failure, up to `cap_s`. The bound
    starts over once a socket has held for `stable_s`."""

    first_s: float = 0.5
    cap_s: float = 30.0
    stable_s: float = 60.0
    jitter: Callable[[], float] = random.random
    _failures: int = 0

    def next_s(self, held_s: float = 0.0) -> float:
        if held_s >= self.stable_s:
            self._failures = 0
        longest_s = min(self.cap_s, self.first_s * float(1 << min(self._failures, 16)))
        self._failures += 1
        return longest_s * self.jitter()


@dataclass
class _Streaming:
    """The parts that `Stream` and `AsyncStream` share: address, handshake, backoff."""

    line: Line
    path: str = PATH
    silence_s: float = 15.0
    backoff: Backoff = field(default_factory=Backoff)
    follow: Follow = field(default_factory=lambda: Follow(time.monotonic()), init=False)
    _began_s: float | None = field(default=None, init=False)
    _handshake: Attempt = field(init=False, repr=False)

    @property
    def as_of(self) -> dict[str, int]:
        """The latest sequence number of each strategy."""
        return dict(self.follow.as_of)

    @property
    def _address(self) -> str:
        return self.line.origin.replace("http", "ws", 1) + self.path

    def _options(self) -> dict[str, Any]:
        """Options of one connection. Each handshake is signed anew, since it uses up a number. No pings: the desk sends
        heartbeats."""
        self._handshake = self.line.attempt("GET", self.path, "", b"", "")
        return {
            "additional_headers": self._handshake.headers,
            "compression": None,
            "proxy": None,
            "user_agent_header": "copybot",
            "open_timeout": self.line.timeout_s,
            "close_timeout": 1,
            "ping_interval": None,
            "max_size": MOST_BYTES,
        }

    def _connected(self) -> Connected:
        self._began_s = time.monotonic()
        self.follow = Follow(self._began_s, self.silence_s)
        return Connected()

    def _lost(self, fault: BaseException | str) -> Lost:
        """The loss, and how long to wait. Raises DeskError if no later attempt can succeed."""
        held_s = 0.0 if self._began_s is None else time.monotonic() - self._began_s
        self._began_s = None
        least_s = 0.0
        if isinstance(fault, ConnectionClosed) and fault.rcvd is not None and fault.rcvd.code == POLICY:
            raise KeyRefused(401, {"code": "key_revoked", "retry": "rotate", "detail": fault.rcvd.reason})
        if isinstance(fault, InvalidStatus):
            answer = _answer(fault)
            refused = _refused(answer)
            if isinstance(refused, KeyRefused | ScopeDenied):
                raise refused
            self.line.learn_from(refused.problem, is_proven=self.line.is_proven(answer, self._handshake))
            least_s = refused.retry_after_s if isinstance(refused, RateLimited) else 0.0
            fault = str(refused)
        return Lost(str(fault) or type(fault).__name__, least_s + self.backoff.next_s(held_s))


def _answer(fault: InvalidStatus) -> Answer:
    """The refusal of a handshake, which the desk answers like a request. It signs that of a wrong clock."""
    headers = {name.lower(): value for name, value in fault.response.headers.raw_items()}
    return Answer(fault.response.status_code, headers, bytes(fault.response.body or b""))


def _refused(answer: Answer) -> DeskError:
    problem = answer.problem()
    return refusal(
        answer.status, problem or {"code": "", "detail": f"the desk answered the handshake with {answer.status}"}
    )


_FAULTS = (OSError, TimeoutError, WebSocketException, Unreadable)


@dataclass
class Stream(_Streaming):
    """The stream for a loop: `next` returns within its timeout, whatever the network does.

    At most `MOST_WAITING` events are queued. If the loop lags, reading stops, and the desk later sends a snapshot
    instead of the missed messages.
    """

    _events: "queue.Queue[Event | Exception]" = field(default_factory=lambda: queue.Queue(MOST_WAITING), init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _end: Exception | None = field(default=None, init=False)

    def next(self, timeout_s: float) -> Event | None:
        """The next event; None if none comes in time. Raises DeskError once the desk refuses the key."""
        if self._end is not None:
            raise self._end
        if self._thread is None and not self._over.is_set():
            self._thread = threading.Thread(target=self._run, name="copybot-stream", daemon=True)
            self._thread.start()
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            self._end = event
            raise event
        return event

    def restart(self) -> None:
        """Let `next` try again after it raised. A handshake's refusal is not signed: it need not be the desk's."""
        self._end, self._thread = None, None

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(self.line.timeout_s + 2)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                try:
                    with connect(self._address, **self._options()) as socket:
                        self._put(self._connected())
                        self._read(socket)
                except _FAULTS as fault:
                    lost = self._lost(fault)
                    self._put(lost)
                    self._over.wait(lost.again_s)
            except Exception as end:  # a refusal or a bug: pass it to the reader, who would otherwise wait for ever
                self._put(end)
                return

    def _read(self, socket: ClientConnection) -> None:
        while not self._over.is_set():
            events: list[Event] = []
            with contextlib.suppress(TimeoutError):
                events = self.follow.heard(socket.recv(min(0.5, self.silence_s)), time.monotonic())
            if self.follow.is_silent(time.monotonic()):
                raise TimeoutError(f"silent for {self.silence_s:g} s")
            while self.follow.to_say:
                socket.send(self.follow.to_say.pop(0))
            for event in events:
                self._put(event)

    def _put(self, event: Event | Exception) -> None:
        """Wait for room in the queue: a lagging loop then slows the desk's sending and does not fill our memory."""
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._events.put(event, timeout=0.5)
                return


@dataclass
class AsyncStream(_Streaming):
    """The stream as an async iterator of events. It ends with a DeskError, or when its reader stops."""

    sleep: Callable[[float], Any] = field(default=asyncio.sleep)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def events(self) -> AsyncGenerator[Event, None]:
        while True:
            try:
                async with connect_async(self._address, **self._options()) as socket:
                    yield self._connected()
                    async with contextlib.aclosing(self._read(socket)) as events:
                        async for event in events:
                            yield event
            except _FAULTS as fault:
                lost = self._lost(fault)
            yield lost
            await self.sleep(lost.again_s)

    async def _read(self, socket: AsyncConnection) -> AsyncGenerator[Event, None]:
        while True:
            events: list[Event] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(0.5, self.silence_s)):
                    events = self.follow.heard(await socket.recv(), time.monotonic())
            if self.follow.is_silent(time.monotonic()):
                raise TimeoutError(f"silent for {self.silence_s:g} s")
            while self.follow.to_say:
                await socket.send(self.follow.to_say.pop(0))
            for event in events:
                yield event
