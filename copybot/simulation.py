"""One seed is one schedule: the real publisher, copier and guard, between unreliable brokers and a model of the desk.

A provider trades at a broker. A publisher reports the trades to the desk, whose packets are dropped, doubled, delayed
and reordered. Requests are lost before their effect or after it. Processes die before or after any commit, order and
request. Then the faults end, everything comes to rest, and the simulation counts what a user would lose.
"""

import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from copybot.broker import Position
from copybot.copier import Copier, Pace, Subscription
from copybot.desk_model import COPIER, MASTER, SECRET, STRATEGY, SUB_ID, DeskModel, DeskState, UnreliableLine, forged
from copybot.faulty_broker import PRICE, BrokerFaults, FaultyBroker
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.magic import magic_of
from copybot.packets import CLOSE
from copybot.position_sync import PositionSync
from copybot.state_store import GuardMode, State, opened
from copybot.targets import born_ms

NOON = 1_767_600_000_000
SECOND = 1_000
LIMITS = Limits(max_open_age_ms=5_000, settle_ms=4_000, second_look_ms=1_000, brake_ms=1_000, stops_again_ms=1_000)
PACE = Pace(
    heartbeat_ms=2_000,
    snapshot_ms=5_000,
    polling_ms=2_000,
    again_ms=1_000,
    first_retry_ms=1_000,
    longest_retry_ms=2_000,
)
LONGEST_REST = 45  # ticks
FOLLOWS = Subscription(STRATEGY, SUB_ID, {1: SECRET})

CALM = BrokerFaults()
FAULTY = BrokerFaults(
    drop=0.03, double=0.05, delay=0.2, forge=0.01, reject=0.03, timeout=0.05, crash=0.005, away=0.02, stop_out=0.01,
    silent=0.03, breaks=0.01, paused=0.01, partial=0.02,
)  # fmt: skip
HOSTILE = BrokerFaults(
    drop=0.1, double=0.2, delay=0.4, forge=0.05, reject=0.05, timeout=0.2, crash=0.02, away=0.05, stop_out=0.02,
    silent=0.1, breaks=0.03, paused=0.03, partial=0.05, torn=0.05,
)  # fmt: skip
SLOW = replace(HOSTILE, slowest=10)  # orders execute later than the guard waits
RESTORED = replace(FAULTY, restore=0.1)
TWO = replace(FAULTY, rival=0.1)
WEATHERS = {"calm": CALM, "faulty": FAULTY, "hostile": HOSTILE, "slow": SLOW, "restored": RESTORED, "two": TWO}


class Crash(BaseException):
    """The process dies. A BaseException, so that no code in the process catches it."""


class Disk:
    """A state file: committed data survives the process. A process can crash before and after each commit."""

    blank = b""

    def __init__(self, point: Callable[[], None]) -> None:
        self.db, self.point = sqlite3.connect(":memory:", isolation_level=None), point
        if not Disk.blank:  # the empty tables are created once and reused
            Disk.blank = opened(":memory:", sqlite3.connect).serialize()
        self.db.deserialize(Disk.blank)

    def connect(self, path: str | Path, **_: Any) -> Any:
        self.execute, self.executescript = self._execute, self.db.executescript
        return self

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement != "commit":
            return self.db.execute(statement, *values)
        self.point()
        done = self.db.execute("commit")
        self.point()
        return done

    @property
    def in_transaction(self) -> bool:
        return self.db.in_transaction

    def close(self) -> None:
        """Do nothing: the process ends, the file stays."""

    def power_cut(self) -> None:
        if self.db.in_transaction:
            self.db.execute("rollback")

    def clone(self) -> "Disk":
        other = Disk(self.point)
        self.db.backup(other.db)
        return other


@dataclass
class Place:
    """A place where a copier runs and restarts: its disk, and what its processes were sent.

    `closed`: the trades whose close arrived here. `seen`: the guard's epoch and number. `net`: messages under way.
    """

    instance: str
    disk: Disk
    copier: Copier | None = None
    up_at: int = 0
    lives: int = 0
    closed: set[str] = field(default_factory=set)
    seen: tuple[str, int] = ("", 0)
    net: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    is_over: bool = False


