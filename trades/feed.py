"""The hub's state: feeds with their logs of deltas, and watchers (sockets) with their positions in these logs."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import orjson

from strategies import packets, sizing
from trades.places import Owner
from trades.snapshot import Source

LOG_BYTES = 256 * 1024
MOST_RENDERED = 16  # texts that a delivered entry keeps for sockets that lag

PEOPLES_FIELDS = frozenset({"profit", "closing_profit"})  # no bot reads what closed trades have made

Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class PacketKey:
    """The secret that signs a subscription's packets, and its generation."""

    secret: str = field(repr=False)
    generation: int


@dataclass(slots=True, eq=False)
class Watcher:
    """One socket. `at` is its position in each feed: the number of the last delta that was sent, by strategy id."""

    send: Send
    accounts: tuple[int, ...]
    generation_id: int | None = None
    ip: str = ""  # of a bot
    session_key: str | None = None
    user_id: Any = None
    standing: str | None = None  # of a person (person_standing)
    wants_packets: bool = False
    owners: tuple[Owner, ...] = ()  # whose places it takes
    packet_keys: dict[str, PacketKey] = field(default_factory=dict)  # by sub_id
    sources: dict[int, Source] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None
    is_stale: bool = True  # needs a snapshot before anything else
    is_gone: bool = False
    resynced_at: float = 0.0
    copies: str = ""  # change counters of its accounts' copies when its snapshot was read, joined by commas
    hidden: set[str] = field(default_factory=set)  # ids of open trades that a paused subscription does not see

    @property
    def is_bot(self) -> bool:
        return self.generation_id is not None

    @property
    def is_paused(self) -> bool:
        return any(source.paused for source in self.sources.values())

    def hides(self, source: Source, entry: "Entry") -> bool:
        """Whether this socket is not shown the delta: of a trade that opens while its subscription is paused, or that
        its snapshot left out. The database says which subscriptions were paused; `source` may be seconds old.
        """
        trade_id = entry.delta["trade"]["trade_id"]
        if entry.delta["type"] == "trade.opened" and (source.paused or source.sub_id in entry.paused):
            self.hidden.add(trade_id)
        return trade_id in self.hidden


@dataclass(frozen=True, slots=True)
class Rendering:
    """A delta's text for all subscriptions with the same settings.

    The cache key is the identity of the settings object. The reference here keeps that object, and so its id, alive.
    """

    settings: sizing.Settings
    plan: sizing.Plan
    text: str


@dataclass(slots=True, eq=False)
class Entry:
    """One delta in a feed's log: its plain text and, while it is being delivered, one text for each group of equal
    settings. `paused`: the subscriptions (`sub_id`) that were paused when the trade opened.
    """

    seq: int
    at_ms: int
    delta: dict[str, Any]
    plain: str
    paused: frozenset[str] = frozenset()
    renderings: dict[tuple[int, str, bool, bool], Rendering] = field(default_factory=dict)
    is_delivered: bool = False

    @classmethod
    def of(cls, at_ms: int, delta: dict[str, Any], paused: frozenset[str] = frozenset()) -> "Entry":
        return cls(int(delta["seq"]), at_ms, delta, orjson.dumps(delta).decode(), paused)

    @property
    def size(self) -> int:
        return len(self.plain)

    def mark_delivered(self) -> None:
        """Drop the renderings, because the log lives long. A socket that lags has its text rendered again."""
        self.renderings, self.is_delivered = {}, True

    def text(self, source: Source, key: PacketKey | None, *, to_bot: bool = False) -> str:
        """The delta as this source's viewer receives it: for a subscriber with the plan of the copy and, given a key,
        with the signed packet. A bot is not told what a closed trade has made.
        """
        if not source.follows:
            return orjson.dumps(self._for_bots).decode() if to_bot and self._is_close else self.plain
        rendering = self._rendering(source, to_bot)
        if key is None:
            return rendering.text
        return f'{rendering.text[:-1]},"packet":{orjson.dumps(self.packet(source, key, rendering.plan)).decode()}}}'

    def hidden_text(self, source: Source, key: PacketKey | None) -> str:
        """The delta for a follower who is not shown its trade: the number and, given a key, a GAPFILL."""
        hidden: dict[str, Any] = {name: self.delta[name] for name in ("strategy", "seq")}
        hidden |= {"type": "trade.hidden", "trade": {}}
        if key is not None:
            assert source.sub_id is not None
            fields, action, ref = packets.gapfill(source.sub_id, self.delta["seq"], self.at_ms)
            hidden["packet"] = packets.sign(key.secret, fields, action=action, trade_ref=ref, generation=key.generation)
        return orjson.dumps(hidden).decode()

    @property
    def _is_close(self) -> bool:
        return bool(self.delta["type"] == "trade.closed")

    @property
    def _for_bots(self) -> dict[str, Any]:
        trade = {name: value for name, value in self.delta["trade"].items() if name not in PEOPLES_FIELDS}
        return {**self.delta, "trade": trade}

    def _rendering(self, source: Source, to_bot: bool) -> Rendering:
        settings = source.settings_of(self.delta["trade"]["trade_id"])
        cache_key = (id(settings), source.paused_for, source.closes, to_bot and self._is_close)
        rendering = self.renderings.get(cache_key)
        if rendering is None:
            trade = dict((self._for_bots if to_bot else self.delta)["trade"])
            plan = source.add_plan(trade)
            text = orjson.dumps({**self.delta, "trade": trade}).decode()
            rendering = Rendering(settings, plan, text)
            if not self.is_delivered or len(self.renderings) < MOST_RENDERED:
                self.renderings[cache_key] = rendering
        return rendering

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
    """A strategy's stream in this process.

    Deltas tail+1 … head are in the log. Deltas that arrived ahead of a missing number wait in `early`.
    """

    strategy_id: int
    name: str
    head: int
    watchers: set[Watcher] = field(default_factory=set)
    entries: deque[Entry] = field(default_factory=deque)
    size: int = 0
    early: dict[int, Entry] = field(default_factory=dict)
    gap: asyncio.TimerHandle | None = None  # fires when a missing number did not arrive in time
    ahead: int = 0  # the database's number at the last heartbeat, if it was above head
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
        """The deltas after `seq`, or None if some of them have already left the log."""
        if seq < self.tail:
            return None
        return [entry for entry in self.entries if entry.seq > seq]

    def restart(self, head: int) -> None:
        """Empty the log and continue after `head`. The watchers' new snapshots contain everything up to it."""
        self.entries.clear()
        self.size, self.head, self.ahead = 0, head, 0
        self.early = {seq: entry for seq, entry in self.early.items() if seq > head}
