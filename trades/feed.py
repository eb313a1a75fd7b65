"""What the hub keeps: feeds with their logs of deltas, and watchers with their positions in them."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import orjson

from strategies import packets, sizing
from trades.snapshot import Source

LOG_BYTES = 256 * 1024
MOST_SHOWN = 16  # texts that an entry keeps for those who lag, once it is delivered

Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class PacketKey:
    """What signs a subscription's packets."""

    secret: str = field(repr=False)
    generation: int


@dataclass(slots=True, eq=False)
class Watcher:
    """One socket. `at` is its position in each feed, by strategy id."""

    send: Send
    accounts: tuple[int, ...]
    generation_id: int | None = None
    session_key: str | None = None
    user_id: Any = None
    wants_packets: bool = False
    packet_keys: dict[str, PacketKey] = field(default_factory=dict)  # by sub_id
    sources: dict[int, Source] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None
    is_stale: bool = True  # needs a snapshot before anything else
    is_gone: bool = False
    resynced_at: float = 0.0
    copies: str = ""  # how often its accounts' copies had changed at its snapshot, account by account


@dataclass(frozen=True, slots=True)
class Shown:
    """A delta as those see it who copy alike. Their settings are held, for they are known by their identity."""

    settings: sizing.Settings
    plan: sizing.Plan
    text: str


@dataclass(slots=True, eq=False)
class Entry:
    """One delta in a feed's log: its encoded text, and while it is delivered those for whoever copies alike."""

    seq: int
    at_ms: int
    delta: dict[str, Any]
    plain: str
    shown: dict[tuple[int, str, bool], Shown] = field(default_factory=dict)
    is_delivered: bool = False

    @classmethod
    def of(cls, at_ms: int, delta: dict[str, Any]) -> "Entry":
        return cls(int(delta["seq"]), at_ms, delta, orjson.dumps(delta).decode())

    @property
    def size(self) -> int:
        return len(self.plain)

    def forget(self) -> None:
        """Once delivered, whoever still needs another text than the plain one has it made again: the log lasts long."""
        self.shown, self.is_delivered = {}, True

    def text(self, source: Source, key: PacketKey | None) -> str:
        """As this source's owner gets it: with what its copy must be, and a packet that says so."""
        if not source.follows:
            return self.plain
        shown = self._shown(source)
        if key is None:
            return shown.text
        return f'{shown.text[:-1]},"packet":{orjson.dumps(self.packet(source, key, shown.plan)).decode()}}}'

    def _shown(self, source: Source) -> Shown:
        settings = source.settings_of(self.delta["trade"]["trade_id"])
        alike = (id(settings), source.paused_for, source.closes)
        found = self.shown.get(alike)
        if found is None:
            trade = dict(self.delta["trade"])
            plan = source.show(trade)
            text = orjson.dumps({**self.delta, "trade": trade}).decode()
            found = Shown(settings, plan, text)
            if not self.is_delivered or len(self.shown) < MOST_SHOWN:
                self.shown[alike] = found
        return found

    def packet(self, source: Source, key: PacketKey, plan: sizing.Plan) -> dict[str, str]:
        assert source.sub_id is not None
        fields, action, ref = packets.of_event(
            self.delta["type"],
            self.delta["trade"],
            plan,
            sub_id=source.sub_id,
            seq=self.delta["seq"],
            timestamp_ms=self.at_ms,
            opens=not source.paused,
        )
        return packets.sign(key.secret, fields, action=action, trade_ref=ref, generation=key.generation)


@dataclass(slots=True, eq=False)
class Feed:
    """A strategy's stream: deltas tail+1 … head are in the log; those that came too early wait in `early`."""

    strategy_id: int
    name: str
    head: int
    watchers: set[Watcher] = field(default_factory=set)
    entries: deque[Entry] = field(default_factory=deque)
    size: int = 0
    early: dict[int, Entry] = field(default_factory=dict)
    gap: asyncio.TimerHandle | None = None
    ahead: int = 0  # the database's number at the last heartbeat, if it was ahead of head
    joined: bool = False

    @property
    def tail(self) -> int:
        return self.head - len(self.entries)

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.head = entry.seq
        self.size += entry.size
        while self.size > LOG_BYTES and len(self.entries) > 1:
            self.size -= self.entries.popleft().size

    def after(self, seq: int) -> list[Entry] | None:
        """The deltas after `seq`; None where some of them have left the log."""
        if seq < self.tail:
            return None
        return [entry for entry in self.entries if entry.seq > seq]

    def start_anew(self, head: int) -> None:
        """Forget the log: what it lacks is in the snapshots that its watchers get."""
        self.entries.clear()
        self.size, self.head, self.ahead = 0, head, 0
        self.early = {seq: entry for seq, entry in self.early.items() if seq > head}
