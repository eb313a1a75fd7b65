"""A publisher of a paper account: stops that are hit, partial fills, and a person who trades at random."""

import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry
from copybot.candles import Bar, Candles, Instrument
from copybot.paper import Faults, PaperBroker
from copybot.position_sync import PositionSync
from copybot.tests.publisher_harness import Crash, Desk, World


class Paper(World):
    """A paper account on realistic prices, traded at random by seed; the desk must have every report."""

    def __init__(self, folder: Any, seed: Any, *, is_hedging: Any, dies_at: int = -1, fault: Any = Crash) -> None:
        self.calls, self.dies_at, self.fault, self.kind, self.options = 0, dies_at, fault, PositionSync, {}
        self.rng, self.now = random.Random(seed), PAPER_STARTS
        eurusd = Instrument("EURUSD", Candles(paper_bars(seed), digits=5), commission=Decimal("3.5"))
        self.broker = PaperBroker(
            folder / f"{seed}-{is_hedging}-{dies_at}-{fault.__name__}", [eurusd], lambda: self.now,
            deposit=Decimal(100_000), is_hedging=is_hedging, faults=Faults(seed=seed, partial=0.2, slippage_points=3),
        )  # fmt: skip
        self.terminal, self.desk = self, Desk(self.point)
        self.position_sync = self.fresh()

    def positions(self) -> Any:
        self.point()
        return self.broker.positions()

    def deals(self, position: Any) -> Any:
        self.point()
        return self.broker.deals(position)

    def is_settled(self) -> Any:
        self.point()
        return self.broker.is_settled()

    def position_of(self, order: Any) -> Any:
        return next((deal.position for deal in self.broker.history() if deal.order == order), order)

    def trade(self) -> None:
        held, luck = self.broker.positions(), self.rng.random()
        volume = Decimal(self.rng.randrange(1, 40)) / 100
        if not held or luck < 0.4:
            side, sign = self.rng.choice([("BUY", 1), ("SELL", -1)])
            quote = self.broker.quote("EURUSD")
            stops = {
                "sl": quote.bid - sign * Decimal("0.0030") if self.rng.random() < 0.5 else None,
                "tp": quote.bid + sign * Decimal("0.0030") if self.rng.random() < 0.5 else None,
            }
            self.broker.open(magic=0, symbol="EURUSD", side=side, volume=volume, **stops)
        elif luck < 0.7:
            position = self.rng.choice(held)
            self.broker.close(position, min(volume, position.volume))
        elif luck < 0.85:
            position = self.rng.choice(held)
            away = Decimal(self.rng.randrange(20, 60)) / 10_000 * (1 if position.side == "BUY" else -1)
            self.broker.modify(position, sl=self.broker.quote("EURUSD").bid - away, tp=position.tp)

    def run(self, steps: int = 60) -> Any:
        for _ in range(steps):
            self.now += self.rng.randrange(1, 40) * 60_000
            self.trade()
            self.sync(0)
        for position in self.broker.positions():
            self.broker.close(position, position.volume)
        self.sync(0)
        return self.settle()


PAPER_STARTS = 1_767_571_200_000


def paper_bars(seed: Any) -> Iterator[Bar]:
    rng, price = random.Random(seed), 110_000
    for hour in range(100):
        close = price + rng.randrange(-300, 300)
        high, low = max(price, close) + rng.randrange(100), min(price, close) - rng.randrange(100)
        yield Bar(PAPER_STARTS + hour * 3_600_000, *(Decimal(points) / 100_000 for points in (price, high, low, close)))
        price = close


def assert_the_same_books(world: Any) -> None:
    """The desk's closed trades and the account's own deals: the same tickets, the same lots, the same money."""
    published = {deal.order for deal in world.broker.history() if deal.entry is Entry.IN}
    assert world.desk.active_rows == {}
    assert set(world.desk.closed) == published
    earned = world.broker.account().balance - 100_000
    assert sum(world.desk.profit(ticket) for ticket in published) == earned
    assert world.desk.zombies == 0
    assert all(world.desk.times(verb, ticket) == 1 for ticket in published for verb in ("open", "close"))


@pytest.mark.parametrize("is_hedging", [True, False], ids=["hedging", "netting"])
def test_the_desk_has_a_paper_accounts_profit_to_the_cent(tmp_path: Path, is_hedging: bool) -> None:
    tickets = 0
    for seed in range(6):
        world = Paper(tmp_path, seed, is_hedging=is_hedging).run()
        assert_the_same_books(world)
        tickets += len(world.desk.closed)
    assert tickets > 60


@pytest.mark.parametrize("is_hedging", [True, False], ids=["hedging", "netting"])
def test_the_desk_has_a_paper_accounts_profit_after_crashes_too(tmp_path: Path, is_hedging: bool) -> None:
    for dies_at in range(3, 180, 23):
        assert_the_same_books(Paper(tmp_path, 1, is_hedging=is_hedging, dies_at=dies_at).run(20))
