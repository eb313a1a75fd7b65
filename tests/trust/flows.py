"""Seven kinds of flow over the project's real hourly prices, each different with every seed.

Three things make up a provider here: when and which way they trade, how they size, and when they let go. Honest ones
have some skill or none, win and lose, in spells; the others have the habit that makes them harmful to copy.
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
    """A stretch of the prices, and a trader in it."""

    def __init__(self, rng: Any, hours: Any) -> None:
        bars = prices()
        first = rng.randrange(100, len(bars) - hours - 200)
        self.rng, self.bars, self.first, self.last = rng, bars, first, first + hours
        self.deals, self.positions = [], []

    def at(self, index: Any, share: float = 0.0) -> Any:
        """Time and price within a bar, on the way from its open to its close."""
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
    """Breakouts of a channel, let run behind a stop; sometimes more on top of what wins."""
    made = Market(rng, rng.randrange(1200, 3600))
    width, leave, base = rng.randrange(8, 48), rng.randrange(4, 24), rng.choice([0.1, 0.5, 1.0])
    adds = rng.random() < 0.3
    index = made.first
    while index < made.last - 60:
        window = made.bars[index - width : index]
        high, low = max(bar.high for bar in window), min(bar.low for bar in window)
        close = made.bars[index].close
        side = "BUY" if close > high else "SELL" if close < low else ""
        if not side or rng.random() < 0.1:
            index += 1
            continue
        entries, volume, end = [index + 1], made.lots(base), index + 2
        while end < made.last - 1 and end - index < 200:
            window = made.bars[end - leave : end]
            stop = min(bar.low for bar in window) if side == "BUY" else max(bar.high for bar in window)
            price = made.bars[end].close
            if (price < stop) if side == "BUY" else (price > stop):
                break
            gone = price - made.at(entries[-1])[1] if side == "BUY" else made.at(entries[-1])[1] - price
            if adds and len(entries) < 3 and gone > 30 * PIP:
                entries.append(end)
            end += 1
        for entry in entries:
            share = rng.random()
            made.trade(side, volume, made.at(entry, share if entry < end else 0), made.at(end, 1.0), slip=SPREAD)
        index = end + rng.randrange(1, 12)
    return made.evidence()


def scalper(rng: Any) -> Any:
    """Small trades within the hour, a little better than chance or a little worse, with a stop like the target."""
    made = Market(rng, rng.randrange(400, 1600))
    skill, base, often = rng.uniform(0.44, 0.60), rng.choice([0.2, 1.0, 2.0]), rng.uniform(0.1, 0.5)
    for index in range(made.first, made.last):
        if rng.random() > often or made.bars[index].high == made.bars[index].low:
            continue
        begins = rng.uniform(0, 0.5)
        ends = min(0.99, begins + rng.choice([rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.5)]))
        opened, closed = made.at(index, begins), made.at(index, ends)
        size = Decimal(rng.randrange(20, 90)) * PIP / 10
        wins = rng.random() < skill
        side = rng.choice(["BUY", "SELL"])
        moved = size * Decimal(repr(round(rng.uniform(0.6, 1.2), 3))) * (1 if wins else -1)
        price = opened[1] + moved if side == "BUY" else opened[1] - moved
        made.trade(side, made.lots(base), opened, (closed[0], price.quantize(Decimal("0.00001"))))
    return made.evidence()


def latency(rng: Any) -> Any:
    """In and out within seconds, nearly always right: the price was known before."""
    made = Market(rng, rng.randrange(300, 1200))
    right, often = rng.uniform(0.84, 0.97), rng.uniform(0.15, 0.5)
    base, longest = rng.choice([0.5, 2.0, 5.0]), rng.uniform(10, 240)
    for index in range(made.first, made.last):
        if rng.random() > often:
            continue
        opened = made.at(index, rng.random() * 0.9)
        held = timedelta(seconds=rng.uniform(1, longest))
        size = Decimal(rng.randrange(3, 25)) * PIP / 10
        side = rng.choice(["BUY", "SELL"])
        moved = size if rng.random() < right else -size
        price = opened[1] + moved if side == "BUY" else opened[1] - moved
        made.trade(side, made.lots(base), opened, (opened[0] + held, price))
    return made.evidence()


def martingale(rng: Any) -> Any:
    """After a loss the volume is multiplied, until one wins."""
    made = Market(rng, rng.randrange(900, 3000))
    factor, most, target = rng.uniform(1.6, 2.4), rng.randrange(4, 9), rng.randrange(6, 30)
    base, losses, index = rng.choice([0.1, 0.3, 1.0]), 0, made.first
    while index < made.last - 30:
        side = rng.choice(["BUY", "SELL"])
        opened, end = made.at(index, rng.random()), index + 1
        while end < index + 24:
            gone = made.bars[end].close - opened[1] if side == "BUY" else opened[1] - made.bars[end].close
            if abs(gone) > target * PIP:
                break
            end += 1
        volume = Decimal(repr(round(base * factor**losses, 2)))
        profit = made.trade(side, volume, opened, made.at(end, 1.0), slip=SPREAD)
        losses = 0 if profit > 0 or losses >= most else losses + 1
        index = end + rng.randrange(0, 5) + 1
    return made.evidence()


def grid(rng: Any) -> Any:
    """One more on the same side at each step against it; all closed together once they have won on average."""
    made = Market(rng, rng.randrange(1200, 3600))
    step, most, target = rng.randrange(8, 25), rng.randrange(5, 12), rng.randrange(5, 15)
    base, index = rng.choice([0.1, 0.5, 1.0]), made.first
    while index < made.last - 300:
        side = rng.choice(["BUY", "SELL"])
        entries, end = [made.at(index, rng.random())], index + 1
        while end < min(index + 280, made.last - 1):
            price = made.bars[end].close
            mean = sum(one[1] for one in entries) / len(entries)
            won = price - mean if side == "BUY" else mean - price
            against = entries[-1][1] - price if side == "BUY" else price - entries[-1][1]
            if won > target * PIP:
                break
            if against > step * PIP and len(entries) < most:
                entries.append(made.at(end, 1.0))
            end += 1
        volume = made.lots(base)
        for entry in entries:
            made.trade(side, volume, entry, made.at(end, 1.0), slip=SPREAD)
        index = end + rng.randrange(1, 10)
    return made.evidence()


def hidden_loser(rng: Any) -> Any:
    """Winners are taken quickly; losers are kept until they win, or for ever."""
    made = Market(rng, rng.randrange(1500, 3600))
    target, patience = rng.randrange(6, 20), rng.choice([600, 1500, 4000])
    base, often = rng.choice([0.1, 0.5]), rng.uniform(0.03, 0.15)
    for index in range(made.first, made.last - 2):
        if rng.random() > often:
            continue
        side, opened = rng.choice(["BUY", "SELL"]), made.at(index, rng.random() * 0.9)
        volume = made.lots(base)
        for end in range(index + 1, made.last):
            gone = made.bars[end].close - opened[1] if side == "BUY" else opened[1] - made.bars[end].close
            if gone > target * PIP or end - index > patience:
                made.trade(side, volume, opened, made.at(end, 1.0), slip=SPREAD)
                break
        else:
            last = made.bars[made.last].close
            gone = last - opened[1] if side == "BUY" else opened[1] - last
            made.positions.append(Position(opened[0], SYMBOL, side, volume, opened[1], gone * volume))
    return made.evidence()


def wash(rng: Any) -> Evidence:
    """An honest-looking flow that a second account mirrors within seconds."""
    found = rng.choice([trend, scalper])(rng)
    theirs = []
    share, reverse = rng.uniform(0.75, 1.0), rng.random() < 0.6
    for deal in found.deals:
        if rng.random() > share:
            continue
        late = timedelta(seconds=rng.uniform(-3.5, 3.5))
        side = {"BUY": "SELL", "SELL": "BUY"}[deal.side] if reverse else deal.side
        theirs.append(
            Deal(deal.opened_at + late, deal.closed_at + late, deal.symbol, side, deal.volume, deal.open_price,
                 deal.close_price, -deal.profit if reverse else deal.profit, f"w{deal.ref}")
        )  # fmt: skip
    stranger = trend(random.Random(rng.random()))
    return Evidence(
        deals=found.deals, since=found.since, until=found.until, bars=found.bars,
        others={"twin": theirs, "stranger": stranger.deals},
    )  # fmt: skip


def flow(kind: Any, seed: Any) -> Any:
    """The evidence of one provider of that kind."""
    rng = random.Random(f"{kind}-{seed}")
    found = globals()[kind](rng)
    if kind != "wash" and rng.random() < 0.7:
        other = globals()[rng.choice(HONEST)](rng)
        found = Evidence(
            deals=found.deals, since=found.since, until=found.until, positions=found.positions, bars=found.bars,
            others={"stranger": other.deals},
        )  # fmt: skip
    return found
