"""Moving a trade's stops."""

from typing import Any

import pytest

from audit.models import AuditLog
from tests.answers import refusal
from tests.signed import Bot, opening
from trades.models import ActiveTrade, TradeHistory

ACTIVE = "/api/v2/trades/active"


@pytest.fixture
def bot(lena_bot: Bot) -> Bot:
    """Lena's bot, with ticket 1 open: stops at 1.10 and 1.12."""
    lena_bot.send("POST", fields=opening("1"))
    return lena_bot


def modify(bot: Any, ticket: str = "1", **fields: Any) -> Any:
    return bot.send("PATCH", f"{ACTIVE}/{ticket}", fields)


def stops() -> Any:
    trade = ActiveTrade.objects.get()
    return str(trade.sl), str(trade.tp), trade.seq


def events() -> Any:
    return AuditLog.objects.filter(action="trade.modified").count()


def test_moves_both_stops_with_the_next_number(bot: Bot) -> None:
    answer = modify(bot, sl="1.10100000", tp=1.13)

    assert (answer.status_code, answer.json()["status"], answer.json()["seq"]) == (200, "modified", "2")
    assert stops() == ("1.10100000", "1.13000000", 2)
    detail = AuditLog.objects.get(action="trade.modified").detail
    assert (detail["seq"], detail["sl"], detail["tp"]) == (2, "1.10100000", "1.13000000")


def test_leaves_the_stop_that_is_not_named(bot: Bot) -> None:
    modify(bot, tp="1.13")

    assert stops() == ("1.10000000", "1.13000000", 2)


def test_null_removes_a_stop(bot: Bot) -> None:
    answer = modify(bot, sl=None)

    assert answer.json()["trade"]["sl"] is None
    assert stops() == ("None", "1.12000000", 2)


def test_unchanged_stops_make_no_event(bot: Bot) -> None:
    answer = modify(bot, sl="1.1", tp="1.12")

    assert (answer.status_code, answer.json()["status"]) == (200, "unchanged")
    assert stops()[2] == 1
    assert events() == 0


def test_ignores_a_message_older_than_the_latest(bot: Bot) -> None:
    modify(bot, sl="1.10200000", master_time_ms=2000)

    late = modify(bot, sl="1.10100000", master_time_ms=1999)

    assert (late.status_code, late.json()["ignored"], late.json()["seq"]) == (200, True, "2")
    assert late.json()["trade"]["sl"] == "1.10200000"
    assert stops() == ("1.10200000", "1.12000000", 2)
    assert events() == 1


def test_applies_a_newer_message(bot: Bot) -> None:
    modify(bot, sl="1.10200000", master_time_ms=2000)

    assert modify(bot, sl="1.10300000", master_time_ms="2001").json()["seq"] == "3"
    assert stops() == ("1.10300000", "1.12000000", 3)


def test_a_message_that_changed_nothing_still_outdates_older_ones(bot: Bot) -> None:
    modify(bot, sl="1.1", master_time_ms=5000)

    assert modify(bot, sl="1.10300000", master_time_ms=4000).json()["status"] == "ignored"
    assert stops() == ("1.10000000", "1.12000000", 1)


def test_a_message_without_a_time_is_applied_and_keeps_the_latest_time(bot: Bot) -> None:
    modify(bot, sl="1.10200000", master_time_ms=5000)

    assert modify(bot, sl="1.10300000").json()["status"] == "modified"
    assert modify(bot, sl="1.10400000", master_time_ms=4000).json()["status"] == "ignored"


def test_refuses_to_move_the_stops_of_a_closed_trade(bot: Bot) -> None:
    bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.11&profit=5")

    assert refusal(modify(bot, sl="1.2")) == (409, "trade_closed")
    assert str(TradeHistory.objects.get().sl) == "1.10000000"
    assert events() == 0


def test_refuses_an_unknown_ticket(bot: Bot) -> None:
    assert refusal(modify(bot, "2", sl="1.2")) == (404, "trade_unknown")


def test_refuses_a_strangers_ticket_as_unknown(bot: Bot, sam_bot: Bot) -> None:
    assert refusal(modify(sam_bot, "1", sl="1.2")) == (404, "trade_unknown")
    assert stops() == ("1.10000000", "1.12000000", 1)


@pytest.mark.parametrize(
    ("fields", "faulty"),
    [
        ({}, "sl"),
        ({"master_time_ms": 1}, "sl"),
        ({"sl": "0"}, "sl"),
        ({"tp": "-1"}, "tp"),
        ({"sl": "1", "volume": "1"}, "volume"),
        ({"sl": "1", "master_time_ms": 0}, "master_time_ms"),
        ({"sl": "1", "ticket_id": "2"}, "ticket_id"),
    ],
)
def test_names_the_field_that_cannot_be_read(bot: Bot, fields: dict[str, Any], faulty: str) -> None:
    answer = modify(bot, **fields)

    assert refusal(answer) == (422, "invalid")
    assert list(answer.json()["fields"]) == [faulty]
    assert stops()[2] == 1
