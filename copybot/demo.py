"""A provider's bot for the demo: an honest, simple strategy over real prices, sped up, through the signed API alone.

It buys a close above the highest high of the last bars and sells one below the lowest low, takes half off at twice its
risk, trails its stop, and gets out at a stop, a shorter channel's other side, or the end of the data. It keeps nothing
on disk: whatever of its own is still active when it starts, it closes.
"""

import argparse
import csv
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from copybot.client import Client, DeskError

LOT = Decimal(100_000)
VOLUME = Decimal("0.10")
CHANNELS = ((5, 3), (8, 5), (13, 8), (20, 10), (34, 15), (55, 20))  # bars of the entry's and the exit's channel


@dataclass(frozen=True)
class Bar:
    time: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


def bars(path: Path) -> Iterator[Bar]:
    with path.open(encoding="ascii", newline="") as lines:
        for row in csv.DictReader(lines):
            yield Bar(row["time"], *(Decimal(row[name]) for name in ("open", "high", "low", "close")))


@dataclass
class Position:
    ticket: str
    type: str
    volume: Decimal
    open_price: Decimal
    stop: Decimal
    risk: Decimal
    halved: bool = False

    @property
    def sign(self) -> int:
        return 1 if self.type == "BUY" else -1

    def gain(self, price: Decimal) -> Decimal:
        """In price, for one unit."""
        return (price - self.open_price) * self.sign

    def profit(self, price: Decimal, volume: Decimal) -> Decimal:
        """In dollars, for so many lots."""
        return (self.gain(price) * volume * LOT).quantize(Decimal("0.01"))


@dataclass
class Trader:
    """One channel's breakouts, at most one position at a time."""

    desk: Client
    entry: int
    exit: int
    tickets: Iterator[int]
    seen: deque[Bar] = field(default_factory=deque)
    position: Position | None = None

    def on_bar(self, bar: Bar) -> None:
        if self.position is not None:
            self.manage(self.position, bar)
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
        risk = 2 * sum((past.high - past.low for past in self.seen), Decimal(0)) / len(self.seen)
        stop = bar.close - risk if side == "BUY" else bar.close + risk
        opened = Position(str(next(self.tickets)), side, VOLUME, bar.close, tidy(stop), tidy(risk))
        self.desk.open(
            ticket_id=opened.ticket, symbol="EURUSD", type=side, volume=str(VOLUME), open_price=str(bar.close),
            sl=str(opened.stop), comment=f"channel {self.entry}/{self.exit}, bar {bar.time}",
        )  # fmt: skip
        self.position = opened

    def manage(self, held: Position, bar: Bar) -> None:
        if held.sign * (bar.low if held.sign > 0 else bar.high) <= held.sign * held.stop:
            return self.close(held, held.stop, "SL")
        recent = list(itertools.islice(self.seen, max(0, len(self.seen) - self.exit), None))
        way_out = min(past.low for past in recent) if held.sign > 0 else max(past.high for past in recent)
        if held.sign * bar.close < held.sign * way_out:
            return self.close(held, bar.close, "MANUAL")
        if not held.halved and held.gain(bar.close) >= 2 * held.risk:
            return self.take_half(held, bar.close)
        return self.trail(held, bar)

    def take_half(self, held: Position, price: Decimal) -> None:
        remains = held.volume / 2
        self.desk.reduce(
            held.ticket, deal_id=f"half-{held.ticket}", volume=str(remains), close_price=str(price),
            profit=str(held.profit(price, held.volume - remains)),
        )  # fmt: skip
        held.volume, held.halved = remains, True

    def trail(self, held: Position, bar: Bar) -> None:
        """Move the stop up behind the price, in steps of half the risk so that it does not chatter."""
        better = tidy(bar.close - held.sign * held.risk)
        if (better - held.stop) * held.sign >= held.risk / 2:
            self.desk.modify(held.ticket, sl=str(better))
            held.stop = better

    def close(self, held: Position, price: Decimal, reason: str) -> None:
        profit = str(held.profit(price, held.volume))
        self.desk.close(held.ticket, close_price=str(price), profit=profit, reason=reason)
        self.position = None


def tidy(price: Decimal) -> Decimal:
    return price.quantize(Decimal("0.00001"))


def close_leftovers(desk: Client, price: Decimal) -> None:
    """Close what an earlier run of this bot left open: what is active is asked of the desk, never remembered."""
    for trade in desk.active()["trades"]:
        held = Position(
            trade["ticket_id"], trade["type"], Decimal(trade["volume"]), Decimal(trade["open_price"]), price, price
        )
        desk.close(
            held.ticket, close_price=str(price), profit=str(held.profit(price, held.volume)), reason="RECONCILED"
        )


def run(desk: Client, prices: list[Bar], *, bars_per_s: float) -> None:
    """Trade the bars, again and again, until stopped."""
    tickets = itertools.count(time.time_ns() // 1_000_000)
    close_leftovers(desk, prices[0].close)
    while True:
        traders = [Trader(desk, entry, leave, tickets) for entry, leave in CHANNELS]
        for bar in prices:
            began = time.monotonic()
            for trader in traders:
                trader.on_bar(bar)
            time.sleep(max(0.0, 1 / bars_per_s - (time.monotonic() - began)))
        close_leftovers(desk, prices[-1].close)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bars", type=Path, required=True, help="CSV: time, open, high, low, close, volume")
    parser.add_argument("--bars-per-s", type=float, default=4.0)
    options = parser.parse_args()
    desk = Client(options.url, os.environ["COPYBOT_KEY"], os.environ["COPYBOT_SECRET"])
    try:
        run(desk, list(bars(options.bars)), bars_per_s=options.bars_per_s)
    except KeyboardInterrupt:
        pass
    except (DeskError, ConnectionError) as fault:
        sys.exit(f"demo bot: {fault}")


if __name__ == "__main__":
    main()
