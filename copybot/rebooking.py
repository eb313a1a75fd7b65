"""Positions that a server books anew: each goes on as the same position, under its first id and in its first units.

At a rollover, a charge of variation margin, a split or another corporate action a server may close each open position
and open it again at once: two deals with a reason of their own, under the same position id or a new one. A split
changes price and volume as well. Nobody traded, so nothing is published and no copy is closed. A close afterwards is
translated back. What the bookings realised is added to the profit of the closes that follow, so the sum is right.

A position that was booked out and not in again within `wait_ms` was closed.
"""

import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache

from copybot.broker import REBOOKED, Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Trace
from copybot.netting import NetTerminal

_UNIT, _CENT = Decimal("1e-8"), Decimal("0.01")
_ZERO = Decimal(0)


@dataclass
class Chain:
    """One position through all its bookings. `deals` without the bookings, and `remaining`: in the units of the open.

    `lots`: open now, in the broker's present units. `factor`: the broker's lots for one lot of the open. `booked_out`:
    deals whose other half is still to come, for `away` lots. `carried`: the profit of bookings not yet in a close.
    """

    head: str
    magic: int
    symbol: str
    side: str
    opened_ms: int
    deals: list[Deal] = field(default_factory=list)
    factor: Decimal = Decimal(1)
    lots: Decimal = _ZERO
    remaining: Decimal = _ZERO
    price: Decimal = _ZERO
    carried: Decimal = _ZERO
    away: Decimal = _ZERO
    booked_out: list[Deal] = field(default_factory=list)

    def take(self, deal: Deal) -> None:
        """Apply an ordinary deal. On a netting account one that exceeds the position reverses it."""
        if deal.entry is Entry.IN:
            self._add(deal, deal.volume)
            return
        closing = min(deal.volume, self.lots) or deal.volume
        self._close(deal, closing)
        if deal.volume > closing:
            self.side, self.factor = deal.side, Decimal(1)
            self._add(replace(deal, entry=Entry.IN, profit=_ZERO, costs=_ZERO), deal.volume - closing)

    def _add(self, deal: Deal, lots: Decimal) -> None:
        volume, price = (lots / self.factor).quantize(_UNIT), deal.price * self.factor
        self.price = (self.price * self.remaining + price * volume) / (self.remaining + volume)
        self.remaining, self.lots = self.remaining + volume, self.lots + lots
        self.deals.append(replace(deal, position=self.head, volume=volume, price=price))

    def _close(self, deal: Deal, lots: Decimal) -> None:
        is_all = lots >= self.lots
        volume = (self.remaining if is_all and self.lots else (lots / self.factor)).quantize(_UNIT)
        share = self.carried if is_all else (self.carried * lots / self.lots).quantize(_CENT)
        self.carried, self.remaining, self.lots = self.carried - share, self.remaining - volume, self.lots - lots
        self.deals.append(
            replace(deal, position=self.head, volume=volume, price=deal.price * self.factor, profit=deal.profit + share)
        )

    def book_out(self, deal: Deal) -> None:
        self.booked_out.append(deal)
        self.symbol = deal.symbol  # it may have been renamed since the open
        self.away, self.lots, self.carried = (
            self.away + deal.volume,
            self.lots - deal.volume,
            self.carried + deal.profit,
        )

    def book_in(self, deal: Deal) -> None:
        if deal.reason == "SPLIT":
            self.factor, self.away = self.factor * deal.volume / self.away, _ZERO
        self.away = max(self.away - deal.volume, _ZERO)
        self.lots, self.carried = self.lots + deal.volume, self.carried + deal.profit
        if not self.away:
            self.booked_out.clear()


def chains_of(deals: Iterable[Deal], closed: Set[str] = frozenset()) -> dict[str, Chain]:
    """The account's positions by each id that they have had. `closed`: ids of booking-out deals that were closes."""
    chains: dict[str, Chain] = {}
    for deal in deals:
        if deal.reason not in REBOOKED or deal.id in closed:
            ordinary = replace(deal, reason="MANUAL") if deal.id in closed else deal
            chains.setdefault(deal.position, _begun_by(deal)).take(ordinary)
        elif deal.entry is Entry.OUT:
            chains.setdefault(deal.position, _begun_by(deal)).book_out(deal)
        elif (chain := _continued_by(deal, chains)) is not None:
            chains[deal.position] = chain
            chain.book_in(deal)
        else:  # the history does not reach back to its open
            chains.setdefault(deal.position, _begun_by(deal)).take(replace(deal, reason="MANUAL"))
    return chains


