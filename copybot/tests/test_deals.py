"""The trades of a position, from its deals."""

from decimal import Decimal
from typing import Any

import pytest

from copybot.deals import DealsIncomplete, trades_of
from copybot.tests.publisher_harness import Terminal


def legs(terminal: Any, position: str = "1") -> list[Any]:
    return [(trade.ticket, trade.side, trade.volume, trade.remaining) for trade in trades_of(terminal.books[position])]


def test_each_order_on_a_netting_position_is_a_trade_and_the_oldest_closes_first() -> None:
    terminal = Terminal()
    terminal.open("1", "1", "1.10", fee="-1")
    terminal.open("1", "2", "1.20", order="7", fee="-2")
    terminal.close("1", "1.5", "1.30", "30")
    assert legs(terminal) == [("1", "BUY", 1, 0), ("7", "BUY", 2, Decimal("1.5"))]

    terminal.close("1", "1.5", "1.40", "45")
    first, second = trades_of(terminal.books["1"])
    assert [(part.remaining, part.price, part.profit) for part in first.parts] == [(0, Decimal("1.30"), 19)]
    assert [(part.remaining, part.profit) for part in second.parts] == [(Decimal("1.5"), 10), (0, 43)]


def test_a_reversal_closes_all_and_opens_another() -> None:
    terminal = Terminal()
    terminal.open("1", "1", "1.10")
    terminal.close("1", "1", "1.20", "10", order="8")
    terminal.open("1", "0.5", "1.20", side="SELL", order="8")

    assert legs(terminal) == [("1", "BUY", 1, 0), ("8", "SELL", Decimal("0.5"), Decimal("0.5"))]


def test_an_order_filled_in_parts_is_one_trade_at_its_mean_price() -> None:
    terminal = Terminal()
    terminal.open("1", "1", "1.10")
    terminal.open("1", "3", "1.20", order="1")
    (trade,) = trades_of(terminal.books["1"])

    assert (trade.volume, trade.price) == (4, Decimal("1.175"))


def test_shares_of_a_profit_add_up_to_the_last_digit() -> None:
    terminal = Terminal()
    for order in ("1", "2", "3"):
        terminal.open("1", "1", "1.10", order=order)
    terminal.close("1", "3", "1.2", "10")
    profits = [trade.parts[-1].profit for trade in trades_of(terminal.books["1"])]

    assert sum(profits) == 10
    assert max(profits) - min(profits) < Decimal("0.00000002")


def test_closing_more_than_was_opened_means_that_deals_are_missing() -> None:
    terminal = Terminal()
    terminal.open("1", "2", "1.10")
    terminal.close("1", "2", "1.2", "5")

    with pytest.raises(DealsIncomplete):
        trades_of(terminal.books["1"][1:])
