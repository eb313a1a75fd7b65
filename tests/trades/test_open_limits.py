"""What a provider may open: stops on the right side, not above the largest volume, not more than the largest number."""

from typing import Any

import pytest

from accounts.models import TradingAccount
from audit.models import AuditLog
from market.models import Instrument
from tests.answers import refusal
from tests.signed import Bot, opening
from trades.models import ActiveTrade

ACTIVE = "/api/v2/trades/active"
SELL = {"type": "SELL", "sl": "1.12", "tp": "1.10"}


def modify(bot: Bot, **stops: Any) -> Any:
    return bot.send("PATCH", f"{ACTIVE}/1", stops)


@pytest.mark.parametrize(
    "stops",
    [
        {"sl": "1.10500000"},
        {"sl": "1.20"},
        {"tp": "1.10500000"},
        {"tp": "1.00", "sl": None},
        {**SELL, "sl": "1.10"},
        {**SELL, "tp": "1.12", "sl": None},
    ],
)
def test_an_open_with_a_stop_on_the_wrong_side_is_refused(lena_bot: Bot, stops: dict[str, Any]) -> None:
    assert refusal(lena_bot.send("POST", fields=opening("1", **stops))) == (422, "stop_wrong_side")
    assert not ActiveTrade.objects.exists()
    assert AuditLog.objects.get(action="trade.refused").code == "stop_wrong_side"


@pytest.mark.parametrize("stops", [{"sl": None, "tp": None}, {"sl": "1.10499999"}, {"tp": "1.10500001"}, SELL])
def test_an_open_with_its_stops_on_the_right_side_passes(lena_bot: Bot, stops: dict[str, Any]) -> None:
    assert lena_bot.send("POST", fields=opening("1", **stops)).status_code == 201


def test_a_stop_loss_may_be_moved_into_profit(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))

    assert modify(lena_bot, sl="1.11900000").status_code == 200


@pytest.mark.parametrize("stops", [{"sl": "1.12"}, {"sl": "1.30"}, {"tp": "1.09"}, {"sl": "1.2", "tp": "1.1"}])
def test_a_modification_whose_stops_exclude_each_other_is_refused(lena_bot: Bot, stops: dict[str, Any]) -> None:
    lena_bot.send("POST", fields=opening("1"))

    assert refusal(modify(lena_bot, **stops)) == (422, "stop_wrong_side")
    trade = ActiveTrade.objects.get()
    assert (str(trade.sl), str(trade.tp), trade.seq) == ("1.10000000", "1.12000000", 1)


def test_a_volume_above_the_instruments_largest_is_refused(lena_bot: Bot) -> None:
    Instrument.objects.filter(symbol="EURUSD").update(max_volume="5")

    answer = lena_bot.send("POST", fields=opening("1", volume="5.01"))

    assert refusal(answer) == (422, "volume_above_limit")
    assert answer.json()["largest"] == "5.00000000"
    assert lena_bot.send("POST", fields=opening("2", volume="5")).status_code == 201


def test_a_symbol_that_the_desk_does_not_list_has_a_largest_volume_too(lena_bot: Bot) -> None:
    """999,999,999,999 lots were published once, and sent to followers whose terms had no limit."""
    answer = lena_bot.send("POST", fields=opening("1", symbol="NOBODY.x", volume="999999999999"))

    assert (*refusal(answer), answer.json()["largest"]) == (422, "volume_above_limit", "1000.00000000")


def test_an_open_beyond_the_accounts_largest_number_is_refused_and_a_close_makes_room(
    lena_bot: Bot, lena: TradingAccount
) -> None:
    TradingAccount.objects.filter(pk=lena.pk).update(max_open_trades=2)
    for ticket in ("1", "2"):
        assert lena_bot.send("POST", fields=opening(ticket)).status_code == 201

    answer = lena_bot.send("POST", fields=opening("3"))

    assert (*refusal(answer), answer.json()["largest"]) == (409, "too_many_open", 2)
    assert lena_bot.send("POST", fields=opening("2")).status_code == 200  # a repeat is no new trade
    lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=0")
    assert lena_bot.send("POST", fields=opening("4")).status_code == 201


def test_a_report_of_a_copy_is_a_fact_and_has_no_limits(lena_bot: Bot, finn_bot: Bot, finn: TradingAccount) -> None:
    lena_bot.send("POST", fields=opening("1"))
    Instrument.objects.filter(symbol="EURUSD").update(max_volume="0.01")
    TradingAccount.objects.filter(pk=finn.pk).update(max_open_trades=0)
    copied = {"strategy": "lena-eurusd", "master_ticket": "1"}

    assert finn_bot.send("POST", fields=opening("501", sl="1.2", **copied)).status_code == 201


def test_a_close_has_no_limits(lena_bot: Bot, lena: TradingAccount) -> None:
    lena_bot.send("POST", fields=opening("1"))
    Instrument.objects.filter(symbol="EURUSD").update(max_volume="0.01")
    TradingAccount.objects.filter(pk=lena.pk).update(max_open_trades=0)

    assert lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=0").status_code == 200
