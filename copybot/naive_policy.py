"""The naive policy, for comparison in simulations only. Do not trade with it.

It stores a packet's number, sends its order, and takes the number back if the order failed, so that the packet counts
as new again. On start and after a gap it opens every active trade that has no position.
"""

from collections.abc import Mapping
from typing import Any

from copybot import packets, targets
from copybot.broker import Outcome, Position
from copybot.guard import ExecutionGuard
from copybot.packets import Packet
from copybot.state_store import State
from copybot.targets import Snapshot, Target


class NaiveGuard(ExecutionGuard):
    """Keeps one number on disk, and trusts the answer to each order and the list of active trades."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._failed: list[Packet] = []

    def on_packet(self, fields: Mapping[str, Any]) -> None:
        self._process(packets.read(fields, secrets=self.secrets, sub_id=self.sub_id))

    def on_snapshot(self, snapshot: Snapshot, *, asked_at: int) -> None:
        positions = self._driver.positions()
        if positions is None:
            return
        wanted = {self._magic(ref): target for ref, target in snapshot.targets.items()}
        for magic, position in positions.items():
            self._follow(position, wanted.get(magic))
        for magic, target in wanted.items():
            if magic not in positions:
                self._order(packets.OPEN, target)
        with self._store.durable():
            self._store.note(seen=max(self.seen, snapshot.as_of))
        self.needs_snapshot = False

    def tick(self) -> None:
        self._record_ends()
        failed, self._failed = self._failed, []
        for packet in failed:
            self._process(packet)

    def _record_ends(self) -> None:
        """Not part of the policy: it lets a simulation compare the policy's reports with the desk."""
        positions = self._driver.positions()
        for copy in self.unfinished() if positions is not None and self._driver.is_settled() else ():
            position = (positions or {}).get(copy.magic)
            if position is None:
                self._mark(copy, State.GONE, "closed")
            elif copy.position != position.id:
                self._record_position(copy, position)

    def _process(self, packet: Packet) -> None:
        if packet.seq <= self.seen:
            return
        if packet.seq > self.seen + 1:
            self.needs_snapshot = True
            return
        with self._store.durable():
            self._store.note(seen=packet.seq)
        if packet.action != packets.GAPFILL and not self._order(packet.action, targets.of_packet(packet)):
            with self._store.durable():
                self._store.note(seen=packet.seq - 1)
            self._failed.append(packet)

    def _order(self, action: str, target: Target) -> bool:
        """Whether the broker confirmed the order."""
        try:
            if action == packets.OPEN:
                return self._open(target)
            position = (self._driver.positions() or {}).get(self._magic(target.ref))
            return position is None or self._follow(position, None if action == packets.CLOSE else target)
        except (OSError, TimeoutError):
            return False

    def _open(self, target: Target) -> bool:
        if self._store.copy(target.ref) is None:
            with self._store.durable():
                self._insert(target, State.HELD)
        answer = self.broker.open(
            magic=self._magic(target.ref), symbol=target.symbol, side=target.side, volume=target.volume,
            sl=target.sl, tp=target.tp,
        )  # fmt: skip
        return answer.outcome is Outcome.DONE

    def _follow(self, position: Position, target: Target | None) -> bool:
        if target is not None and self._store.copy(target.ref) is not None:
            with self._store.durable():
                self._store.change(target.ref, volume=target.volume, sl=target.sl, tp=target.tp)
        try:
            if target is None:
                return self.broker.close(position, position.volume).outcome is Outcome.DONE
            if position.volume > target.volume:
                return self.broker.close(position, position.volume - target.volume).outcome is Outcome.DONE
            if (position.sl, position.tp) != (target.sl, target.tp):
                return self.broker.modify(position, sl=target.sl, tp=target.tp).outcome is Outcome.DONE
        except (OSError, TimeoutError):
            return False
        return True
