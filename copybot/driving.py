"""Brings a position to what its copy must be. Targets, not events: whatever was done already is not done again."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from copybot.books import Books, Copy
from copybot.broker import Broker, Outcome, Position
from copybot.limits import Limits


@dataclass
class Driver:
    """One guard's orders that close, reduce, and move stops. What fails is tried again with the next call."""

    broker: Broker
    books: Books = field(repr=False)
    clock_ms: Callable[[], int]
    is_settled: Callable[[], bool]
    _stops_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def drive(self, copy: Copy, position: Position, limits: Limits) -> None:
        with suppress(Exception):  # looked at again on the next tick
            volume, sl, tp = self.broker.fit(copy.symbol, copy.volume, copy.sl, copy.tp)
            if not volume:
                self.broker.close(position, position.volume)
            elif position.volume > volume:
                self._reduce(copy, position, position.volume - volume, limits)
            else:
                if copy.reduced_ms:
                    self._note_reducing(copy, 0)
                if (position.sl, position.tp) != (sl, tp):
                    self._move_stops(position, sl, tp, limits)

    def _move_stops(self, position: Position, sl: Decimal | None, tp: Decimal | None, limits: Limits) -> None:
        """A broker that refuses stops (too near, say) is asked again, though not each second."""
        now = self.clock_ms()
        if now < self._stops_ms.get(position.id, 0):
            return
        if self.broker.modify(position, sl=sl, tp=tp).outcome is Outcome.REJECTED:
            self._stops_ms[position.id] = now + limits.stops_again_ms

    def _reduce(self, copy: Copy, position: Position, volume: Decimal, limits: Limits) -> None:
        """Take some off, once: an order whose answer was lost may come yet, and a second would take off as much again.

        (Closing all needs no such care: there is no more than all.)
        """
        now = self.clock_ms()
        if copy.reduced_ms and (now - copy.reduced_ms < limits.settle_ms or not self.is_settled()):
            return
        self._note_reducing(copy, now)
        if self.broker.close(position, volume).outcome is not Outcome.UNKNOWN:
            self._note_reducing(copy, 0)

    def _note_reducing(self, copy: Copy, since_ms: int) -> None:
        with self.books.durable():
            self.books.change(copy.ref, reduced_ms=since_ms)
