"""Seven kinds of simulated flow over the project's real hourly prices, each different with every seed.

A provider is simulated by entries, sizing and exits. The honest ones have some skill or none, and win and lose; the
toxic ones have one habit that makes them harmful to copy.
"""

import csv
import functools
import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from market import services as market
from trust.evidence_types import Bar, Deal, Evidence, Position

SYMBOL, LOT = "EURUSD", Decimal(100_000)
PIP = Decimal("0.0001")
HONEST = ("trend", "scalper")
TOXIC = ("latency", "martingale", "grid", "hidden_loser", "wash")


@functools.cache
def prices() -> Any:
    with market.EURUSD_1H.open(encoding="ascii", newline="") as lines:
        return tuple(
            Bar(
                datetime.fromisoformat(row["time"]),
                60,
                *(Decimal(row[name]) for name in ("open", "high", "low", "close")),
            )
            for row in csv.DictReader(lines)
        )


class Market:
    """A section of the prices, and the trades of one provider in it."""

    def __init__(self, rng: Any, hours: Any) -> None:
        bars = prices()
        first = rng.randrange(100, len(bars) - hours - 200)
        self.rng, self.bars, self.first, self.last = rng, bars, first, first + hours
        self.deals, self.positions = [], []

    def at(self, index: Any, share: float = 0.0) -> Any:
        """Time and price within a bar, interpolated between its open and its close."""
        bar = self.bars[index]
        price = bar.open + (bar.close - bar.open) * Decimal(repr(round(share, 6)))
        return bar.opened_at + timedelta(hours=share), price.quantize(Decimal("0.00001"))

    def trade(self, side: Any, volume: Any, opened: Any, closed: Any, *, slip: Decimal = Decimal(0)) -> Any:
        (opened_at, open_price), (closed_at, close_price) = opened, closed
        gained = close_price - open_price if side == "BUY" else open_price - close_price
        gained -= slip
        close_price = open_price + gained if side == "BUY" else open_price - gained
        profit = (gained * volume * LOT).quantize(Decimal("0.01"))
        ref = f"{len(self.deals):06}"
        self.deals.append(Deal(opened_at, closed_at, SYMBOL, side, volume, open_price, close_price, profit, ref))
        return profit

    def evidence(self, others: Any = None) -> Evidence:
        until = self.bars[self.last].opened_at
        bars = {SYMBOL: self.bars[self.first - 50 : self.last + 1]}
        return Evidence(
            deals=self.deals, since=until - timedelta(days=365), until=until, positions=self.positions, bars=bars,
            others=others or {},
        )  # fmt: skip

    def lots(self, base: Any, spread: float = 0.25) -> Decimal:
        return Decimal(repr(round(base * self.rng.uniform(1 - spread, 1 + spread), 2)))


SPREAD = PIP * Decimal("0.8")


def trend(rng: Any) -> Any:
    """Breakouts of a channel with a trailing stop; some providers add to winning positions."""
    section = Market(rng, rng.randrange(1200, 3600))
    width, leave, base = rng.randrange(8, 48), rng.randrange(4, 24), rng.choice([0.1, 0.5, 1.0])
    adds = rng.random() < 0.3
    index = section.first
    while index < section.last - 60:
        window = section.bars[index - width : index]
        high, low = max(bar.high for bar in window), min(bar.low for bar in window)
        close = section.bars[index].close
        side = "BUY" if close > high else "SELL" if close < low else ""
        if not side or rng.random() < 0.1:
            index += 1
            continue
        entries, volume, end = [index + 1], section.lots(base), index + 2
        while end < section.last - 1 and end - index < 200:
            window = section.bars[end - leave : end]
            stop = min(bar.low for bar in window) if side == "BUY" else max(bar.high for bar in window)
            price = section.bars[end].close
            if (price < stop) if side == "BUY" else (price > stop):
                break
            gone = price - section.at(entries[-1])[1] if side == "BUY" else section.at(entries[-1])[1] - price
            if adds and len(entries) < 3 and gone > 30 * PIP:
                entries.append(end)
            end += 1
        for entry in entries:
            share = rng.random()
            section.trade(
                side, volume, section.at(entry, share if entry < end else 0), section.at(end, 1.0), slip=SPREAD
            )
        index = end + rng.randrange(1, 12)
    return section.evidence()


def scalper(rng: Any) -> Any:
    """Small trades within the hour, slightly better or worse than chance, with a stop as far away as the target."""
    section = Market(rng, rng.randrange(400, 1600))
    skill, base, often = rng.uniform(0.44, 0.60), rng.choice([0.2, 1.0, 2.0]), rng.uniform(0.1, 0.5)
    for index in range(section.first, section.last):
        if rng.random() > often or section.bars[index].high == section.bars[index].low:
            continue
        begins = rng.uniform(0, 0.5)
        ends = min(0.99, begins + rng.choice([rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.5)]))
        opened, closed = section.at(index, begins), section.at(index, ends)
        size = Decimal(rng.randrange(20, 90)) * PIP / 10
        wins = rng.random() < skill
        side = rng.choice(["BUY", "SELL"])
        moved = size * Decimal(repr(round(rng.uniform(0.6, 1.2), 3))) * (1 if wins else -1)
        price = opened[1] + moved if side == "BUY" else opened[1] - moved
        section.trade(side, section.lots(base), opened, (closed[0], price.quantize(Decimal("0.00001"))))
    return section.evidence()


