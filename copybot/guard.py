"""What stands between signals and a broker: no trade is opened twice, none comes back, whatever crashes when.

A broker is not transactional and has no order id of the client's own, so "exactly once" cannot be had. An open happens
at most once: a missed trade costs an opportunity, a doubled one costs money. A close, a reduction, a change of stops
are targets (`volume must be 0`) that are driven at until the broker's books agree: repeating them does no harm.

One row a trade holds what its copy must be. It is durable before anything is sent, it never goes from closed back to
open, and its volume never grows. What became of an order whose answer was lost is found in the broker's books by its
magic number; where they are complete and show nothing, the trade is given up, never sent again.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from copybot import books, packets
from copybot.books import Copy, State
from copybot.broker import Broker, Outcome, Position, Trace
from copybot.packets import Packet

_OURS = 0x43 << 56
_KEPT_HASHES = 10_000


class Standing(StrEnum):
    """HOLD: the desk went back in time; nothing is done until its epoch is new. HALT: somebody forges; no opens."""

    LIVE = "LIVE"
    HOLD = "HOLD"
    HALT = "HALT"


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in ms. `settle_ms` must be longer than the broker's slowest answer."""

    max_open_age_ms: int = 5_000
    settle_ms: int = 60_000
    second_look_ms: int = 5_000
    attempts: int = 3
    brake_least: int = 5
    brake_share: Decimal = Decimal("0.5")
    brake_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class Target:
    """What a copy must be. `born_ms`: when the master opened."""

    ref: str
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    price: Decimal
    born_ms: int
    seq: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is active of one strategy, at one instant; from an answer that the desk signed."""

    epoch: str
    as_of: int
    targets: Mapping[str, Target]


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell the desk, kept until it was told: opened, closed, skipped (`why`), held, halted."""

    id: int
    event: str
    ref: str
    at_ms: int
    why: str


def yes(_: Target) -> str:
    """No further condition on an open."""
    return ""


