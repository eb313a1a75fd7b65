"""A provider's bot for the demo: a simple channel breakout on a fast paper account, published like any other.

It buys a close above the highest high of the last bars and sells a close below the lowest low. It closes half at twice
its risk, trails its stop, and exits at the stop or at the other side of a shorter channel. It stores no state besides
the account.
"""

import argparse
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from copybot.broker import Position
from copybot.candles import PAPER_BEGAN_MS, Bar, Candles, Clock, Instrument
from copybot.client import Client
from copybot.errors import DeskError
from copybot.netting import NetTerminal
from copybot.paper import PaperBroker
from copybot.publisher import PositionSync, Publisher

SYMBOL = "EURUSD"
VOLUME = Decimal("0.10")
CHANNELS = ((5, 3), (8, 5), (13, 8), (20, 10), (34, 15), (55, 20))  # bars of the entry's and the exit's channel
DIGITS, SPREAD_POINTS = 5, 2
DEPOSIT = Decimal(100_000)


@dataclass
class Trader:
    """One channel's breakouts, at most one position at a time, known by its magic number."""

    terminal: NetTerminal
    magic: int
    entry: int
    exit: int
    seen: deque[Bar] = field(default_factory=deque)

    @property
    def position(self) -> Position | None:
        return next((position for position in self.terminal.positions() if position.magic == self.magic), None)

    def on_bar(self, bar: Bar) -> None:
        held = self.position
        if held is not None:
            self.manage(held, bar)
        elif len(self.seen) >= self.entry:
            self.look_for_entry(bar)
        self.seen.append(bar)
        if len(self.seen) > self.entry:
            self.seen.popleft()

    def look_for_entry(self, bar: Bar) -> None:
        if bar.close > max(past.high for past in self.seen):
            self.open("BUY", bar)
        elif bar.close < min(past.low for past in self.seen):
            self.open("SELL", bar)

    def open(self, side: str, bar: Bar) -> None:
        stop = bar.close - self.risk if side == "BUY" else bar.close + self.risk
        self.terminal.open(magic=self.magic, symbol=SYMBOL, side=side, volume=VOLUME, sl=tidy(stop), tp=None)

    @property
    def risk(self) -> Decimal:
        """The distance of the stop in price: twice the average range of a bar."""
        return tidy(2 * sum((past.high - past.low for past in self.seen), Decimal(0)) / max(1, len(self.seen)))

    def manage(self, held: Position, bar: Bar) -> None:
        sign = 1 if held.side == "BUY" else -1
        recent = list(itertools.islice(self.seen, max(0, len(self.seen) - self.exit), None))
        if recent and sign * bar.close < sign * (
            min(past.low for past in recent) if sign > 0 else max(past.high for past in recent)
        ):
            self.terminal.close(held, held.volume)
        elif held.volume == VOLUME and (bar.close - held.open_price) * sign >= 2 * self.risk:
            self.terminal.close(held, VOLUME / 2)
        else:
            self.trail(held, bar, sign)

    def trail(self, held: Position, bar: Bar, sign: int) -> None:
        """Move the stop after the price, in steps of at least half the risk, so that it does not move at every bar."""
        better = tidy(bar.close - sign * self.risk)
        if held.sl is None or (better - held.sl) * sign >= self.risk / 2:
            self.terminal.modify(held, sl=better, tp=None)


@dataclass
class Market:
    """Passes each bar to the traders when it ends."""

    candles: Candles
    clock: Clock
    traders: Sequence[Trader]
    at_ms: int = 0

    def begin(self) -> None:
        """Give the traders the past bars that their channels need."""
        self.at_ms = self.clock()
        longest = max(trader.entry for trader in self.traders)
        for bar in list(self.candles.ended(self.at_ms - 2 * longest * self.candles.length_ms, self.at_ms)):
            for trader in self.traders:
                trader.seen.append(bar)
                while len(trader.seen) > trader.entry:
                    trader.seen.popleft()

    def go_on(self, _fault: str = "") -> None:
        now = self.clock()
        for bar in self.candles.ended(self.at_ms, now):
            for trader in self.traders:
                trader.on_bar(bar)
        self.at_ms = now


def tidy(price: Decimal) -> Decimal:
    return price.quantize(Decimal(1).scaleb(-DIGITS))


def run(desk: Client, account: Path, bars: Path, *, bars_per_s: int) -> None:
    """Trade and publish until the process is stopped."""
    candles = Candles.read(bars, digits=DIGITS, repeats=True)
    clock = Clock(candles.starts_at, bars_per_s * candles.length_ms // 1000, PAPER_BEGAN_MS)
    account.parent.mkdir(parents=True, exist_ok=True)
    euro = Instrument(SYMBOL, candles, spread_points=SPREAD_POINTS)
    terminal = PaperBroker(account, [euro], clock, login="demo", deposit=DEPOSIT, stamp=clock.wall_at)
    market = Market(candles, clock, [Trader(terminal, magic, *channel) for magic, channel in enumerate(CHANNELS, 1)])
    market.begin()
    Publisher(PositionSync(desk, terminal, clock_ms=desk.desk_ms), poll_s=0.1, on_sync=market.go_on).run(
        threading.Event()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bars", type=Path, required=True, help="CSV: time, open, high, low, close, volume")
    parser.add_argument("--account", type=Path, required=True, help="the file of the paper account")
    parser.add_argument("--bars-per-s", type=int, default=2)
    options = parser.parse_args()
    desk = Client(options.url, os.environ["COPYBOT_KEY"], os.environ["COPYBOT_SECRET"])
    try:
        run(desk, options.account, options.bars, bars_per_s=options.bars_per_s)
    except KeyboardInterrupt:
        pass
    except (DeskError, ConnectionError) as fault:
        sys.exit(f"demo bot: {fault}")


if __name__ == "__main__":
    main()
