"""Partial closes: the volume of a reduction is what must remain open."""

from decimal import Decimal
from typing import Any

import pytest

from audit.models import AuditLog
from tests.answers import refusal
from tests.signed import Bot, opening
from trades.models import ActiveTrade, TradeHistory, TradeReduction

ACTIVE = "/api/v2/trades/active"


@pytest.fixture
def bot(lena_bot: Bot) -> Bot:
    """Lena's bot, with ticket 1 open: 0.1 lots."""
    lena_bot.send("POST", fields=opening("1"))
    return lena_bot


def reduce(bot: Any, ticket: str = "1", **more: Any) -> Any:
    fields = {"deal_id": "d1", "volume": "0.04", "close_price": "1.108", "profit": "18", **more}
    return bot.send("POST", f"{ACTIVE}/{ticket}/reduce", fields)


def close(bot: Any, ticket: str = "1", profit: str = "5", reason: str = "TP") -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query=f"close_price=1.108&profit={profit}&reason={reason}")


def active() -> Any:
    trade = ActiveTrade.objects.get()
    return str(trade.volume), trade.seq


def test_the_named_volume_remains_open(bot: Bot) -> None:
    answer = reduce(bot)

    assert (answer.status_code, answer.json()["status"], answer.json()["seq"]) == (200, "reduced", "2")
    assert answer.json()["trade"]["volume"] == "0.04000000"
    assert active() == ("0.04000000", 2)
    part = TradeReduction.objects.get()
    assert (part.deal_id, str(part.volume), str(part.remaining)) == ("d1", "0.06000000", "0.04000000")
    assert (str(part.close_price), str(part.profit)) == ("1.10800000", "18.00000000")


def test_a_reduction_is_audited_with_its_number(bot: Bot) -> None:
    reduce(bot)

    detail = AuditLog.objects.get(action="trade.reduced").detail
    assert (detail["deal_id"], detail["remaining"], detail["seq"]) == ("d1", "0.04000000", 2)


def test_partial_closes_and_the_final_close_add_up(bot: Bot) -> None:
    reduce(bot)
    reduce(bot, deal_id="d2", volume="0.01", profit="-3.5")
    close(bot, profit="5")

    closed = TradeHistory.objects.get()
    assert (str(closed.volume), str(closed.closed_volume)) == ("0.10000000", "0.01000000")
    assert (str(closed.profit), str(closed.closing_profit)) == ("19.50000000", "5.00000000")
    assert closed.seq == 4


def test_a_repeated_deal_changes_nothing(bot: Bot) -> None:
    reduce(bot)

    again = reduce(bot)

    assert (again.status_code, again.json()["status"]) == (200, "unchanged")
    assert active() == ("0.04000000", 2)
    assert TradeReduction.objects.count() == 1


def test_a_deal_repeated_after_later_ones_changes_nothing(bot: Bot) -> None:
    reduce(bot)
    reduce(bot, deal_id="d2", volume="0.01")

    assert reduce(bot).json()["trade"]["volume"] == "0.01000000"
    assert active() == ("0.01000000", 3)


def test_a_deal_repeated_after_the_close_is_acknowledged(bot: Bot) -> None:
    reduce(bot)
    close(bot)

    assert (reduce(bot).status_code, reduce(bot).json()["status"]) == (200, "unchanged")


@pytest.mark.parametrize("other", [{"volume": "0.03"}, {"close_price": "1.2"}, {"profit": "0"}])
@pytest.mark.parametrize("closed", [False, True])
def test_a_deal_with_other_content_is_refused(bot: Bot, other: dict[str, Any], closed: bool) -> None:
    reduce(bot)
    if closed:
        close(bot)

    assert refusal(reduce(bot, **other)) == (409, "deal_exists_different")
    assert TradeReduction.objects.count() == 1


def test_a_reduction_to_the_present_volume_makes_no_event(bot: Bot) -> None:
    answer = reduce(bot, volume="0.1")

    assert (answer.status_code, answer.json()["status"]) == (200, "unchanged")
    assert active() == ("0.10000000", 1)
    assert not TradeReduction.objects.exists()


def test_refuses_to_increase_a_trade_and_reports_the_open_volume(bot: Bot) -> None:
    grown = reduce(bot, volume="0.10000001")

    assert refusal(grown) == (409, "volume_increase")
    assert grown.json()["volume"] == "0.10000000"
    assert active() == ("0.10000000", 1)


def test_a_reduction_to_zero_closes_the_trade(bot: Bot) -> None:
    reduce(bot)

    answer = reduce(bot, deal_id="d2", volume="0", profit="2")

    assert (answer.status_code, answer.json()["status"], answer.json()["seq"]) == (200, "CLOSED", "3")
    closed = TradeHistory.objects.get()
    assert (closed.reason, str(closed.profit), str(closed.closed_volume)) == ("MANUAL", "20.00000000", "0.04000000")


def test_a_repeated_reduction_to_zero_is_closed_already(bot: Bot) -> None:
    reduce(bot, volume="0")

    again = reduce(bot, volume="0")

    assert (again.status_code, again.json()["already"]) == (200, True)


def test_a_reduction_to_zero_of_a_trade_closed_differently_is_a_conflict(bot: Bot) -> None:
    close(bot, reason="SL")

    assert refusal(reduce(bot, volume="0")) == (409, "trade_closed_conflict")


def test_a_reduction_to_zero_of_an_unknown_trade_leaves_a_tombstone(bot: Bot) -> None:
    """It is a close that overtook its open: refusing it as unknown would let the late open through."""
    answer = reduce(bot, "2", volume="0")

    assert (answer.status_code, answer.json()["status"]) == (202, "tombstoned")
    assert refusal(bot.send("POST", fields=opening("2"))) == (409, "trade_closed")


def test_refuses_to_reduce_a_closed_trade(bot: Bot) -> None:
    close(bot)

    assert refusal(reduce(bot)) == (409, "trade_closed")
    assert not TradeReduction.objects.exists()


def test_refuses_to_reduce_an_unknown_or_a_strangers_trade(bot: Bot, sam_bot: Bot) -> None:
    assert refusal(reduce(bot, "2")) == (404, "trade_unknown")
    assert refusal(reduce(sam_bot, "1")) == (404, "trade_unknown")
    assert active() == ("0.10000000", 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deal_id", None),
        ("deal_id", "a b"),
        ("deal_id", ""),
        ("volume", None),
        ("volume", "-0.01"),
        ("close_price", "NaN"),
        ("close_price", "0.000000001"),
        ("profit", None),
        ("profit", "abc"),
        ("reason", "TP"),
        ("ticket_id", "2"),
    ],
)
def test_names_the_field_that_cannot_be_read(bot: Bot, field: str, value: str | None) -> None:
    answer = reduce(bot, **{field: value})

    assert refusal(answer) == (422, "invalid")
    assert list(answer.json()["fields"]) == [field]
    assert active() == ("0.10000000", 1)


@pytest.mark.parametrize("price", ["-10.00000000", "0.00000000"])
def test_a_reduction_passes_at_a_price_of_zero_or_below(bot: Bot, price: str) -> None:
    assert reduce(bot, close_price=price).status_code == 200
    assert TradeReduction.objects.get().close_price == Decimal(price)


def test_absurd_profits_of_partial_closes_do_not_hold_up_the_close(bot: Bot) -> None:
    for volume in ("0.09", "0.08"):
        assert reduce(bot, deal_id=volume, volume=volume, profit="-999999999999").status_code == 200

    assert close(bot, profit="-999999999999").status_code == 200
    assert TradeHistory.objects.get().profit == Decimal("-999999999999.99999999")
