"""A close that arrives before its open leaves a tombstone, so that the late open is refused."""

from typing import Any

import pytest

from audit.models import AuditLog
from tests.answers import refusal
from tests.signed import Bot, opening
from trades.models import ActiveTrade, Trade, TradeHistory

ACTIVE = "/api/v2/trades/active"
CLOSE_QUERY = "close_price=1.108&profit=30&reason=TP"


def close(bot: Any, ticket: str = "1", query: Any = CLOSE_QUERY) -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query=query)


def test_a_close_of_an_unknown_ticket_leaves_a_tombstone(lena_bot: Bot) -> None:
    answer = close(lena_bot)

    assert (answer.status_code, answer.json()["status"]) == (202, "tombstoned")
    tombstone = TradeHistory.objects.get()
    assert (tombstone.kind, tombstone.status, tombstone.reason) == ("TOMBSTONE", "CLOSED", "TP")
    assert Trade.objects.get().state == "CLOSED"


def test_a_tombstone_has_no_profit(lena_bot: Bot) -> None:
    close(lena_bot)

    tombstone = TradeHistory.objects.get()
    unknown = ("profit", "closing_profit", "volume", "closed_volume", "symbol", "type", "open_price", "opened_at")
    assert [getattr(tombstone, name) for name in unknown] == [None] * len(unknown)
    assert str(tombstone.close_price) == "1.10800000"


def test_a_tombstone_is_audited_but_no_event_of_the_stream(lena_bot: Bot) -> None:
    close(lena_bot)

    assert lena_bot.send("GET").json()["as_of"] == {"lena-eurusd": "0"}
    audit_row = AuditLog.objects.get(action="trade.tombstoned")
    assert (audit_row.actor, audit_row.subject) == (lena_bot.key, f"trade:{Trade.objects.get().pk}")
    assert not AuditLog.objects.filter(action="trade.closed").exists()


def test_the_late_open_is_refused_and_audited(lena_bot: Bot) -> None:
    close(lena_bot)

    late = lena_bot.send("POST", fields=opening("1"))

    assert refusal(late) == (409, "trade_closed")
    assert AuditLog.objects.get(action="zombie.refused").subject == f"trade:{Trade.objects.get().pk}"
    assert not ActiveTrade.objects.exists()
    assert lena_bot.send("GET").json()["as_of"] == {"lena-eurusd": "0"}


def test_late_modifications_and_reductions_are_refused(lena_bot: Bot) -> None:
    close(lena_bot)

    part = {"deal_id": "1", "volume": "0.01", "close_price": "1", "profit": "1"}
    assert refusal(lena_bot.send("PATCH", f"{ACTIVE}/1", {"sl": "1"})) == (409, "trade_closed")
    assert refusal(lena_bot.send("POST", f"{ACTIVE}/1/reduce", part)) == (409, "trade_closed")


def test_repeating_the_close_is_answered_closed_already(lena_bot: Bot) -> None:
    close(lena_bot)

    again = close(lena_bot)

    assert (again.status_code, again.json()["already"]) == (200, True)
    assert TradeHistory.objects.count() == 1


def test_a_different_close_is_a_conflict(lena_bot: Bot) -> None:
    close(lena_bot)

    assert refusal(close(lena_bot, query="close_price=1.2&profit=30&reason=TP")) == (409, "trade_closed_conflict")


@pytest.mark.parametrize("path", ["/api/v2/signal/close", "/signal/close"])
def test_every_closing_route_leaves_a_tombstone(lena_bot: Bot, path: str) -> None:
    answer = lena_bot.send("POST", path, {"ticket_id": "1", "close_price": "1.1", "profit": "1", "reason": "TP"})

    assert (answer.status_code, answer.json()) == (202, {"status": "tombstoned", "ticket": 1})


def test_accounts_without_a_strategy_leave_tombstones_too(finn_bot: Bot) -> None:
    """Every key that may close may be early, also that of an account that publishes no strategy."""
    assert close(finn_bot).status_code == 202

    assert TradeHistory.objects.get().strategy_id is None


def test_a_tombstone_belongs_to_its_own_account(lena_bot: Bot, sam_bot: Bot) -> None:
    close(sam_bot)

    assert lena_bot.send("POST", fields=opening("1")).status_code == 201
