"""Brings a position to what its copy must be. Targets, not events: whatever was done already is not done again."""

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
    """One guard's orders that close, reduce, and move stops. What fails is tried again with the next call."""

    broker: Broker
    store: StateStore = field(repr=False)
    clock_ms: Callable[[], int]
    index: int
    _stops_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _refused_ms: dict[tuple[str, Decimal], tuple[int, int]] = field(default_factory=dict, init=False, repr=False)

    def is_settled(self) -> bool:
        with suppress(Exception):
            return self.broker.is_settled()
        return False

    def positions(self) -> dict[int, Position] | None:
        """Ours, by their number; None while the broker cannot say."""
        try:
            found = self.broker.positions()
        except Exception:
            return None
        ours = [one for one in found if index_of(one.magic) == self.index]
        by_number = {one.magic: one for one in reversed(ours)}
        if len(by_number) < len(ours):
            self._close_doubles(ours, by_number)
        return by_number

    def _close_doubles(self, ours: list[Position], kept: dict[int, Position]) -> None:
        """Of several under one number one is kept, that of the books: a broker executed what it said it had refused."""
        for one in ours:
            copy = self.store.numbered(one.magic)
            if copy is not None and copy.position == one.id:
                kept[one.magic] = one
        for one in ours:
            if kept[one.magic] is not one:
                self.close(one)

    def drive(self, copy: Copy, position: Position, limits: Limits) -> None:
        if position.side != copy.side:  # a netting account was turned: none of it is what was copied
            self.close(position)
            return
        with suppress(Exception):  # looked at again on the next tick
            volume, sl, tp = self.broker.fit(copy.symbol, copy.volume, copy.sl, copy.tp)
            if not volume:
                self.close(position)
            elif position.volume > volume:
                self._reduce(copy, position, position.volume - volume, limits)
            else:
                if copy.reduced_ms:
                    self._note_reducing(copy, 0)
                if (position.sl, position.tp) != (sl, tp):
                    self._move_stops(position, sl, tp, limits)

    def close(self, position: Position) -> None:
        """Close all of it, or try to."""
        with suppress(Exception):
            self._take_off(position, position.volume)

    def _take_off(self, position: Position, volume: Decimal) -> Outcome:
        """What a broker refuses (over a weekend, say) is sent again at once, then less and less often: it would shut
        out one who asks each second for two days."""
        now, about = self.clock_ms(), (position.id, volume)
        first_ms, last_ms = self._refused_ms.get(about, (now, 0))
        if now - last_ms < min(_LONGEST_WAIT_MS, (last_ms - first_ms) // 10):
            return Outcome.REJECTED
        outcome = self.broker.close(position, volume).outcome
        if outcome is Outcome.REJECTED:
            self._refused_ms[about] = first_ms, now
        else:
            self._refused_ms.pop(about, None)
        return outcome

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
        if self._take_off(position, volume) is not Outcome.UNKNOWN:
            self._note_reducing(copy, 0)

    def _note_reducing(self, copy: Copy, since_ms: int) -> None:
        with self.store.durable():
            self.store.change(copy.ref, reduced_ms=since_ms)