@dataclass
class ExecutionGuard:
    """The guard of one subscription. One thread at a time; one process, which holds the file.

    `index`: a number of 16 bits of the subscription's own on this broker account. `clock_ms`: the desk's time.
    `why_not`: a last condition on an open (symbol, price, funds): a reason to skip it, or none. It is never asked about
    a close.
    """

    path: str | Path
    sub_id: str
    secret: str = field(repr=False)
    generation: int
    index: int
    broker: Broker
    clock_ms: Callable[[], int]
    limits: Limits = Limits()
    why_not: Callable[[Target], str] = yes
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    needs_snapshot: bool = field(default=True, init=False)
    _looked_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _brake: "tuple[frozenset[str], int] | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.index < 1 << 16:
            raise ValueError("index has 16 bits")
        self._db = books.opened(self.path, self.connect)
        with self._durable():
            self._do("insert or ignore into guard values (?, 0, 0, '', 'LIVE', '')", self.sub_id)

    # --- what is asked of it

    @property
    def seen(self) -> int:
        """The latest number that was taken up. It never goes back while the epoch lasts."""
        return int(self._state("seen"))

    @property
    def last_sequence_id(self) -> int:
        """The latest number whose effect the broker's books showed."""
        return int(self._state("executed"))

    @property
    def standing(self) -> Standing:
        return Standing(self._state("standing"))

    @property
    def why(self) -> str:
        return str(self._state("why"))

    def copies(self) -> list[Copy]:
        return [books.copy_of(row) for row in self._do("select * from copy order by ref")]

    def outbox(self) -> list[Event]:
        """What the desk was not told yet, oldest first. Telling it twice must do no harm: use `id` in the key."""
        return [Event(*row) for row in self._do("select * from outbox order by id")]

    def told(self, event: Event) -> None:
        with self._durable():
            self._do("delete from outbox where id = ?", event.id)

    def lost_touch(self) -> None:
        """The stream broke off or went silent: nothing is opened until a snapshot has come."""
        self.needs_snapshot = True

    def release(self) -> None:
        """An operator has looked into a HALT."""
        with self._durable():
            self._do("update guard set standing = 'LIVE', why = '' where standing = 'HALT'")

    def close(self) -> None:
        self._db.close()

    # --- signals

    def on_packet(self, fields: Mapping[str, Any]) -> None:
        """Take up a packet of the stream. Raises PacketRefused where it is none of this subscription's."""
        packet = packets.read(fields, secret=self.secret, sub_id=self.sub_id, generation=self.generation)
        seen = self.seen
        if packet.seq <= seen:
            self._compare(packet)
            return
        if self.standing is not Standing.LIVE:
            self.needs_snapshot = True
            return
        in_turn = packet.seq == seen + 1 and not self.needs_snapshot
        if not in_turn:
            self.needs_snapshot = True
            if packet.action not in packets.SHRINKING:
                return
        opening = None
        with self._durable():
            if in_turn:
                self._advance(packet)
            if packet.action == packets.OPEN:
                opening = self._intend(_target(packet))
            else:
                self._aim(packet)
        if opening is not None:
            self._send(opening)
        self.tick()
        if in_turn and self._is_done(packet):
            with self._durable():
                self._do("update guard set executed = max(executed, ?)", packet.seq)

    def on_snapshot(self, snapshot: Snapshot, *, asked_at: int) -> None:
        """Bring everything in line with what is active.

        `asked_at`: `seen` when the snapshot was asked for. A desk that answers with less has gone back in time, and
        holds the guard. One that was overtaken by packets on its way is dropped: ask again.
        """
        epoch = str(self._state("epoch"))
        if epoch == snapshot.epoch:
            if self.standing is Standing.HOLD:
                return
            if snapshot.as_of < asked_at:
                self._stop(Standing.HOLD, f"the desk is at {snapshot.as_of}, and was at {asked_at}")
                return
            if snapshot.as_of < self.seen:
                return
        positions = self._positions()
        if positions is None or self._brakes(snapshot, positions):
            return
        with self._durable():
            if snapshot.epoch != epoch:
                self._do("delete from heard")
                self._do(
                    "update guard set epoch = ?, standing = 'LIVE', why = '' where standing = 'HOLD'", snapshot.epoch
                )
                self._do("update guard set epoch = ?", snapshot.epoch)
            self._do("update guard set seen = ?", snapshot.as_of)
            for copy in self._unfinished():
                if copy.ref not in snapshot.targets:
                    self._do("update copy set volume = '0' where ref = ?", copy.ref)
            for target in snapshot.targets.values():
                self._lower(target)
            self._take_in(positions, snapshot)
            if not epoch:  # a new state file: what came before it is not known, so nothing of it is opened
                for target in snapshot.targets.values():
                    self._give_up(target, "new_install")
        self.needs_snapshot = False
        for target in sorted(snapshot.targets.values(), key=lambda target: target.seq):
            with self._durable():
                opening = self._intend(target)
            if opening is not None:
                self._send(opening)
        self.tick()

    def tick(self) -> None:
        """Drive every copy at its target. To be called every second or so, and at any time."""
        if self.standing is Standing.HOLD:
            return
        positions = self._positions()
        if positions is None:
            return
        known = {copy.magic: copy for copy in self._unfinished()}
        for magic, copy in known.items():
            if magic not in positions:
                self._without_position(copy)
        for magic, position in positions.items():
            held = known.get(magic) or self._numbered(magic)
            if held is not None:
                self._with_position(held, position)

    # --- deciding

    def _intend(self, target: Target) -> Copy | None:
        """The row of an open that may be sent; none where it is known or must not be."""
        if self._row(target.ref) is not None:
            return None
        why = self._refusal(target)
        if why:
            self._give_up(target, why)
            return None
        self._insert(target, State.INTENT)
        return self._row(target.ref)

    def _refusal(self, target: Target) -> str:
        if self.standing is not Standing.LIVE:
            return "halted"
        if self.clock_ms() - target.born_ms > self.limits.max_open_age_ms:
            return "missed"
        if self._numbered(self._magic(target.ref)) is not None:
            return "magic_taken"
        return self.why_not(target)

    def _aim(self, packet: Packet) -> None:
        target = _target(packet)
        if packet.action == packets.CLOSE and self._row(packet.trade_ref) is None:
            self._give_up(target, "closed")  # before its open came: that must find it dead
        self._lower(target)

    def _lower(self, target: Target) -> None:
        """A volume only ever falls; stops follow as long as there is something to protect."""
        copy = self._row(target.ref)
        if copy is None or not copy.volume:
            return
        volume = min(copy.volume, target.volume)
        stops = (copy.sl, copy.tp) if not volume else (target.sl, target.tp)
        self._do(
            "update copy set volume = ?, sl = ?, tp = ? where ref = ?", str(volume), *map(books.text, stops), target.ref
        )

    def _brakes(self, snapshot: Snapshot, positions: Mapping[int, Position]) -> bool:
        """Whether so much would be closed that a second snapshot must say so, a moment later."""
        wanted = {self._magic(ref) for ref in snapshot.targets}
        going = frozenset(position.id for magic, position in positions.items() if magic not in wanted)
        most = max(self.limits.brake_least, int(len(positions) * self.limits.brake_share))
        if len(going) <= most:
            self._brake = None
            return False
        now = self.clock_ms()
        if self._brake is not None and going <= self._brake[0]:
            return now - self._brake[1] < self.limits.brake_ms
        self._brake = (going, now)
        return True

    def _take_in(self, positions: Mapping[int, Position], snapshot: Snapshot) -> None:
        """Positions with our number that no row knows: of a lost state file. Active ones are kept, others closed."""
        refs = {self._magic(ref): ref for ref in snapshot.targets}
        for magic, position in positions.items():
            if self._numbered(magic) is not None:
                continue
            target = snapshot.targets.get(refs.get(magic, ""))
            if target is None:
                target = Target(
                    f"unknown-{magic:x}", position.symbol, position.side, Decimal(0), None, None, Decimal(0),
                    self.clock_ms(), 0,
                )  # fmt: skip
            self._insert(target, State.HELD, magic)

    # --- driving

    def _send(self, copy: Copy) -> None:
        """Send an order that is in the books as an intent. Whatever is not a clear yes or no stays one."""
        outcome = Outcome.UNKNOWN
        with suppress(Exception):
            volume, sl, tp = self.broker.fit(copy.symbol, copy.volume, copy.sl, copy.tp)
            outcome = self.broker.open(
                magic=copy.magic, symbol=copy.symbol, side=copy.side, volume=volume, sl=sl, tp=tp
            ).outcome
        if outcome is Outcome.DONE:
            self._mark(copy, State.HELD, "opened")
        elif outcome is Outcome.REJECTED:
            self._mark(copy, State.REJECTED)

    def _with_position(self, copy: Copy, position: Position) -> None:
        if copy.state is not State.HELD:
            self._mark(copy, State.HELD, "opened")
        with suppress(Exception):  # looked at again on the next tick
            volume, sl, tp = self.broker.fit(copy.symbol, copy.volume, copy.sl, copy.tp)
            if not volume:
                self.broker.close(position, position.volume)
            elif position.volume > volume:
                self._reduce(copy, position, position.volume - volume)
            else:
                if copy.reduced_ms:
                    self._note_reducing(copy, 0)
                if (position.sl, position.tp) != (sl, tp):
                    self.broker.modify(position, sl=sl, tp=tp)

    def _reduce(self, copy: Copy, position: Position, volume: Decimal) -> None:
        """Take some off, once: an order whose answer was lost may come yet, and a second would take off as much again.

        (Closing all needs no such care: there is no more than all.)
        """
        now = self.clock_ms()
        if copy.reduced_ms and (now - copy.reduced_ms < self.limits.settle_ms or not self._is_settled()):
            return
        self._note_reducing(copy, now)
        if self.broker.close(position, volume).outcome is not Outcome.UNKNOWN:
            self._note_reducing(copy, 0)

    def _note_reducing(self, copy: Copy, since_ms: int) -> None:
        with self._durable():
            self._do("update copy set reduced_ms = ? where ref = ?", since_ms, copy.ref)

    def _without_position(self, copy: Copy) -> None:
        if copy.state is State.HELD:
            if self._is_settled():
                self._mark(copy, State.GONE, "closed")
        elif copy.state is State.REJECTED:
            self._try_again(copy)
        else:
            self._find_out(copy)

    def _find_out(self, copy: Copy) -> None:
        """An order without an answer: what do the broker's books say?"""
        try:
            trace = self.broker.trace(copy.magic)
        except Exception:
            return
        if trace is Trace.DONE:
            self._mark(copy, State.GONE, "closed")
        if trace is not Trace.NONE or not self._is_settled():
            return
        now = self.clock_ms()
        if now - copy.sent_ms < self.limits.settle_ms:
            return
        first = self._looked_ms.setdefault(copy.ref, now)
        if now - first >= self.limits.second_look_ms:
            self._mark(copy, State.DEAD, "skipped", "lost")

    def _try_again(self, copy: Copy) -> None:
        """A clear refusal may be followed by another attempt, as long as the open would still be wanted."""
        if self.needs_snapshot:
            return
        is_late = self.clock_ms() - copy.born_ms > self.limits.max_open_age_ms
        if is_late or not copy.volume or copy.attempts >= self.limits.attempts or self.standing is not Standing.LIVE:
            self._mark(copy, State.DEAD, "skipped", "rejected")
            return
        with self._durable():
            self._do(
                "update copy set state = 'INTENT', attempts = attempts + 1, sent_ms = ? where ref = ?",
                self.clock_ms(), copy.ref,
            )  # fmt: skip
        again = self._row(copy.ref)
        assert again is not None
        self._send(again)

    def _is_done(self, packet: Packet) -> bool:
        copy = self._row(packet.trade_ref)
        if copy is None:
            return False
        return copy.state is State.GONE or (copy.state is State.HELD and bool(copy.volume))

    def _is_settled(self) -> bool:
        with suppress(Exception):
            return self.broker.is_settled()
        return False

    def _positions(self) -> dict[int, Position] | None:
        """Ours, by their number; None while the broker cannot say."""
        try:
            found = self.broker.positions()
        except Exception:
            return None
        return {one.magic: one for one in found if one.magic >> 40 == (_OURS >> 40) + self.index}

    # --- the books

    def _magic(self, ref: str) -> int:
        """The number that ties orders, deals and positions to a trade, also when the state file is lost."""
        return _OURS + (self.index << 40) + int.from_bytes(hashlib.sha256(ref.encode()).digest()[:5])

    def _compare(self, packet: Packet) -> None:
        """What was heard before is ignored. Another packet of the same number: somebody forges, or the desk is ill."""
        heard = self._do("select sha256 from heard where seq = ?", packet.seq).fetchone()
        if heard is not None and heard[0] != packet.sha256 and self.standing is Standing.LIVE:
            self._stop(Standing.HALT, f"two packets are numbered {packet.seq}")

    def _stop(self, standing: Standing, why: str) -> None:
        self.needs_snapshot = True
        with self._durable():
            self._do("update guard set standing = ?, why = ?", standing.value, why)
            self._tell("held" if standing is Standing.HOLD else "halted", "", why)

    def _advance(self, packet: Packet) -> None:
        self._do("update guard set seen = ?", packet.seq)
        self._do("insert or replace into heard values (?, ?)", packet.seq, packet.sha256)
        self._do("delete from heard where seq <= ?", packet.seq - _KEPT_HASHES)

    def _give_up(self, target: Target, why: str) -> None:
        if self._row(target.ref) is None:
            self._insert(target, State.DEAD, why=why)
            self._tell("skipped", target.ref, why)

    def _insert(self, target: Target, state: State, magic: int | None = None, why: str = "") -> None:
        number = self._magic(target.ref) if magic is None else magic
        if why == "magic_taken":
            number = -number  # kept apart: the number is another trade's
        self._do(
            "insert into copy values (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0, ?)",
            target.ref, number, target.symbol, target.side, str(target.volume),
            books.text(target.sl), books.text(target.tp), target.seq, state.value, target.born_ms, self.clock_ms(), why,
        )  # fmt: skip

    def _mark(self, copy: Copy, state: State, event: str = "", why: str = "") -> None:
        self._looked_ms.pop(copy.ref, None)
        with self._durable():
            self._do("update copy set state = ?, why = ? where ref = ?", state.value, why, copy.ref)
            if event:
                self._tell(event, copy.ref, why)

    def _tell(self, event: str, ref: str, why: str) -> None:
        self._do("insert into outbox (event, ref, at_ms, why) values (?, ?, ?, ?)", event, ref, self.clock_ms(), why)

    def _unfinished(self) -> list[Copy]:
        rows = self._do("select * from copy where state in ('INTENT', 'REJECTED', 'HELD') order by seq, ref")
        return [books.copy_of(row) for row in rows.fetchall()]

    def _row(self, ref: str) -> Copy | None:
        found = self._do("select * from copy where ref = ?", ref).fetchone()
        return None if found is None else books.copy_of(found)

    def _numbered(self, magic: int) -> Copy | None:
        found = self._do("select * from copy where magic = ?", magic).fetchone()
        return None if found is None else books.copy_of(found)

    def _state(self, column: str) -> Any:
        return self._do(f"select {column} from guard where sub_id = ?", self.sub_id).fetchone()[0]  # noqa: S608

    def _do(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._db.execute(statement, values)

    @contextmanager
    def _durable(self) -> Iterator[None]:
        """One transaction, on the disk when it is over."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")


def _target(packet: Packet) -> Target:
    volume = Decimal(0) if packet.action == packets.CLOSE else packet.volume
    return Target(
        packet.trade_ref,
        packet.symbol,
        packet.side,
        volume,
        packet.sl,
        packet.tp,
        packet.price,
        packet.at_ms,
        packet.seq,
    )