def latency(rng: Any) -> Any:
    """Trades of seconds that nearly always win: the provider knows the price in advance."""
    section = Market(rng, rng.randrange(300, 1200))
    right, often = rng.uniform(0.84, 0.97), rng.uniform(0.15, 0.5)
    base, longest = rng.choice([0.5, 2.0, 5.0]), rng.uniform(10, 240)
    for index in range(section.first, section.last):
        if rng.random() > often:
            continue
        opened = section.at(index, rng.random() * 0.9)
        held = timedelta(seconds=rng.uniform(1, longest))
        size = Decimal(rng.randrange(3, 25)) * PIP / 10
        side = rng.choice(["BUY", "SELL"])
        moved = size if rng.random() < right else -size
        price = opened[1] + moved if side == "BUY" else opened[1] - moved
        section.trade(side, section.lots(base), opened, (opened[0] + held, price))
    return section.evidence()


def martingale(rng: Any) -> Any:
    """The volume is multiplied after each loss, until a trade wins."""
    section = Market(rng, rng.randrange(900, 3000))
    factor, most, target = rng.uniform(1.6, 2.4), rng.randrange(4, 9), rng.randrange(6, 30)
    base, losses, index = rng.choice([0.1, 0.3, 1.0]), 0, section.first
    while index < section.last - 30:
        side = rng.choice(["BUY", "SELL"])
        opened, end = section.at(index, rng.random()), index + 1
        while end < index + 24:
            gone = section.bars[end].close - opened[1] if side == "BUY" else opened[1] - section.bars[end].close
            if abs(gone) > target * PIP:
                break
            end += 1
        volume = Decimal(repr(round(base * factor**losses, 2)))
        profit = section.trade(side, volume, opened, section.at(end, 1.0), slip=SPREAD)
        losses = 0 if profit > 0 or losses >= most else losses + 1
        index = end + rng.randrange(0, 5) + 1
    return section.evidence()


def grid(rng: Any) -> Any:
    """One more entry at each step against the position; all are closed together once the average entry wins."""
    section = Market(rng, rng.randrange(1200, 3600))
    step, most, target = rng.randrange(8, 25), rng.randrange(5, 12), rng.randrange(5, 15)
    base, index = rng.choice([0.1, 0.5, 1.0]), section.first
    while index < section.last - 300:
        side = rng.choice(["BUY", "SELL"])
        entries, end = [section.at(index, rng.random())], index + 1
        while end < min(index + 280, section.last - 1):
            price = section.bars[end].close
            mean = sum(price for _, price in entries) / len(entries)
            won = price - mean if side == "BUY" else mean - price
            against = entries[-1][1] - price if side == "BUY" else price - entries[-1][1]
            if won > target * PIP:
                break
            if against > step * PIP and len(entries) < most:
                entries.append(section.at(end, 1.0))
            end += 1
        volume = section.lots(base)
        for entry in entries:
            section.trade(side, volume, entry, section.at(end, 1.0), slip=SPREAD)
        index = end + rng.randrange(1, 10)
    return section.evidence()


def hidden_loser(rng: Any) -> Any:
    """Winners are closed quickly; losers stay open until they win, or for ever."""
    section = Market(rng, rng.randrange(1500, 3600))
    target, patience = rng.randrange(6, 20), rng.choice([600, 1500, 4000])
    base, often = rng.choice([0.1, 0.5]), rng.uniform(0.03, 0.15)
    for index in range(section.first, section.last - 2):
        if rng.random() > often:
            continue
        side, opened = rng.choice(["BUY", "SELL"]), section.at(index, rng.random() * 0.9)
        volume = section.lots(base)
        for end in range(index + 1, section.last):
            gone = section.bars[end].close - opened[1] if side == "BUY" else opened[1] - section.bars[end].close
            if gone > target * PIP or end - index > patience:
                section.trade(side, volume, opened, section.at(end, 1.0), slip=SPREAD)
                break
        else:
            last = section.bars[section.last].close
            gone = last - opened[1] if side == "BUY" else opened[1] - last
            section.positions.append(Position(opened[0], SYMBOL, side, volume, opened[1], gone * volume))
    return section.evidence()


def wash(rng: Any) -> Evidence:
    """An honest-looking flow that a second account repeats, on one side, within seconds."""
    facts = rng.choice([trend, scalper])(rng)
    deals_of_twin = []
    share, reverse = rng.uniform(0.75, 1.0), rng.random() < 0.6
    for deal in facts.deals:
        if rng.random() > share:
            continue
        late = timedelta(seconds=rng.uniform(-3.5, 3.5))
        side = {"BUY": "SELL", "SELL": "BUY"}[deal.side] if reverse else deal.side
        deals_of_twin.append(
            Deal(deal.opened_at + late, deal.closed_at + late, deal.symbol, side, deal.volume, deal.open_price,
                 deal.close_price, -deal.profit if reverse else deal.profit, f"w{deal.ref}")
        )  # fmt: skip
    stranger = trend(random.Random(rng.random()))
    return Evidence(
        deals=facts.deals, since=facts.since, until=facts.until, bars=facts.bars,
        others={"twin": deals_of_twin, "stranger": stranger.deals},
    )  # fmt: skip


def flow(kind: Any, seed: Any) -> Any:
    """The evidence of one provider of that kind."""
    rng = random.Random(f"{kind}-{seed}")
    facts = globals()[kind](rng)
    if kind != "wash" and rng.random() < 0.7:
        other = globals()[rng.choice(HONEST)](rng)
        facts = Evidence(
            deals=facts.deals, since=facts.since, until=facts.until, positions=facts.positions, bars=facts.bars,
            others={"stranger": other.deals},
        )  # fmt: skip
    return facts
