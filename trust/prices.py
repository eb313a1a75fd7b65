"""Prices during and after a deal, from the available bars. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal

from trust.evidence_types import Bar, Deal


class Prices:
    """The bars of each symbol, with a lookup by time."""

    def __init__(self, bars: Mapping[str, Sequence[Bar]]) -> None:
        self.bars = bars
        self.begins = {symbol: [bar.opened_at for bar in rows] for symbol, rows in bars.items()}

    def worst(self, deal: Deal) -> Decimal | None:
        """The largest move against the deal, from the bars that lie wholly within it; None without such a bar."""
        begins = self.begins.get(deal.symbol)
        if not begins:
            return None
        rows = self.bars[deal.symbol]
        first, last = bisect_left(begins, deal.opened_at), bisect_right(begins, deal.closed_at) - 1
        inside = rows[first:last]
        if not inside:
            return None
        if deal.side == "BUY":
            return max(Decimal(0), deal.open_price - min(bar.low for bar in inside))
        return max(Decimal(0), max(bar.high for bar in inside) - deal.open_price)

    def markout(self, deal: Deal, after: timedelta) -> float | None:
        """The move in the deal's favour that long after its entry, in bps; None where there is no bar."""
        begins = self.begins.get(deal.symbol)
        if not begins or not deal.open_price:
            return None
        at = deal.opened_at + after
        index = bisect_right(begins, at) - 1
        if index < 0:
            return None
        bar = self.bars[deal.symbol][index]
        if at - bar.opened_at > timedelta(minutes=2 * bar.minutes):
            return None  # a gap in the bars
        moved = (bar.open - deal.open_price) / abs(deal.open_price)
        return float(moved if deal.side == "BUY" else -moved) * 10_000
