"""One seed is one schedule: the real publisher, copier and guard, between unreliable brokers and a model of the desk.

A provider trades at a broker. A publisher reports the trades to the desk, whose packets are dropped, doubled, delayed
and reordered. Requests are lost before their effect or after it. Processes die before or after any commit, order and
request. Then the faults end, everything comes to rest, and the simulation counts what a user would lose.
"""

import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from copybot import broker_character
from copybot.broker import Terminal
from copybot.broker_character import Character
from copybot.copier import Copier, Pace
from copybot.desk_model import (
    COPIER,
    LEADER,
    MASTER,
    SECRET,
    STRATEGY,
    SUB_ID,
    DeskModel,
    DeskState,
    UnreliableLine,
    forged,
)
from copybot.faulty_broker import HOUR_MS, PRICE, SYMBOL, BrokerFaults, FaultyBroker
from copybot.fifo import Fifo
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.losses import Losses
from copybot.netting import Netting
from copybot.packets import CLOSE
from copybot.position_sync import PositionSync
from copybot.rebooking import Rebooked
from copybot.shared_accounts import FaultyFifo, FaultyNet
from copybot.state_store import GuardMode, State, opened
from copybot.subscriptions import Subscription
from copybot.targets import born_ms

NOON = 1_767_600_000_000
SECOND = 1_000
CLOCKS_GO_BACK_MS = 1_792_890_000_000  # in London, on 25 October 2026
LIMITS = Limits(max_open_age_ms=5_000, settle_ms=6_000, second_look_ms=1_000, brake_ms=1_000, stops_again_ms=1_000)
PACE = Pace(
    heartbeat_ms=2_000,
    snapshot_ms=5_000,
    polling_ms=2_000,
    again_ms=1_000,
    first_retry_ms=1_000,
    longest_retry_ms=2_000,
    missing_deals_ms=5_000,
)
LONGEST_REST = 45  # ticks
AHEAD_MS = 3 * HOUR_MS  # of the brokers' clocks
PROVIDERS = ("lagging", "quiet", "hiding", "clock", "rebooking")  # traits of a provider's broker that copiers notice
COPIERS = tuple(name for name in broker_character.TRAITS if name != "clock")
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
        netting: Callable[..., Terminal] = Netting, fifo: Callable[..., Terminal] = Fifo,
        rebooked: Callable[..., Terminal] = Rebooked, traits: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        """`traits`: of both brokers; by default the seed draws some."""
        self.rng, self.weather, self.calm = _luck(seed), weather, False
        self.crashes = self.zombies = self.stale = self.back = 0
        self._kinds, self._shares = (guard, copier, position_sync), {FaultyNet: netting, FaultyFifo: fifo}
        self._rebooked = rebooked
        leads, copies = _characters(seed, traits)
        self.now = self._began_ms = CLOCKS_GO_BACK_MS - HOUR_MS if leads.hour_at else NOON
        self.desk = DeskModel(lambda: self.now)
        quiet = replace(CALM, away=weather.away / 2, stop_out=weather.stop_out)
        self.master = FaultyBroker(_luck(seed + 1), quiet, 1_000_000, leads, ahead_ms=AHEAD_MS)
        self.market = _account_of(copies)(
            _luck(seed + 2), weather, 5_000_000, copies, ahead_ms=AHEAD_MS, point=self.point, on_sent=self._on_sent
        )
        self._max_age_ms = LIMITS.max_open_age_ms if leads.hour_at and not weather.restore else None
        self.losses = Losses(
            self.desk, self.master, self.market, FOLLOWS.index, self._is_exempt, bool(weather.restore), self._is_late,
            self._max_age_ms,
        )  # fmt: skip
        self.market.on_open, self.market.on_less = self.losses.note_open, self.losses.note_less
        self.desk.unsized = copies.unsized
        self.desk.terms = {"max_open_trades": copies.most_open} if copies.most_open else {}
        accounts = (MASTER, LEADER) if copies.leads else (MASTER,)
        self.publishers: dict[str, PositionSync | None] = dict.fromkeys(accounts)
        self.places = [Place("first-instance-0", Disk(self.point))]
        self._running = self.places[0]
        self._backup: DeskState | None = None
        self.is_restored = False
        with _silence():  # the bots report each fault of the schedule
            self._run()

    @property
    def _is_exempt(self) -> bool:
        """Whether an order may happen twice: by two instances, for a restored desk, or later than the guard waits."""
        return self._is_late or bool(self.weather.rival or self.weather.restore)

    @property
    def _is_late(self) -> bool:
        """Whether orders are executed later than the guard waits."""
        return self.weather.slowest * SECOND > LIMITS.settle_ms

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
        self.now = self._began_ms + tick * SECOND
        if tick == self.master.character.hour_at != 0:
            self._put_clocks_back()
        self.market.tick(self.now, tick)
        self.master.tick(self.now, tick)
        if not self.calm:
            self._provide()
        sent, lost, copier = len(self.desk.sent), self.desk.lost, self.places[-1].copier
        for account in self.publishers:
            self._publish(account)
        if self.desk.lost == lost and self.publishers[MASTER] is not None and not self.master.is_troubled:
            self.losses.note_waits_of_publisher()
        for place in self.places:
            if not place.is_over:
                for message in self.desk.sent[sent:]:
                    self._post(place, message)
                self._live(place)
        self.losses.forgive()
        if self.desk.lost == lost and copier is not None and copier is self.places[-1].copier:
            self._note_waits()

    def _note_waits(self) -> None:
        if self.is_restored:
            return
        if not self.market.is_troubled:
            self.losses.note_waits_of_copier()
        self.losses.note_waits_in_queue()

    # --- actors

    def _provide(self) -> None:
        """The provider trades by hand; so does the copier's owner, on an account that leads too."""
        rng, held = self.rng, {row.id: row for row in self.master.rows()}
        if rng.random() < 0.35:
            side = rng.choice(("BUY", "SELL"))
            sl, tp = (None if rng.random() < 0.3 else _stop(rng, side, name) for name in ("sl", "tp"))
            self.master.fill(0, SYMBOL, side, Decimal(rng.randrange(1, 20)) / 10, sl, tp)
        if held and rng.random() < 0.45:
            position, kind = held[rng.choice(list(held))], rng.random()
            if kind < 0.2:
                sl, tp = (_stop(rng, position.side, name) for name in ("sl", "tp"))
                self.master.modify(position, sl=sl, tp=tp if rng.random() < 0.5 else position.tp)
            elif kind < 0.4 and position.volume > Decimal("0.1"):
                self.master.close(position, Decimal("0.1"))
            else:
                self.master.close(position, position.volume)
        if self.market.character.leads and rng.random() < 0.3:
            own = [position for position in self.market.held.values() if not position.magic]
            if own and rng.random() < 0.5:
                self.market.close_by_hand(own[0])
            else:
                self.market.fill(0, self.market.symbol, "BUY", Decimal("0.3"), None, None)

    def _publish(self, account: str) -> None:
        publisher = self.publishers[account]
        if publisher is None:
            self.losses.begin_anew("late_publish")
            broker = self._booked(self.master if account == MASTER else self.market)
            publisher = self.publishers[account] = self._kinds[2](
                self._line(account), broker, clock_ms=lambda: self.now, ahead_ms=lambda: self.master.ahead_ms,
                refresh_ms=3_000, retry_ms=3_000, max_age_ms=self._max_age_ms, longest_wait_ms=PACE.missing_deals_ms,
            )  # fmt: skip
        try:
            publisher.sync()
        except OSError:
            pass
        except Crash:
            self.publishers[account] = None

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
        self.losses.begin_anew("late_row")
        place.copier = copier(
            self._line(COPIER), self._terminal(), [FOLLOWS], Path(), lambda: self.now, LIMITS, PACE,
            instance=place.instance, life=f"{place.instance}-{place.lives}", monotonic_ms=lambda: self.now,
            jitter=self.rng.random, connect=place.disk.connect, guard_of=guard,
            ahead_ms=lambda: self.master.ahead_ms,
        )  # fmt: skip

    def _terminal(self) -> Terminal:
        """The copier's broker, as a process that starts sees it."""
        share = self._shares.get(type(self.market))
        if share is None:
            return self._booked(self.market)
        return share(self.market, hold_ms=LIMITS.settle_ms, clock_ms=lambda: self.now)

    def _booked(self, broker: FaultyBroker) -> Terminal:
        return self._rebooked(broker, clock_ms=lambda: self.now) if broker.character.rebooks_at else broker

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
        self.desk.epoch, self.publishers = "2", dict.fromkeys(self.publishers)
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
        for bot in (*self.publishers.values(), *(place.copier for place in self.places)):
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

    def _put_clocks_back(self) -> None:
        """An hour passes, in which the bots are off and the brokers' clocks go back. The publishers start anew."""
        self._began_ms += HOUR_MS
        self.now += HOUR_MS
        self.publishers = dict.fromkeys(self.publishers)
        for broker in (self.master, self.market):
            broker.ahead_ms -= HOUR_MS
            broker.catch_up()

    def _on_sent(self, magic: int) -> None:
        ref = self.losses.ref_of(magic)
        self.zombies += ref in self._running.closed
        self.stale += self.now - born_ms(ref) > LIMITS.max_open_age_ms

    # --- losses of a user

    def _is_at_rest(self) -> bool:
        copier = self.places[-1].copier
        if copier is None or self.places[-1].net or not (self.market.is_at_rest and self.master.is_at_rest):
            return False
        guard = copier.followed[0].guard
        return not guard.needs_snapshot and all(copy.state is State.HELD for copy in guard.unfinished())

    def faults(self) -> Counter[str]:
        """The losses by kind; empty if there are none."""
        counts = self.losses.at_rest(self.places[-1].copier) + self.losses.counts
        return +(counts + Counter(zombies=self.zombies, stale=self.stale, back=self.back))

    @property
    def trades(self) -> int:
        return sum(name.startswith(MASTER) for name in self.desk.opened)

    @property
    def copied(self) -> int:
        return len(self.market.opens)


def _characters(seed: int, traits: tuple[str, ...] | None) -> Iterator[Character]:
    """The provider's broker and the copier's, by the seed or with all of these traits."""
    for luck, names in ((_luck(seed + 3), PROVIDERS), (_luck(seed + 4), COPIERS)):
        if traits is None:
            yield broker_character.drawn(luck, names)
        else:
            yield broker_character.of([name for name in traits if name in names], luck)


def _account_of(character: Character) -> type[FaultyBroker]:
    return FaultyNet if character.is_netting else FaultyFifo if character.is_fifo else FaultyBroker


@contextmanager
def _silence() -> Iterator[None]:
    bots = logging.getLogger("copybot")
    level = bots.level
    bots.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        bots.setLevel(level)


def _luck(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible, not secret


def _stop(rng: random.Random, side: str, name: str) -> Decimal:
    """A stop at the right side of the provider's price."""
    sign = -1 if (name == "sl") == (side == "BUY") else 1
    return PRICE + sign * Decimal(rng.randrange(1, 9)) / 1000
