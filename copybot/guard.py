"""The guard between signals and a broker: no trade is opened twice and no closed trade comes back, whatever crashes.

A broker is not transactional and knows no order id of the client's, so "exactly once" is impossible. An open happens
at most once: a missed trade costs an opportunity, a doubled one costs money. A close, a reduction and a change of stops
are targets (`volume must be 0`): the guard repeats them until the broker's books agree, and a repeat does no harm.

One row per trade holds what its copy must be. The row is durable before an order is sent, never goes from closed back
to open, and its volume never grows. If the answer to an order is lost, the guard looks for its magic number in the
broker's books. If the books are complete and show nothing, the guard gives the trade up and never sends it again.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from copybot import packets, targets
from copybot.absences import Absences
from copybot.broker import Broker, Outcome, Position
from copybot.findings import Finding
from copybot.limits import BY_DISTANCE, Limits
from copybot.magic import index_of, magic_of
from copybot.mass_close_brake import MassCloseBrake
from copybot.packets import Packet
from copybot.position_driver import PositionDriver
from copybot.state_store import Copy, Event, GuardMode, State, StateStore, copy_of
from copybot.targets import Snapshot, Target

__all__ = ["ExecutionGuard", "Limits", "always"]

_ZERO = Decimal(0)


def always(_: Target) -> str:
    """The default of `why_not`: no further condition on an open."""
    return ""


@dataclass
class ExecutionGuard:
    """The guard of one subscription. One process holds its file; one thread at a time may call it.

    `secrets`: the packet secrets by generation. `index`: the subscription's 16-bit number on this broker account.
    `clock_ms`: the desk's time. `why_not`: a last condition on an open (lease, price, funds). It returns a reason to
    skip the open, or an empty text. It is never called for a close.
    """

    path: str | Path
    sub_id: str
    secrets: Mapping[int, str] = field(repr=False)
    index: int
    broker: Broker
    clock_ms: Callable[[], int]
    limits: Limits = field(default_factory=Limits)
    why_not: Callable[[Target], str] = always
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    needs_snapshot: bool = field(default=True, init=False)
    _received_ms: int = field(default=0, init=False, repr=False)
    _disputed_seq: int = field(default=0, init=False, repr=False)
    _unrecorded_closes: set[int] = field(default_factory=set, init=False, repr=False)
    _brake: MassCloseBrake = field(default_factory=MassCloseBrake, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.index < 1 << 16:
            raise ValueError("index has 16 bits")
        self._store = StateStore(self.path, self.sub_id, self.connect)
        self._driver = PositionDriver(self.broker, self._store, self.clock_ms, self.index)
        self._absences = Absences(self.broker, self.clock_ms, self._driver.is_settled)

    # --- state

    @property
    def seen(self) -> int:
        """The sequence number of the latest packet or snapshot taken up. It never falls within an epoch."""
        return self._store.seen

    @property
    def last_sequence_id(self) -> int:
        """The latest sequence number whose effect the broker's books showed."""
        return self._store.executed

    @property
    def mode(self) -> GuardMode:
        return self._store.mode

    @property
    def why(self) -> str:
        return self._store.why

    @property
    def epoch(self) -> str:
        """The desk's epoch in the last snapshot; empty before the first."""
        return self._store.epoch

    @property
    def lease(self) -> tuple[int, int]:
        """The takeover number of the last lease under which this file was used (0: none), and since when it held."""
        return self._store.takeover_number, self._store.leased_ms

    def note_lease(self, takeover_number: int, since_ms: int) -> None:
        with self._store.durable():
            self._store.note(fence=takeover_number, leased_ms=since_ms)

    def copies(self) -> list[Copy]:
        return self._store.copies()

    def unfinished(self) -> list[Copy]:
        """The copies that are held or may still be opened."""
        return self._store.unfinished()

    def copy(self, ref: str) -> Copy | None:
        return self._store.copy(ref)

    def by_magic(self, magic: int) -> Copy | None:
        """The copy whose orders, deals and position have this magic number."""
        return self._store.by_magic(magic) if index_of(magic) == self.index else None

    def outbox(self, most: int = 100) -> list[Event]:
        """Up to `most` events not yet reported to the desk, oldest first. A second report must do no harm."""
        return self._store.outbox(most)

    def mark_reported(self, event: Event) -> None:
        with self._store.durable():
            self._store.mark_reported(event)

    def report_again(self, ref: str, *, in_short: bool = False) -> None:
        """Queue the end of a copy again, for a desk that does not know it (after a restore, say).

        `in_short`: report only that there is no copy, because the desk could not take up the full report.
        """
        copy = self._store.copy(ref)
        if copy is None or copy.state not in (State.DEAD, State.GONE):
            return
        with self._store.durable():
            if copy.state is State.GONE and not in_short:
                self._queue("closed", ref, copy.why)
            else:
                self._queue("skipped", ref, copy.why or "closed")

    def findings(self) -> list[Finding]:
        """What the guard cannot mend by itself, so that a person should know about it."""
        words = {
            GuardMode.HOLD: "nothing is opened or closed until the desk has a new epoch",
            GuardMode.HALT: "nothing is opened until someone has looked and runs copybot follow --release",
        }.get(self.mode)
        kind = "held" if self.mode is GuardMode.HOLD else "halted"
        own = [Finding("", kind, f"{words}: {self.why}")] if words else []
        return [*own, *self._driver.findings(), *self._absences.findings()]

    def lost_touch(self) -> None:
        """Open nothing until the next snapshot: the stream broke off or went silent."""
        self.needs_snapshot = True

    def release(self) -> None:
        """End a HALT whose cause an operator has examined."""
        if self.mode is GuardMode.HALT:
            with self._store.durable():
                self._store.note(standing=GuardMode.LIVE.value, why="")

    def wind_up(self) -> None:
        """Close every copy that is held or may still be opened: its owner no longer follows the strategy."""
        with self._store.durable():
            for copy in self._store.unfinished():
                self._store.change(copy.ref, volume=_ZERO)

    def close(self) -> None:
        self._store.close()

    # --- signals

    def on_packet(self, fields: Mapping[str, Any]) -> None:
        """Take up a packet of the stream. Raises PacketRefused unless this subscription's secret signed it."""
        self._received_ms = self.clock_ms()
        packet = packets.read(fields, secrets=self.secrets, sub_id=self.sub_id)
        if packet.seq <= self.seen:
            self._compare(packet)
            return
        if self.mode is GuardMode.HOLD:
            self.needs_snapshot = True
            return
        is_live = self.mode is GuardMode.LIVE and not self.needs_snapshot
        in_turn = is_live and packet.seq == self.seen + 1
        if not in_turn:
            self.needs_snapshot = True
            if packet.action not in packets.SHRINKING:
                return
        try:
            with self._store.durable():
                opening = self._record_packet(packet, in_turn=in_turn)
        except sqlite3.Error:
            self.needs_snapshot = True
            if packet.action == packets.CLOSE:
                self._unrecorded_closes.add(self._magic(packet.trade_ref))
            raise
        if opening is not None:
            self._send(opening)
        self.tick()
        if in_turn and self._has_effect(packet):
            with self._store.durable():
                self._store.note(executed=max(self.last_sequence_id, packet.seq))

    def on_snapshot(self, snapshot: Snapshot, *, asked_at: int) -> None:
        """Bring every copy in line with the active trades.

        `asked_at`: the value of `seen` when the snapshot was requested. If the snapshot is older than that, the desk
        has gone back in time and the guard goes on HOLD. If packets overtook the snapshot on its way, the guard drops
        it and `needs_snapshot` stays true.
        """
        self._received_ms, epoch = self.clock_ms(), self._store.epoch
        if epoch == snapshot.epoch:
            if self.mode is GuardMode.HOLD:
                return
            if snapshot.as_of < asked_at:
                self._stop(GuardMode.HOLD, f"the desk is at {snapshot.as_of}, and was at {asked_at}")
                return
            if snapshot.as_of < self.seen:
                return
            if self._disputed_seq:
                self._stop(GuardMode.HALT, f"two packets are numbered {self._disputed_seq}")
        self._disputed_seq = 0
        positions = self._driver.positions()
        if positions is None or self._brakes(snapshot, positions):
            self.needs_snapshot = True
            return
        try:
            with self._store.durable():
                self._apply_snapshot(snapshot, positions, is_new=not epoch)
        except sqlite3.Error:
            self._unrecorded_closes |= positions.keys() - self._staying(snapshot)
            raise
        self.needs_snapshot = False
        for target in sorted(snapshot.targets.values(), key=lambda target: target.seq):
            if self._store.copy(target.ref) is None:
                with self._store.durable():
                    opening = self._intend(target)
                if opening is not None:
                    self._send(opening)
        self.tick()

    def tick(self) -> None:
        """Bring every copy closer to its target. Call it about once a second; any time is safe.

        If the state file cannot be written, `tick` first does all that does not need the file, then raises the error.
        """
        positions = self._driver.positions()
        if positions is None:
            return
        self._unrecorded_closes &= positions.keys()
        unfinished = {copy.magic: copy for copy in self._store.unfinished()}
        faults: list[Exception] = []
        for magic in [*positions, *(unfinished.keys() - positions.keys())]:
            try:
                self._drive(magic, unfinished.get(magic) or self._store.by_magic(magic), positions.get(magic))
            except Exception as fault:
                faults.append(fault)
        if faults:
            raise faults[0]

    def _drive(self, magic: int, copy: Copy | None, position: Position | None) -> None:
        if position is None:
            if copy is not None:
                self._without_position(copy)
        elif magic in self._unrecorded_closes:
            self._driver.close(position)
        elif copy is not None:
            if copy.position not in ("", position.id):  # a second position of this magic: the copy itself is gone
                self._driver.close(position)
            else:
                self._with_position(copy, position)

    # --- deciding

    def _record_packet(self, packet: Packet, *, in_turn: bool) -> Copy | None:
        """Record a packet. Returns the row of an open that is to be sent."""
        if in_turn:
            self._store.advance(packet.seq, packet.sha256)
        if packet.action == packets.OPEN:
            return self._intend(targets.of_packet(packet))
        if packet.action != packets.GAPFILL:
            self._apply(packet)
        return None

    def _apply_snapshot(self, snapshot: Snapshot, positions: Mapping[int, Position], *, is_new: bool) -> None:
        if snapshot.epoch != self._store.epoch:
            self._store.forget_heard()
            self._store.note(epoch=snapshot.epoch)
            if self.mode is GuardMode.HOLD:
                self._store.note(standing=GuardMode.LIVE.value, why="")
        if snapshot.as_of != self.seen:
            self._store.note(seen=snapshot.as_of)
        for copy in self._store.unfinished():
            if copy.volume and copy.ref not in snapshot.targets:
                self._store.change(copy.ref, volume=_ZERO)
        for target in snapshot.targets.values():
            self._lower(target)
        self._adopt_positions(positions, snapshot)
        if is_new:  # the file knows nothing of trades that opened before it, so none of them is opened
            for target in snapshot.targets.values():
                self._give_up(target, "new_install")

    def _intend(self, target: Target) -> Copy | None:
        """The row of an open that may be sent; None if the trade has a row already or must not be opened."""
        if self._store.copy(target.ref) is not None or target.awaits_stop:
            return None  # a trade that awaits its stop gets no row: the stop comes with an OPEN packet or a snapshot
        why = self._refusal(target)
        if why:
            self._give_up(target, why)
            return None
        self._insert(target, State.INTENT)
        return self._store.copy(target.ref)

    def _refusal(self, target: Target) -> str:
        if not target.opens or not target.volume:
            return target.why_not or "closed"
        if self.mode is not GuardMode.LIVE:
            return "halted"
        if self._is_stale(target.born_ms):
            return "missed"
        if self._store.by_magic(self._magic(target.ref)) is not None:
            return "magic_taken"
        return self.why_not(target)

    def _is_stale(self, born_ms: int) -> bool:
        """Whether a trade is too old to be opened, or so far in the future that this clock cannot tell its age."""
        return abs(self.clock_ms() - born_ms) > self.limits.max_open_age_ms

    def _apply(self, packet: Packet) -> None:
        target = targets.of_packet(packet)
        if packet.action == packets.CLOSE and self._store.copy(packet.trade_ref) is None:
            self._give_up(target, "closed")  # the close overtook its open, which must find the trade dead
        self._lower(target)

    def _lower(self, target: Target) -> None:
        """Lower a copy's volume, which never rises, and take over the stops while there is a volume to protect."""
        copy = self._store.copy(target.ref)
        if copy is None or not copy.volume:
            return
        volume = min(copy.volume, target.volume)
        sl, tp = (target.sl, target.tp) if volume else (copy.sl, copy.tp)
        if (volume, sl, tp) != (copy.volume, copy.sl, copy.tp):
            self._store.change(target.ref, volume=volume, sl=sl, tp=tp)

    def _brakes(self, snapshot: Snapshot, positions: Mapping[int, Position]) -> bool:
        """Whether the snapshot closes so much that a second one must confirm it a moment later."""
        staying = self._staying(snapshot)
        closing = {copy.magic for copy in self._store.unfinished() if not copy.volume}
        going = frozenset(position.id for magic, position in positions.items() if magic not in staying | closing)
        return self._brake.holds(going, len(positions), self.limits, self.clock_ms())

    def _staying(self, snapshot: Snapshot) -> set[int]:
        return {self._magic(target.ref) for target in snapshot.targets.values() if target.volume}

    def _adopt_positions(self, positions: Mapping[int, Position], snapshot: Snapshot) -> None:
        """Add rows for positions with our magic that have none, as after a lost state file.

        The position of an active trade is kept, any other is closed. The process that lost the file may have sent a
        reduction that is still in flight, so the first reduction waits for it (`reduced_ms`).
        """
        refs = {self._magic(ref): ref for ref in snapshot.targets}
        for magic, position in positions.items():
            if self._store.by_magic(magic) is not None:
                continue
            active = snapshot.targets.get(refs.get(magic, ""))
            target = active or targets.of_unknown(position, self.clock_ms())
            self._insert(target, State.HELD, magic, position=position)
            self._store.change(target.ref, reduced_ms=self.clock_ms())

    # --- orders and their outcome

    def _send(self, copy: Copy) -> None:
        """Send the order of a recorded intent. Without a clear yes or no from the broker the row stays an intent."""
        try:
            spec = self.broker.spec(copy.symbol)
            fitted = None if spec is None else (spec.lots(copy.volume), spec.stop(copy.sl), spec.stop(copy.tp))
        except Exception:  # no order was sent
            self._mark(copy, State.REJECTED)
            return
        if fitted is None:
            self._mark(copy, State.REJECTED, why="symbol_unknown")
            return
        volume, sl, tp = fitted
        if self.limits.stops == BY_DISTANCE:  # from the open price, so they are set as soon as the position is seen
            sl = tp = None
        if not volume:
            self._mark(copy, State.DEAD, "skipped", "volume_too_small")
            return
        try:
            result = self.broker.open(magic=copy.magic, symbol=copy.symbol, side=copy.side, volume=volume, sl=sl, tp=tp)
        except Exception:
            return
        if result.outcome is Outcome.DONE:
            with self._store.durable():
                self._store.change(copy.ref, state=State.HELD, asked=volume, filled_ms=self.clock_ms())
        elif result.outcome is Outcome.REJECTED:
            self._mark(copy, State.REJECTED, why=result.why)

    def _with_position(self, copy: Copy, position: Position) -> None:
        self._absences.forget(copy.ref)
        if copy.state is not State.HELD or copy.position != position.id:
            self._record_position(copy, position)
        self._driver.drive(copy, position, self.limits)

    def _record_position(self, copy: Copy, position: Position) -> None:
        with self._store.durable():
            self._store.change(
                copy.ref, state=State.HELD, why="", position=position.id, filled_price=position.open_price,
                asked=copy.asked or position.volume,
            )  # fmt: skip
            if copy.position != position.id:
                self._queue("opened", copy.ref, "")

    def _without_position(self, copy: Copy) -> None:
        if copy.state is State.REJECTED:
            self._try_again(copy)
        else:
            self._look_up_order(copy)

    def _look_up_order(self, copy: Copy) -> None:
        """Look in the broker's books for an order whose position is not, or no longer, among the open ones."""
        verdict = self._absences.judge(copy, self.limits)
        if verdict is not None:
            self._mark(copy, *verdict)

    def _try_again(self, copy: Copy) -> None:
        """Send an order that the broker clearly refused again, if the open is still wanted."""
        if self.needs_snapshot:
            return
        why = self._why_not_again(copy)
        if why:
            self._mark(copy, State.DEAD, "skipped", why)
            return
        again = replace(copy, state=State.INTENT, attempts=copy.attempts + 1, sent_ms=self.clock_ms())
        with self._store.durable():
            self._store.change(copy.ref, state=State.INTENT, attempts=again.attempts, sent_ms=again.sent_ms)
        self._send(again)

    def _why_not_again(self, copy: Copy) -> str:
        if not copy.volume:
            return "closed"
        if self.mode is not GuardMode.LIVE:
            return "halted"
        if copy.attempts >= self.limits.attempts or self._is_stale(copy.born_ms):
            return copy.why or "rejected"
        return self.why_not(copy.target)

    def _has_effect(self, packet: Packet) -> bool:
        copy = self._store.copy(packet.trade_ref)
        if copy is None:
            return packet.action == packets.GAPFILL
        return copy.state is State.GONE or (copy.state is State.HELD and bool(copy.volume))

    # --- the state file

    def _magic(self, ref: str) -> int:
        return magic_of(self.index, ref)

    def _compare(self, packet: Packet) -> None:
        """Ignore a repeated packet. Halt on a different packet of the same number: a forgery, or a faulty desk."""
        heard = self._store.heard(packet.seq)
        if heard is None or heard == packet.sha256 or self.mode is not GuardMode.LIVE:
            return
        if self.needs_snapshot:  # the next snapshot shows whether the desk was restored and numbers anew
            self._disputed_seq = packet.seq
        else:
            self._stop(GuardMode.HALT, f"two packets are numbered {packet.seq}")

    def _stop(self, mode: GuardMode, why: str) -> None:
        self.needs_snapshot = True
        with self._store.durable():
            self._store.note(standing=mode.value, why=why)
            self._queue("held" if mode is GuardMode.HOLD else "halted", "", why)

    def _give_up(self, target: Target, why: str) -> None:
        if self._store.copy(target.ref) is None:
            self._insert(target, State.DEAD, why=why)
            self._queue("skipped", target.ref, why)

    def _insert(
        self, target: Target, state: State, magic: int | None = None, why: str = "", position: Position | None = None
    ) -> None:
        number = self._magic(target.ref) if magic is None else magic
        if why == "magic_taken":
            number = -number  # the column is unique, and another trade has this magic
        copy = copy_of(target, number, state, heard_ms=self._received_ms, now_ms=self.clock_ms(), why=why)
        if position is not None:
            copy = replace(copy, position=position.id, filled_price=position.open_price, asked=position.volume)
        self._store.add(copy)

    def _mark(self, copy: Copy, state: State, event: str = "", why: str = "") -> None:
        self._absences.forget(copy.ref)
        with self._store.durable():
            self._store.change(copy.ref, state=state, why=why)
            if event:
                self._queue(event, copy.ref, why)

    def _queue(self, event: str, ref: str, why: str) -> None:
        self._store.queue(event, ref, self.clock_ms(), why)
