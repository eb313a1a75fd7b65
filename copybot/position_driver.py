"""Brings a position in line with its copy's target. Targets, not events: what is done already is not done again."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from copybot.broker import Broker, Outcome, Position, Result, SymbolSpec, Trace
from copybot.findings import Finding
from copybot.limits import BY_DISTANCE, Limits
from copybot.magic import index_of
from copybot.position_targets import Stops, stops_of, volume_to_close
from copybot.refusals import TOLD_AFTER_REFUSALS, Refusals
from copybot.state_store import Copy, StateStore

_ZERO = Decimal(0)
_CLOSE_SHOWN_MS = 5_000  # a second close of a position that is gone does no harm, so the wait can be short
_STOPS_MISSING_MS = 10_000
_FIFO = 10045


@dataclass
class PositionDriver:
    """One guard's orders that close, reduce and move stops. The next call repeats what failed.

    DONE is evidence, but the broker's list of positions may be behind: an order that was answered DONE is repeated only
    if the list does not show it within a bounded time.
    """

    broker: Broker
    store: StateStore = field(repr=False)
    clock_ms: Callable[[], int]
    index: int
    _refused_closes: Refusals[tuple[str, Decimal]] = field(default_factory=Refusals, init=False, repr=False)
    _all_ids: set[str] = field(default_factory=set, init=False, repr=False)
    _closed: dict[str, tuple[str, Decimal, int]] = field(default_factory=dict, init=False, repr=False)
    _reduced_from: dict[str, Decimal] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[str, Finding] = field(default_factory=dict, init=False, repr=False)
    _refused_stops: Refusals[tuple[str, Stops]] = field(default_factory=Refusals, init=False, repr=False)
    _stops_missing: dict[str, tuple[int, Stops]] = field(default_factory=dict, init=False, repr=False)

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
        if (ids := {position.id for position in positions}) != self._all_ids:
            self._all_ids = ids
            self._refused_closes.hurry(_FIFO)  # the position that had to be closed first may be gone
        own = [position for position in positions if index_of(position.magic) == self.index]
        self._forget_all_but({position.id for position in own})
        by_magic = {position.magic: position for position in reversed(own)}
        if len(by_magic) < len(own):
            self._close_doubles(own, by_magic)
        return by_magic

    def findings(self) -> list[Finding]:
        """The positions that do not follow their targets, and why."""
        return [*self._kept.values(), *self._refusals_found(), *self._missing_stops_found()]

    def _forget_all_but(self, ids: set[str]) -> None:
        for by_position in (self._closed, self._reduced_from, self._kept, self._stops_missing):
            for position_id in by_position.keys() - ids:
                del by_position[position_id]
        for close in self._refused_closes.orders():
            if close[0] not in ids:
                self._refused_closes.forget(close)
        for stops in self._refused_stops.orders():
            if stops[0] not in ids:
                self._refused_stops.forget(stops)

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
        # On the wrong side, after a netting account was reversed, no part of a position is the copy.
        if not copy.volume or position.side != copy.side:
            self._kept.pop(position.id, None)
            self.close(position)
            return
        with suppress(Exception):  # the next tick tries again
            spec = self.broker.spec(position.symbol)  # the copy's symbol may have been renamed
            if self._follow_volume(copy, position, spec, limits):
                stops = stops_of(copy, position, spec, by_distance=limits.stops == BY_DISTANCE)
                self._note_missing_stops(position, stops)
                if (position.sl, position.tp) != stops:
                    self._move_stops(position, stops, limits)

    # --- volumes

    def close(self, position: Position) -> None:
        """Try to close the whole position: exactly the volume that the broker shows."""
        with suppress(Exception):
            side, volume, since_ms = self._closed.get(position.id, ("", _ZERO, 0))
            is_same = (side, volume) == (position.side, position.volume)
            if is_same and abs(self.clock_ms() - since_ms) < _CLOSE_SHOWN_MS:
                return
            if self._take_off(position, position.volume) is Outcome.DONE:
                self._closed[position.id] = position.side, position.volume, self.clock_ms()

    def _take_off(self, position: Position, volume: Decimal) -> Outcome:
        now, order = self.clock_ms(), (position.id, volume)
        if not self._refused_closes.is_due(order, now):
            return Outcome.REJECTED
        result = self.broker.close(position, volume)
        self._refused_closes.note(order, result, now)
        return result.outcome

    def _follow_volume(self, copy: Copy, position: Position, spec: SymbolSpec | None, limits: Limits) -> bool:
        """Reduce the position to its target. False if it is closed instead."""
        volume = volume_to_close(position.volume, copy.volume, spec)
        is_above = not volume and position.volume > copy.volume
        if is_above and limits.closes_below_least:
            self._end_below_least(copy)
            self.close(position)
            return False
        if volume:
            self._reduce(copy, position, volume, limits)
        elif copy.reduced_ms:
            self._record_reduction(copy, 0)
        self._note_kept(copy, position, is_above=is_above)
        return True

    def _end_below_least(self, copy: Copy) -> None:
        """Give up a copy whose target the broker cannot hold, and report why it is closed before its trade."""
        with self.store.durable():
            self.store.change(copy.ref, volume=_ZERO, why="volume_too_small")
            self.store.queue("skipped", copy.ref, self.clock_ms(), "volume_too_small")

    def _note_kept(self, copy: Copy, position: Position, *, is_above: bool) -> None:
        if not is_above:
            self._kept.pop(position.id, None)
            return
        words = (
            f"{position.volume} lots are held for a target of {copy.volume}: the broker cannot close so little. They "
            "stay until the provider is out, or close them yourself"
        )
        self._kept[position.id] = Finding(position.id, "kept_above_target", words, ref=copy.ref)

    def _reduce(self, copy: Copy, position: Position, volume: Decimal, limits: Limits) -> None:
        """Reduce once: an order whose answer was lost may still be executed, and a second would reduce twice.

        A full close needs no such care, since nothing remains for a second one.
        """
        now = self.clock_ms()
        if copy.reduced_ms > now:  # the clock was set back: the wait begins anew, or it would last that long
            self._record_reduction(copy, now)
            return
        is_shown = position.volume < self._reduced_from.get(position.id, _ZERO)
        is_in_flight = copy.reduced_ms and not is_shown
        if is_in_flight and (self._is_unsettled(now - copy.reduced_ms, limits) or self._is_waiting(copy, now)):
            return
        self._reduced_from.pop(position.id, None)
        self._record_reduction(copy, now)
        outcome = self._take_off(position, volume)
        if outcome is Outcome.REJECTED:
            self._record_reduction(copy, 0)
        elif outcome is Outcome.DONE:
            self._reduced_from[position.id] = position.volume

    def _is_unsettled(self, waited_ms: int, limits: Limits) -> bool:
        """Whether an order may still be executed or shown. A broker's history may never count as complete, so that this
        wait is bounded as well."""
        return waited_ms < limits.settle_ms or (waited_ms < 2 * limits.settle_ms and not self.is_settled())

    def _is_waiting(self, copy: Copy, now: int) -> bool:
        """Whether the broker has accepted the order and not executed it yet, as over a weekend. Once it is executed,
        the list of positions again has the time to show it."""
        is_waiting = self.broker.trace(copy.magic) is Trace.WAITING
        if is_waiting:
            self._record_reduction(copy, now)
        return is_waiting

    def _record_reduction(self, copy: Copy, since_ms: int) -> None:
        with self.store.durable():
            self.store.change(copy.ref, reduced_ms=since_ms)

    def _refusals_found(self) -> list[Finding]:
        """The closes and reductions that the broker goes on refusing."""
        findings = []
        for (position_id, volume), refusal in self._refused_closes.items():
            if refusal.count < TOLD_AFTER_REFUSALS:
                continue
            kind, words = _refused(volume, refusal.result, refusal.count)
            findings.append(Finding(position_id, kind, words, ref=self._ref_of(position_id)))
        return findings

    # --- stops

    def _move_stops(self, position: Position, stops: Stops, limits: Limits) -> None:
        """Set the stops. If the broker refuses one of them (too close, say), wait before the next attempt."""
        now, order = self.clock_ms(), (position.id, stops)
        if not self._refused_stops.is_due(order, now, limits.stops_again_ms):
            return
        for other in self._refused_stops.orders():
            if other[0] == position.id and other != order:
                self._refused_stops.forget(other)
        result = self.broker.modify(position, sl=stops[0], tp=stops[1])
        self._refused_stops.note(order, result, now)

    def _note_missing_stops(self, position: Position, stops: Stops) -> None:
        now, there = self.clock_ms(), (position.sl, position.tp)
        is_missing = any(wanted and not present for wanted, present in zip(stops, there, strict=True))
        if is_missing:
            since_ms, _ = self._stops_missing.get(position.id, (now, stops))
            self._stops_missing[position.id] = min(since_ms, now), stops  # clocks are set back, too
        else:
            self._stops_missing.pop(position.id, None)

    def _missing_stops_found(self) -> list[Finding]:
        """The positions that the broker has left without a stop for a while."""
        findings = []
        for position_id, (since_ms, (sl, tp)) in self._stops_missing.items():
            if self.clock_ms() - since_ms < _STOPS_MISSING_MS:
                continue
            refusal = self._refused_stops.get((position_id, (sl, tp)))
            code = "" if refusal is None else f" ({refusal.result.code} {refusal.result.why})"
            words = f"the broker has not set stop loss {sl or '-'}, take profit {tp or '-'}{code}"
            findings.append(Finding(position_id, "stop_refused", words, ref=self._ref_of(position_id)))
        return findings

    def _ref_of(self, position_id: str) -> str:
        return next((copy.ref for copy in self.store.unfinished() if copy.position == position_id), "")


def _refused(volume: Decimal, result: Result, count: int) -> tuple[str, str]:
    """The kind and the words of a finding about a close that the broker refuses."""
    if result.why == "market_closed":
        return "market_closed", f"the close of {volume} lots waits until the market opens ({result.code})"
    words = f"the broker has refused to close {volume} lots {count} times ({result.code} {result.why})"
    return "fifo" if result.code == _FIFO else "close_refused", words