class World:
    """Runs one schedule, ends the faults, and lets everything come to rest."""

    def __init__(
        self, seed: int, weather: BrokerFaults, *, guard: Callable[..., ExecutionGuard] = ExecutionGuard,
        copier: Callable[..., Copier] = Copier, position_sync: Callable[..., PositionSync] = PositionSync,
    ) -> None:  # fmt: skip
        logging.getLogger("copybot").setLevel(logging.CRITICAL)
        self.rng, self.weather, self.calm = _luck(seed), weather, False
        self.crashes = self.zombies = self.stale = self.back = 0
        self._kinds = guard, copier, position_sync
        self.now = NOON
        self.desk = DeskModel(lambda: self.now)
        master = replace(CALM, away=weather.away / 2, stop_out=weather.stop_out)
        self.master = FaultyBroker(_luck(seed + 1), master, 1_000_000)
        self.market = FaultyBroker(_luck(seed + 2), weather, 5_000_000, point=self.point, on_open=self._on_open)
        self.publisher: PositionSync | None = None
        self.places = [Place("first-instance-0", Disk(self.point))]
        self._running = self.places[0]
        self._backup: DeskState | None = None
        self.is_restored = False
        self._refs: dict[int, str] = {}
        self._run()

    def point(self) -> None:
        if not self.calm and self.weather.crash and self.rng.random() < self.weather.crash:
            self.crashes += 1
            raise Crash

    def _run(self) -> None:
        for tick in range(self.weather.ticks):
            self._chances()
            self._tick(tick)
        self._clear_up()
        for tick in range(self.weather.ticks, self.weather.ticks + LONGEST_REST):
            self._tick(tick)
            if self._is_at_rest() and not self.faults():
                break

    def _tick(self, tick: int) -> None:
        self.now = NOON + tick * SECOND
        self.market.tick(self.now)
        self.master.tick(self.now)
        if not self.calm:
            self._provide()
        before = len(self.desk.sent)
        self._publish()
        for place in self.places:
            if not place.is_over:
                for message in self.desk.sent[before:]:
                    self._post(place, message)
                self._live(place)

    # --- actors

    def _provide(self) -> None:
        """The provider trades by hand."""
        rng, held = self.rng, self.master.held
        if rng.random() < 0.35:
            sl = None if rng.random() < 0.3 else PRICE - Decimal("0.005")
            volume = Decimal(rng.randrange(1, 20)) / 10
            self.master.fill(0, "EURUSD", rng.choice(("BUY", "SELL")), volume, sl, None)
        if held and rng.random() < 0.45:
            position, kind = held[rng.choice(list(held))], rng.random()
            if kind < 0.2:
                sl = PRICE - Decimal(rng.randrange(1, 9)) / 1000
                held[position.id] = replace(position, sl=sl)
            elif kind < 0.4 and position.volume > Decimal("0.1"):
                self.master.close(position, Decimal("0.1"))
            else:
                self.master.close(position, position.volume)

    def _publish(self) -> None:
        if self.publisher is None:
            self.publisher = self._kinds[2](
                self._line(MASTER), self.master, clock_ms=lambda: self.now, refresh_ms=3_000, retry_ms=3_000
            )
        try:
            self.publisher.sync()
        except OSError:
            pass
        except Crash:
            self.publisher = None

    def _live(self, place: Place) -> None:
        self._running = place
        if place.copier is None and self.now >= place.up_at:
            self._do(place, lambda: self._start(place))
        due = [message for at, message in place.net if at <= self.now]
        place.net = [(at, message) for at, message in place.net if at > self.now]
        self.rng.shuffle(due)
        for message in due:
            if place.copier is not None:
                self._do(place, partial(self._hear, place, message))
        if place.copier is not None:
            self._do(place, place.copier.step)
            self._note_closes(place)

    def _start(self, place: Place) -> None:
        guard, copier, _ = self._kinds
        place.lives += 1
        place.copier = copier(
            self._line(COPIER), self.market, [FOLLOWS], Path(), lambda: self.now, LIMITS, PACE,
            instance=place.instance, life=f"{place.instance}-{place.lives}", monotonic_ms=lambda: self.now,
            jitter=self.rng.random, connect=place.disk.connect, guard_of=guard,
        )  # fmt: skip

    def _hear(self, place: Place, message: dict[str, Any]) -> None:
        assert place.copier is not None
        place.copier.on_message(message)
        packet = message.get("packet", {})
        if packet.get("action") == CLOSE:
            place.closed.add(packet["trade_ref"])

    def _do(self, place: Place, step: Callable[[], None]) -> None:
        try:
            step()
        except Crash:
            place.disk.power_cut()
            place.copier, place.up_at = None, self.now + self.rng.randint(1, 6) * SECOND
            if self.rng.random() < self.weather.torn:
                place.disk, place.seen = Disk(self.point), ("", 0)

    def _line(self, account: str) -> UnreliableLine:
        return UnreliableLine(self.desk, account, self.rng, 0.0 if self.calm else self.weather.silent, self.point)

    # --- faults

    def _post(self, place: Place, message: dict[str, Any]) -> None:
        weather, rng = self.weather, self.rng
        for chance in (1.0, 0.0) if self.calm else (1 - weather.drop, weather.double):
            if rng.random() < chance:
                late = not self.calm and rng.random() < weather.delay
                place.net.append((self.now + rng.choice((1, 2, 4)) * SECOND if late else self.now, message))

    def _chances(self) -> None:
        weather, rng, desk = self.weather, self.rng, self.desk
        for place in self.places:
            if rng.random() < 0.5:
                place.net.append((self.now, {"type": "heartbeat", "as_of": {STRATEGY: str(desk.state.seq)}}))
            if rng.random() < weather.forge:
                place.net.append((self.now, forged(rng, desk.state.seq + rng.choice((0, 1, 2)), self.now)))
            if place.copier is not None and rng.random() < weather.breaks:
                place.copier.lost_touch()
        if rng.random() < weather.paused:
            desk.paused_for = "" if desk.paused_for else "paused"
        if weather.restore:
            self._may_restore()
        if weather.rival and len(self.places) == 1 and rng.random() < weather.rival:
            disk = self.places[0].disk.clone() if rng.random() < 0.5 else Disk(self.point)
            self.places.append(Place("other-instance-0", disk, closed=set(self.places[0].closed)))

    def _may_restore(self) -> None:
        if self._backup is None:
            self._backup = self.desk.state.copy() if self.rng.random() < 0.2 else None
        elif not self.is_restored and self.rng.random() < self.weather.restore:
            self.desk.state, self.is_restored = self._backup, True
            self._restart_desk()
        elif self.is_restored and self.desk.epoch == "1" and self.rng.random() < 0.2:
            self._new_epoch()

    def _new_epoch(self) -> None:
        """Follow the runbook after a restore: a new epoch, and publishers restart."""
        self.desk.epoch, self.publisher = "2", None
        self._restart_desk()

    def _restart_desk(self) -> None:
        """Restart the desk. It takes longer than an open stays valid, and its sockets are lost with their messages."""
        self.desk.down_until = 0 if self.calm else self.now + LIMITS.max_open_age_ms + SECOND
        for place in self.places:
            place.net.clear()
            if place.copier is not None:
                place.copier.lost_touch()

    def _clear_up(self) -> None:
        self.calm, self.desk.down_until = True, 0
        self.weather = replace(self.weather, torn=0.0)
        self.market.weather, self.master.weather = replace(CALM, reject=0.0), replace(CALM, reject=0.0)
        if self.is_restored and self.desk.epoch == "1":
            self._new_epoch()
        for place in self.places[:-1]:
            if place.copier is not None:
                place.copier.close()
            place.copier, place.is_over = None, True
        for bot in (self.publisher, *(place.copier for place in self.places)):
            if bot is not None:
                bot.desk.silent = 0.0  # type: ignore[attr-defined]

    def _note_closes(self, place: Place) -> None:
        if place.copier is None:
            return
        guard = place.copier.followed[0].guard
        place.closed |= {ref for ref, seq in self.desk.closes.items() if seq <= guard.seen and not self.is_restored}
        self.back += place.seen[0] == guard.epoch and guard.seen < place.seen[1]
        place.seen = guard.epoch, guard.seen
        if self.calm and guard.mode is GuardMode.HALT:
            guard.release()  # as an operator would, after examining the halt

    def _on_open(self, magic: int) -> None:
        ref = self.ref_of(magic)
        self.zombies += ref in self._running.closed
        self.stale += self.now - born_ms(ref) > LIMITS.max_open_age_ms

    # --- losses of a user

    def ref_of(self, magic: int) -> str:
        if magic not in self._refs:
            self._refs = {magic_of(FOLLOWS.index, ref): ref for ref in self.desk.refs}
        return self._refs.get(magic, "")

    def _is_at_rest(self) -> bool:
        copier = self.places[-1].copier
        if self.market.late or copier is None or self.places[-1].net:
            return False
        guard = copier.followed[0].guard
        return not guard.needs_snapshot and all(copy.state is State.HELD for copy in guard.unfinished())

    def faults(self) -> Counter[str]:
        """The losses by kind; empty if there are none."""
        active = self._active_trades()
        pairs = [(position, active.get(self.ref_of(position.magic))) for position in self.market.held.values()]
        held = [(position, trade) for position, trade in pairs if trade is not None]
        counts = Counter(
            doubles=sum(count - 1 for count in self.market.opens.values()),
            zombies=self.zombies,
            stale=self.stale,
            back=self.back,
            orphans=len(pairs) - len(held),
            large=sum(position.volume > Decimal(trade["volume"]) / 2 for position, trade in held),
            stops=sum(_stops(position) != (_price(trade["sl"]), _price(trade["tp"])) for position, trade in held),
            short=0 if self._may_be_short or self.weather.partial else sum(
                position.volume < Decimal(trade["volume"]) / 2 for position, trade in held
            ),
            cut=0 if self._may_be_short else self._cut(active),
            unpublished=self._apart(MASTER, self.master),
            untold=self._apart(COPIER, self.market),
            unexplained=self._unexplained(),
            published_twice=0 if self.is_restored else sum(count - 1 for count in self.desk.opened.values()),
        )  # fmt: skip
        return +counts

    @property
    def _may_be_short(self) -> bool:
        """Whether a reduction may happen twice: by two instances, or by an order later than the guard waits."""
        return self.weather.slowest * SECOND > LIMITS.settle_ms or bool(self.weather.rival)

    def _cut(self, active: dict[str, dict[str, Any]]) -> int:
        """The number of copies that an order closed although their trades are active."""
        ends = [deals[-1] for number, deals in self.market.books.items() if number not in self.market.held]
        return sum(end.reason == "MANUAL" and self.ref_of(end.magic) in active for end in ends)

    def _unexplained(self) -> int:
        """The number of trades on which the desk and the copier disagree about whether, or with what volume, they are
        held."""
        copier = self.places[-1].copier
        held = {} if copier is None else {copy.ref: f"{copy.volume:.8f}" for copy in copier.followed[0].digest()[1]}
        return len(held.items() ^ self.desk.must_hold().items())

    def _active_trades(self) -> dict[str, dict[str, Any]]:
        return {row["trade_id"]: row for (owner, _), row in self.desk.state.rows.items() if owner == MASTER}

    def _apart(self, account: str, market: FaultyBroker) -> int:
        """The number of rows and positions that do not agree."""
        rows = {ticket: row for (owner, ticket), row in self.desk.state.rows.items() if owner == account}
        both = rows.keys() & market.held.keys()
        differ = sum(
            Decimal(rows[ticket]["volume"]) != market.held[ticket].volume
            or _stops(market.held[ticket]) != (_price(rows[ticket]["sl"]), _price(rows[ticket]["tp"]))
            for ticket in both
        )
        return len(rows.keys() ^ market.held.keys()) + differ

    @property
    def trades(self) -> int:
        return len(self.desk.refs) - sum(key.startswith(COPIER) for key in self.desk.opened)

    @property
    def copied(self) -> int:
        return len(self.market.opens)


def _luck(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible, not secret


def _stops(position: Position) -> tuple[Decimal | None, Decimal | None]:
    return position.sl, position.tp


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