def _begun_by(deal: Deal) -> Chain:
    side = deal.side if deal.entry is Entry.IN else "SELL" if deal.side == "BUY" else "BUY"
    return Chain(deal.position, deal.magic, deal.symbol, side, deal.at_ms)


def _continued_by(deal: Deal, chains: dict[str, Chain]) -> Chain | None:
    """The position that a booking-in goes on: the one with its id, else with its magic, else with its volume."""
    same = chains.get(deal.position)
    if same is not None and same.away:
        return same
    waiting = [
        chain for chain in chains.values() if chain.away and (chain.symbol, chain.side) == (deal.symbol, deal.side)
    ]
    return min(waiting, key=lambda chain: (chain.magic != deal.magic, chain.away != deal.volume), default=None)


@dataclass
class Rebooked:
    """A Terminal over a hedging account, or a publisher's netting account, whose server may book positions anew."""

    terminal: NetTerminal
    clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    wait_ms: int = 600_000
    deals_wait_ms: int = 5_000
    _known: dict[str, tuple[object, Chain | None]] = field(default_factory=dict, init=False, repr=False)
    _explained: dict[str, tuple[Position, Position, int]] = field(default_factory=dict, init=False, repr=False)
    _shown: set[tuple[str, str, str]] | None = field(default=None, init=False, repr=False)
    _vanished: dict[tuple[str, str], int] = field(default_factory=dict, init=False, repr=False)
    _new_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _half_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def positions(self) -> list[Position]:
        rows = self.terminal.positions()
        self._note_vanished(rows)
        chains = cache(self._chains)  # after a rollover all positions need them
        positions = [
            self._as_last_explained(row, _translated(row, self._chain(row, chains)))
            for row in rows
            if not self._is_unexplained(row)
        ]
        self._shown = {(row.id, row.symbol, row.side) for row in rows}
        self._known = {row.id: self._known[row.id] for row in rows if row.id in self._known}
        self._explained = {row.id: self._explained[row.id] for row in rows if row.id in self._explained}
        self._new_ms = {row.id: self._new_ms[row.id] for row in rows if row.id in self._new_ms}
        return positions

    def deals(self, position: str) -> list[Deal]:
        deals = self.terminal.deals(position)
        if not any(deal.reason in REBOOKED for deal in deals):
            return deals
        chain = self._chains().get(position)
        return deals if chain is None else chain.deals

    def history(self) -> list[Deal]:
        chains = {id(chain): chain for chain in self._chains().values()}.values()
        return sorted((deal for chain in chains for deal in chain.deals), key=lambda deal: (deal.at_ms, int(deal.id)))

    def was_cancelled(self, position: str) -> bool:
        return self.terminal.was_cancelled(position)

    def position_under(self, magic: int) -> str:
        return self.terminal.position_under(magic)

    def trace(self, magic: int) -> Trace:
        """PENDING also while the position goes on under another id, or its second booking is still to come."""
        trace = self.terminal.trace(magic)
        if trace is not Trace.DONE:
            return trace
        position = self.terminal.position_under(magic)
        if not any(deal.reason in REBOOKED for deal in self.terminal.deals(position)):
            return trace
        chain = self._chains().get(position)
        return Trace.PENDING if chain is not None and chain.remaining else trace

    def is_settled(self) -> bool:
        return self.terminal.is_settled()

    def quote(self, symbol: str) -> Quote | None:
        return self.terminal.quote(symbol)

    def account(self) -> Account:
        return self.terminal.account()

    def spec(self, symbol: str) -> SymbolSpec | None:
        return self.terminal.spec(symbol)

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        return self.terminal.open(magic=magic, symbol=symbol, side=side, volume=volume, sl=sl, tp=tp)

    def cancel(self, magic: int) -> Result:
        return self.terminal.cancel(magic)

    def close(self, position: Position, volume: Decimal) -> Result:
        row, chain = self._present(position)
        if chain is None:
            return self.terminal.close(row, volume)
        if volume >= _translated(row, chain).volume:
            return self.terminal.close(row, row.volume)
        spec = self.terminal.spec(row.symbol)
        lots = volume * chain.factor
        if spec is not None:
            lots = (lots / spec.volume_step).to_integral_value() * spec.volume_step
        if not 0 < lots < row.volume:  # a part that would be nothing, or all of the position
            return Result(Outcome.REJECTED, 10014, "volume_too_small")
        return self.terminal.close(row, lots)

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        row, chain = self._present(position)
        spec = self.terminal.spec(row.symbol)
        if chain is None or spec is None or chain.factor == 1:
            return self.terminal.modify(row, sl=sl, tp=tp)
        stops = [None if stop is None else spec.stop(stop / chain.factor) for stop in (sl, tp)]
        return self.terminal.modify(row, sl=stops[0], tp=stops[1])

    # --- what the bookings say

    def _present(self, position: Position) -> tuple[Position, Chain | None]:
        """The position as the broker shows it now, which refuses an order for one that it does not show."""
        chains = cache(self._chains)
        for row in self.terminal.positions():
            chain = self._chain(row, chains)
            if position.id == (row.id if chain is None else chain.head):
                return row, chain
        return position, None

    def _chain(self, row: Position, chains: Callable[[], dict[str, Chain]]) -> Chain | None:
        """The bookings of a position, read again when it has changed; None if there are none."""
        state = _state(row)
        known = self._known.get(row.id)
        if known is not None and known[0] == state:
            return known[1]
        deals = self.terminal.deals(row.id)
        chain = None
        if any(deal.reason in REBOOKED for deal in deals):
            chain = chains().get(row.id)
        held = _open_lots(deals)
        before = self._explained.get(row.id)
        is_booked_anew = chain is None and before is not None and _state(row)[1:] != _state(before[0])[1:]
        if not is_booked_anew and row.volume == (held if chain is None else chain.lots):
            self._known[row.id] = state, chain
        return chain

    def _chains(self) -> dict[str, Chain]:
        deals, now = self.terminal.history(), self.clock_ms()
        chains = chains_of(deals)
        halves = {deal.id for chain in chains.values() for deal in chain.booked_out}
        self._half_ms = {half: self._half_ms.get(half, now) for half in halves}
        closed = {half for half, first in self._half_ms.items() if now - first >= self.wait_ms}
        return chains_of(deals, closed) if closed else chains

    def _note_vanished(self, rows: list[Position]) -> None:
        now, present = self.clock_ms(), {row.id for row in rows}
        for name, symbol, side in self._shown or ():
            if name not in present:
                self._vanished[symbol, side] = now

    def _as_last_explained(self, row: Position, position: Position) -> Position:
        """The position; while its row was booked anew and its deals do not say so yet, as it was before. Twice the lots
        after a split would be taken for too many, and half of the copy closed."""
        now, known = self.clock_ms(), self._known.get(row.id)
        if known is not None and known[0] == _state(row):
            self._explained[row.id] = row, position, now
            return position
        before, explained, since = self._explained.setdefault(row.id, (row, position, now))
        if row.volume < before.volume and _state(row)[1:] == _state(before)[1:]:  # an order reduced it
            self._explained[row.id] = row, position, since
            return position
        return position if now - since >= self.deals_wait_ms else explained

    def _is_unexplained(self, row: Position) -> bool:
        """Whether a position may be an older one under a new id, which its deals, still to come, will tell. Until then
        it would be taken for a second position, and closed."""
        now, place = self.clock_ms(), (row.symbol, row.side)
        if row.id in self._known or row.id in self._explained:
            return False
        is_likely = self._shown is None or now - self._vanished.get(place, -self.wait_ms) < self.wait_ms
        first = self._new_ms.setdefault(row.id, now)
        return is_likely and now - first < self.deals_wait_ms and _open_lots(self.terminal.deals(row.id)) < row.volume


def _translated(row: Position, chain: Chain | None) -> Position:
    """A position as the broker shows it, as it was opened."""
    if chain is None:
        return row
    sl, tp = (None if stop is None else stop * chain.factor for stop in (row.sl, row.tp))
    return replace(
        row, id=chain.head, magic=row.magic if row.id == chain.head else chain.magic,
        volume=chain.remaining if chain.lots == row.volume else (row.volume / chain.factor).quantize(_UNIT),
        sl=sl, tp=tp, open_price=chain.price.quantize(_UNIT), opened_ms=chain.opened_ms,
        profit=(row.profit + chain.carried).quantize(_CENT),
    )  # fmt: skip


def _open_lots(deals: Iterable[Deal]) -> Decimal:
    return sum((deal.volume if deal.entry is Entry.IN else -deal.volume for deal in deals), _ZERO)


def _state(row: Position) -> tuple[Decimal, Decimal, int]:
    """What a booking changes."""
    return row.volume, row.open_price, row.opened_ms
