"""Instruments of the paper broker, and their price at any moment out of bars. The price does not depend on the caller.

Inside a bar the price moves in three straight legs of equal time: open, the extreme against the bar's direction, the
other extreme, close. So whether a stop or a target was touched first does not depend on when a process looks.
"""

import csv
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

# The anchor of market time on paper, so that all processes with the same bars and speed see the same price.
PAPER_BEGAN_MS = 1_767_225_600_000
STEPS = 12  # of a bar; a multiple of its three legs
_WEEK_MS = 7 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Bar:
    at_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal

    @property
    def nodes(self) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        first, second = (self.low, self.high) if self.close >= self.open else (self.high, self.low)
        return self.open, first, second, self.close


@dataclass(frozen=True)
class Clock:
    """Market time in ms: `starts_at` at `anchor_ms` of the wall, from there on `speed` times as fast."""

    starts_at: int
    speed: int = 1
    anchor_ms: int = 0
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.starts_at + (self.wall_ms() - self.anchor_ms) * self.speed

    def wall_at(self, market_ms: int) -> int:
        """The wall clock's time at a moment of market time, in ms."""
        return self.anchor_ms + (market_ms - self.starts_at) // self.speed


class Candles:
    """Bars of one symbol, all of one length. Where there is no bar the market is closed.

    `repeats`: the bars start over after the whole weeks that they fill, so that weekends stay weekends.
    """

    def __init__(self, bars: Iterable[Bar], *, digits: int, repeats: bool = False) -> None:
        self.bars = list(bars)
        if len(self.bars) < 2 or any(bar.at_ms >= later.at_ms for bar, later in pairwise(self.bars)):
            raise ValueError("two bars or more, oldest first")
        steps = Counter(later.at_ms - bar.at_ms for bar, later in pairwise(self.bars))
        self.length_ms = min(steps)
        self.tick = Decimal(1).scaleb(-digits)
        first, last = self.bars[0].at_ms, self.bars[-1].at_ms + self.length_ms
        self._cycle_ms = max(1, (last - first) // _WEEK_MS) * _WEEK_MS if repeats else 0
        if repeats:
            self.bars = [bar for bar in self.bars if bar.at_ms < first + self._cycle_ms]
        self._times = [bar.at_ms for bar in self.bars]
        self._latest = (self._times[0], self.bars[0].open)

    @classmethod
    def read(cls, path: Path, *, digits: int, repeats: bool = False) -> "Candles":
        """A file with the columns time (ISO 8601), open, high, low, close."""
        with path.open(encoding="ascii", newline="") as lines:
            rows = [
                Bar(_ms(row["time"]), *(Decimal(row[name]) for name in ("open", "high", "low", "close")))
                for row in csv.DictReader(lines)
            ]
        return cls(rows, digits=digits, repeats=repeats)

    @property
    def starts_at(self) -> int:
        return self._times[0]

    def is_open(self, at_ms: int) -> bool:
        current = self._bar(at_ms)
        return current is not None and at_ms - current[1] < self.length_ms

    def bid(self, at_ms: int) -> Decimal:
        """The bid at a moment; while the market is closed the last one, before the first bar its open."""
        latest = self._latest  # a cache: each open position asks for the same moment
        if latest[0] != at_ms:
            self._latest = latest = at_ms, self._bid(at_ms)
        return latest[1]

    def ended(self, after_ms: int, until_ms: int) -> Iterator[Bar]:
        """The bars that ended in (after, until], oldest first."""
        starts_at = after_ms - self.length_ms
        while (starts_at := self._next_start(starts_at)) <= until_ms - self.length_ms:
            latest = self._bar(starts_at)
            assert latest is not None
            yield latest[0]

    def instants(self, after_ms: int, until_ms: int) -> Iterator[int]:
        """The moments in (after, until] between which the price moves in a straight line, stands still or jumps."""
        at = after_ms
        while (at := self._next_instant(at)) <= until_ms:
            yield at

    def touches(self, level: Decimal, *, falling: bool, after_ms: int, until_ms: int) -> int | None:
        """The first moment in (after, until], neighbouring instants, at which the price is at the level or beyond."""

        def is_there(at_ms: int) -> bool:
            bid = self.bid(at_ms)
            return bid <= level if falling else bid >= level

        if not is_there(until_ms):
            return None
        moments = range(after_ms + 1, until_ms + 1)
        return moments[bisect_left(moments, True, key=is_there)]

    def _bid(self, at_ms: int) -> Decimal:
        current = self._bar(at_ms)
        if current is None:
            return self.bars[0].open
        bar, starts_at = current
        return self._inside(bar, min(at_ms - starts_at, self.length_ms))

    def _next_instant(self, after_ms: int) -> int:
        current = self._bar(after_ms)
        if current is not None and after_ms - current[1] < self.length_ms - 1:
            step = (after_ms - current[1]) * STEPS // self.length_ms + 1
            # The last instant is just before the bar's end, because the next bar may open at another price.
            return current[1] + min(-(-step * self.length_ms // STEPS), self.length_ms - 1)
        return self._next_start(after_ms)

    def _next_start(self, after_ms: int) -> int:
        within, turn = self._folded(after_ms)
        index = bisect_right(self._times, within)
        if index < len(self._times):
            return turn + self._times[index]
        return turn + self._times[0] + self._cycle_ms if self._cycle_ms else 1 << 62

    def _inside(self, bar: Bar, gone_ms: int) -> Decimal:
        leg, into = divmod(gone_ms * 3, self.length_ms)
        if leg == 3:
            return bar.close
        start, end = bar.nodes[leg], bar.nodes[leg + 1]
        return (start + (end - start) * into / self.length_ms).quantize(self.tick)

    def _bar(self, at_ms: int) -> tuple[Bar, int] | None:
        """The last bar that has begun, and when it began."""
        within, turn = self._folded(at_ms)
        index = bisect_right(self._times, within) - 1
        return None if index < 0 else (self.bars[index], turn + self._times[index])

    def _folded(self, at_ms: int) -> tuple[int, int]:
        if not self._cycle_ms or at_ms < self._times[0]:
            return at_ms, 0
        turn = (at_ms - self._times[0]) // self._cycle_ms * self._cycle_ms
        return at_ms - turn, turn


@dataclass(frozen=True)
class Instrument:
    """A traded symbol. `base`, `quote`: currencies; by default the symbol's first and second three letters."""

    symbol: str
    candles: Candles
    spread_points: int = 8
    contract: Decimal = Decimal(100_000)
    volume_min: Decimal = Decimal("0.01")
    volume_max: Decimal = Decimal(100)
    volume_step: Decimal = Decimal("0.01")
    base: str = ""
    quote: str = ""
    commission: Decimal = Decimal(0)  # per lot and deal, in the account's currency

    @property
    def spread(self) -> Decimal:
        return self.candles.tick * self.spread_points

    @property
    def currencies(self) -> tuple[str, str]:
        return self.base or self.symbol[:3], self.quote or self.symbol[3:6]

    def price(self, side: str, at_ms: int) -> Decimal:
        """The price at which an order of this side is filled."""
        return self.candles.bid(at_ms) + (self.spread if side == "BUY" else 0)


class Market:
    """Instruments, and rates into an account's currency. Raises ValueError if no instrument gives a rate."""

    def __init__(self, instruments: Iterable[Instrument], currency: str) -> None:
        self.currency = currency
        self.instruments = {instrument.symbol: instrument for instrument in instruments}
        for instrument in self.instruments.values():
            for name in instrument.currencies:
                self.rate(name, instrument.candles.starts_at)

    def rate(self, currency: str, at_ms: int) -> Decimal:
        if currency == self.currency:
            return Decimal(1)
        for instrument in self.instruments.values():
            if instrument.currencies == (currency, self.currency):
                return instrument.candles.bid(at_ms)
            if instrument.currencies == (self.currency, currency):
                return 1 / instrument.candles.bid(at_ms)
        raise ValueError(f"no instrument converts {currency} to {self.currency}")


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
