"""Many copies on a hedging account whose broker closes the positions of a symbol in the order of their opening (FIFO).

A copy that is not the oldest cannot be closed by its own position: the broker refuses that for ever. So its close
closes the oldest positions of the symbol and side, as many lots as the copy has, by orders that carry the copy's magic
number. The closing deals then say which copy was closed, and the positions that remain are the other copies', whichever
opened them. As on a netting account all is read out of the deals, and copies carry no stops: a stop at the broker would
close the position that it belongs to, which may be another copy's by now, and out of its turn.

Other positions on the account (by hand, say) take part in the order. If one is older than a copy, the copy's close
closes it, and the copy's position stays in its place, without the stops that it had. So the account is for copies
alone, and the bot does not start on one with other positions while no copy is open. Closing a copy's position by hand
closes the copy that opened it, or else the oldest.
"""

from collections.abc import Callable
from decimal import Decimal

from copybot.broker import REBOOKED, Deal, Entry, Position, Result, SymbolSpec
from copybot.netting import Book, Netting, Virtual, is_copy


class FifoBook(Book):
    """The virtual positions of a hedging account. `others`: by symbol and side, the lots that belong to no copy."""

    def __init__(self, worth: Callable[[str], Decimal], is_ours: Callable[[int], bool] = is_copy) -> None:
        super().__init__(worth, is_ours)
        self._opened_by: dict[str, int] = {}

    def take(self, deal: Deal) -> None:
        if deal.entry is Entry.IN and deal.reason not in REBOOKED:
            self._opened_by[deal.position] = deal.magic if self._is_ours(deal.magic) else 0
        super().take(deal)

    def lots(self, symbol: str, side: str) -> Decimal:
        copies = (abs(copy.lots) for copy in self._on(symbol, side))
        return sum(copies, self.others.get(f"{symbol} {side}", Decimal(0)))

    def _on(self, symbol: str, side: str) -> list[Virtual]:
        return [copy for copy in self.virtuals.values() if copy.symbol == symbol and copy.volume and copy.side == side]

    def _take_of_others(self, deal: Deal, volume: Decimal) -> None:
        if deal.entry is Entry.IN:
            self._add_others(deal.symbol, deal.side, deal.volume)
            return
        side, opener = "BUY" if deal.side == "SELL" else "SELL", self._opened_by.get(deal.position, 0)
        left, costs, sign = deal.volume, deal.costs, 1 if volume > 0 else -1
        if not opener:
            left -= self._add_others(deal.symbol, side, -left)
        for copy in sorted(self._on(deal.symbol, side), key=lambda copy: copy.magic != opener):
            if taken := min(left, abs(copy.lots)):
                copy.apply(deal, sign * taken, costs, self._worth(deal.symbol))
                left, costs = left - taken, Decimal(0)
        self._add_others(deal.symbol, side, -left)

    def _add_others(self, symbol: str, side: str, lots: Decimal) -> Decimal:
        """Change what belongs to no copy; returns the lots that were taken off it."""
        before = self.others.get(f"{symbol} {side}", Decimal(0))
        self.others[f"{symbol} {side}"] = max(before + lots, Decimal(0))
        return max(before - self.others[f"{symbol} {side}"], Decimal(0))

    def _split(self, symbol: str, factor: Decimal) -> None:
        super()._split(symbol, factor)
        for side in ("BUY", "SELL"):
            self.others[f"{symbol} {side}"] = self.others.get(f"{symbol} {side}", Decimal(0)) * factor


class Fifo(Netting):
    """A Terminal over a hedging account with the FIFO rule. A virtual position's id is its magic number."""

    def is_alone(self) -> bool:
        """Whether a copy is open, or the account has no position at all."""
        return bool(self.positions()) or not self.terminal.positions()

    def _closings(self, held: Virtual, lots: Decimal, spec: SymbolSpec) -> list[tuple[Position | None, Decimal]]:
        if held.deals[0].side != held.side:  # a close was executed twice, and took the lots of another copy
            return [(None, part) for part in spec.parts(lots)]
        rows = [row for row in self.terminal.positions() if (row.symbol, row.side) == (held.symbol, held.side)]
        closings, left = list[tuple[Position | None, Decimal]](), lots
        for row in sorted(rows, key=lambda row: (row.opened_ms, int(row.id))):
            closings += [(row, part) for part in spec.parts(min(left, row.volume)) if part]
            left -= min(left, row.volume)
        return closings

    def _send_close(self, held: Virtual, position: Position | None, lots: Decimal) -> Result:
        if position is None:
            side = "SELL" if held.volume > 0 else "BUY"
            return self.terminal.open(magic=held.magic, symbol=held.symbol, side=side, volume=lots, sl=None, tp=None)
        return self.terminal.take_off(position, lots, magic=held.magic)

    def _book(self) -> FifoBook:
        book = FifoBook(self.terminal.worth, self.is_ours)
        for deal in self.terminal.history():
            book.take(deal)
        return book
