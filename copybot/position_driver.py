"""Brings a position in line with its copy's target. Targets, not events: what is done already is not done again."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from copybot.broker import Broker, Outcome, Position
from copybot.limits import Limits
from copybot.magic import index_of
from copybot.state_store import Copy, StateStore

_LONGEST_WAIT_MS = 15_000


@dataclass
class PositionDriver:
    """One guard's orders that close, reduce and move stops. The next call repeats what failed."""

    broker: Broker
    store: StateStore = field(repr=False)
    clock_ms: Callable[[], int]
    index: int
    _stops_due_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _refused_ms: dict[tuple[str, Decimal], tuple[int, int]] = field(default_factory=dict, init=False, repr=False)

    def is_settled(self) -> bool:
        with suppress(Exception):
            return self.broker.is_settled()
        return False

    def positions(self) -> dict[int, Position] | None:
        """This subscription's positions by magic number; None while the broker does not answer."""
        try:
            positions = self.broker.positions()
        except Exception:
            return None
        own = [position for position in positions if index_of(position.magic) == self.index]
        by_magic = {position.magic: position for position in reversed(own)}
        if len(by_magic) < len(own):
            self._close_doubles(own, by_magic)
        return by_magic

    def _close_doubles(self, own: list[Position], by_magic: dict[int, Position]) -> None:
        """Keep one position per magic, preferably the one on record. Brokers do execute orders they have refused."""
        for position in own:
            copy = self.store.by_magic(position.magic)
            if copy is not None and copy.position == position.id:
                by_magic[position.magic] = position
        for position in own:
            if by_magic[position.magic] is not position:
                self.close(position)

    def drive(self, copy: Copy, position: Position, limits: Limits) -> None:
        if position.side != copy.side:  # a netting account was reversed: no part of it is the copy
            self.close(position)
            return
        with suppress(Exception):  # the next tick tries again
            volume, sl, tp = copy.volume, copy.sl, copy.tp
            spec = self.broker.spec(copy.symbol)
            if spec is not None:
                volume, sl, tp = spec.lots(volume), spec.stop(sl), spec.stop(tp)
            if not volume:
                self.close(position)
            elif position.volume > volume:
                self._reduce(copy, position, position.volume - volume, limits)
            else:
                if copy.reduced_ms:
                    self._record_reduction(copy, 0)
                if (position.sl, position.tp) != (sl, tp):
                    self._move_stops(position, sl, tp, limits)

    def close(self, position: Position) -> None:
        """Try to close the whole position."""
        with suppress(Exception):
            self._take_off(position, position.volume)

    def _take_off(self, position: Position, volume: Decimal) -> Outcome:
        """Repeat a refused order (over a weekend, say) at once, then less and less often. A broker would block a client
        that asked every second for two days."""
        now, order = self.clock_ms(), (position.id, volume)
        first_ms, last_ms = self._refused_ms.get(order, (now, 0))
        if now - last_ms < min(_LONGEST_WAIT_MS, (last_ms - first_ms) // 10):
            return Outcome.REJECTED
        outcome = self.broker.close(position, volume).outcome
        if outcome is Outcome.REJECTED:
            self._refused_ms[order] = first_ms, now
        else:
            self._refused_ms.pop(order, None)
        return outcome

    def _move_stops(self, position: Position, sl: Decimal | None, tp: Decimal | None, limits: Limits) -> None:
        """Set the stops. If the broker refuses them (too close, say), wait before the next attempt."""
        now = self.clock_ms()
        if now < self._stops_due_ms.get(position.id, 0):
            return
        if self.broker.modify(position, sl=sl, tp=tp).outcome is Outcome.REJECTED:
            self._stops_due_ms[position.id] = now + limits.stops_again_ms

    def _reduce(self, copy: Copy, position: Position, volume: Decimal, limits: Limits) -> None:
        """Reduce once: an order whose answer was lost may still be executed, and a second would reduce twice.

        A full close needs no such care, since nothing remains for a second one.
        """
        now = self.clock_ms()
        if copy.reduced_ms and (now - copy.reduced_ms < limits.settle_ms or not self.is_settled()):
            return
        self._record_reduction(copy, now)
        if self._take_off(position, volume) is not Outcome.UNKNOWN:
            self._record_reduction(copy, 0)

    def _record_reduction(self, copy: Copy, since_ms: int) -> None:
        with self.store.durable():
            self.store.change(copy.ref, reduced_ms=since_ms)
