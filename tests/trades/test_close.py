"""Closing a trade: the atomic move from the hot to the cold table, by every route."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import TradingAccount
from audit.models import AuditLog
from tests.answers import refusal
from tests.signed import Bot, opening
from tests.transactions import committed
from trades.models import ActiveTrade, Trade, TradeHistory

ACTIVE = "/api/v2/trades/active"
CLOSE_QUERY = "close_price=1.10800000&profit=30.00&reason=TP"


@pytest.fixture
def bot(lena_bot: Bot) -> Bot:
    """Lena's bot, with ticket 1 open."""
    lena_bot.send("POST", fields=opening("1", comment="breakout", analysis={"rsi": 71}))
    return lena_bot


def close(bot: Any, ticket: str = "1", query: Any = CLOSE_QUERY, **more: Any) -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query=query, **more)


def closes() -> Any:
    return AuditLog.objects.filter(action="trade.closed").count()


def test_moves_the_trade_to_history(bot: Bot) -> None:
    trade_id = Trade.objects.get().pk

    answer = close(bot)

    assert (answer.status_code, answer.json()["status"], answer.json()["seq"]) == (200, "CLOSED", "2")
    assert bot.send("GET").json()["trades"] == []
    assert not ActiveTrade.objects.exists()
    closed = TradeHistory.objects.get()
    assert (closed.pk, closed.kind, closed.reason, closed.status) == (trade_id, "TRADE", "TP", "CLOSED")
    assert (str(closed.close_price), str(closed.profit)) == ("1.10800000", "30.00000000")
    assert Trade.objects.get().state == "CLOSED"


def test_history_keeps_what_was_open(bot: Bot) -> None:
    before = ActiveTrade.objects.get()
    bot.send("PATCH", f"{ACTIVE}/1", {"sl": "1.10400000"})

    close(bot)

    closed = TradeHistory.objects.get()
    unchanged = (
        "account_id",
        "strategy_id",
        "ticket_id",
        "master_ticket",
        "symbol",
        "type",
        "open_price",
        "comment",
        "analysis",
    )
    assert [getattr(closed, name) for name in unchanged] == [getattr(before, name) for name in unchanged]
    assert (closed.volume, closed.closed_volume, closed.opened_at) == (before.volume, before.volume, before.opened_at)
    assert (str(closed.sl), str(closed.tp)) == ("1.10400000", "1.12000000")


def test_a_close_takes_the_next_number_and_is_audited(bot: Bot) -> None:
    close(bot)

    assert bot.send("GET").json()["as_of"] == {"lena-eurusd": "2"}
    closed = AuditLog.objects.get(action="trade.closed")
    assert (closed.actor, closed.subject) == (bot.key, f"trade:{TradeHistory.objects.get().pk}")
    assert closed.detail == {
        "ticket_id": "1", "strategy": "lena-eurusd", "seq": 2, "close_price": "1.10800000", "profit": "30.00000000",
        "reason": "TP",
    }  # fmt: skip


@pytest.mark.parametrize("query", [CLOSE_QUERY, "close_price=1.108&profit=99&reason=TP_HIT"])
def test_repeating_a_close_is_answered_closed_already(bot: Bot, query: Any) -> None:
    """Price and reason identify the close; a repeat may calculate the profit again."""
    close(bot)

    again = close(bot, query=query)

    assert again.status_code == 200
    assert (again.json()["status"], again.json()["already"]) == ("CLOSED", True)
    assert again.json() == {"status": "CLOSED", "ticket_id": "1", "already": True}
    assert closes() == 1
    assert bot.send("GET").json()["as_of"] == {"lena-eurusd": "2"}


@pytest.mark.parametrize(
    "query", ["close_price=1.10800001&profit=30.00&reason=TP", "close_price=1.108&profit=30.00&reason=SL"]
)
def test_a_different_close_is_a_conflict_and_the_first_stands(bot: Bot, query: str) -> None:
    close(bot)

    other = close(bot, query=query)

    assert refusal(other) == (409, "trade_closed_conflict")
    assert other.json()["trade"] == {
        "ticket_id": "1", "status": "CLOSED", "close_price": "1.10800000", "reason": "TP"
    }  # fmt: skip
    refused = AuditLog.objects.get(action="trade.refused")
    assert (refused.actor, refused.code) == (bot.key, "trade_closed_conflict")
    assert closes() == 1


def test_a_repeat_under_the_same_key_gets_the_identical_answer(bot: Bot) -> None:
    first = close(bot, effect="close-0000000000001")

    again = close(bot, effect="close-0000000000001")

    assert (again.status_code, again.content) == (200, first.content)
    assert again["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("path", ["/api/v2/signal/close", "/signal/close"])
def test_closes_by_a_json_body(bot: Bot, path: str) -> None:
    fields = {"ticket_id": "1", "close_price": "1.108", "profit": "30", "reason": "SL_HIT"}

    first, again = bot.send("POST", path, fields), bot.send("POST", path, fields)

    assert (first.status_code, first.json()) == (200, {"status": "CLOSED", "ticket": 1})
    assert (again.status_code, again.json()) == (200, {"status": "CLOSED", "ticket": 1, "already": True})
    assert TradeHistory.objects.get().reason == "SL"


def test_all_routes_close_the_same_trade(bot: Bot) -> None:
    close(bot)

    fields = {"ticket_id": 1, "close_price": "1.108", "profit": "30", "reason": "TP"}
    assert bot.send("POST", "/api/v2/signal/close", fields).json()["already"] is True
    assert bot.send("POST", "/signal/close", fields).json()["already"] is True


@pytest.mark.parametrize("path", ["/api/v2/actives", "/signal/broadcast"])
def test_no_route_reopens_a_closed_ticket(bot: Bot, path: str) -> None:
    close(bot)

    zombie = bot.send("POST", path, opening("1"))

    assert refusal(zombie) == (409, "trade_closed")
    assert AuditLog.objects.get(action="zombie.refused").code == "trade_closed"


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        ("TP", "TP"), ("TP_HIT", "TP"), ("SL", "SL"), ("SL_HIT", "SL"), ("MANUAL", "MANUAL"), ("STOP_OUT", "STOP_OUT"),
        ("RECONCILED", "RECONCILED"), ("STAFF", "STAFF"),
    ],
)  # fmt: skip
def test_stores_the_reason(bot: Bot, reported: str, kept: str) -> None:
    assert close(bot, query=f"close_price=1.1&profit=-5&reason={reported}").status_code == 200
    assert TradeHistory.objects.get().reason == kept


def test_the_default_reason_is_manual(bot: Bot) -> None:
    close(bot, query="close_price=1.1&profit=-5.00000001")

    closed = TradeHistory.objects.get()
    assert (closed.reason, str(closed.profit)) == ("MANUAL", "-5.00000001")


def test_a_close_by_a_stranger_leaves_his_own_tombstone_and_closes_nothing(bot: Bot, sam_bot: Bot) -> None:
    assert close(sam_bot).status_code == 202

    assert ActiveTrade.objects.get().ticket_id == "1"
    assert bot.send("GET").json()["count"] == 1


@pytest.mark.parametrize(
    ("query", "faulty"),
    [
        ("", "close_price"),
        ("profit=1", "close_price"),
        ("close_price=1", "profit"),
        ("close_price=NaN&profit=1", "close_price"),
        ("close_price=0.000000001&profit=1", "close_price"),
        ("close_price=1&profit=1e5", "profit"),
        ("close_price=1&profit=1&reason=BORED", "reason"),
        ("close_price=1&profit=1&volume=1", "volume"),
        ("close_price=1&profit=1&ticket_id=2", "ticket_id"),
    ],
)
def test_names_the_field_that_cannot_be_read(bot: Bot, query: str, faulty: str) -> None:
    answer = close(bot, query=query)

    assert refusal(answer) == (422, "invalid")
    assert faulty in answer.json()["fields"]
    assert ActiveTrade.objects.count() == 1


def test_refuses_a_malformed_ticket(bot: Bot) -> None:
    assert refusal(close(bot, "0")) == (422, "invalid")
    assert refusal(close(bot, "9" * 20)) == (422, "invalid")


def test_a_readonly_key_closes_nothing(bot: Bot, lena: TradingAccount) -> None:
    from accounts import services as accounts
    from audit import services as audit

    secret = committed(accounts.create_key, account=lena, kind="readonly", actor=audit.SYSTEM)[1]
    request = replace(bot.request("DELETE", f"{ACTIVE}/1", query=CLOSE_QUERY), key=secret.key, secret=secret.secret)

    assert refusal(request.send()) == (403, "scope_denied")
    assert ActiveTrade.objects.count() == 1


@pytest.mark.parametrize("price", ["-37.63000000", "0.00000000"])
def test_a_close_passes_at_a_price_of_zero_or_below(bot: Bot, price: str) -> None:
    """Oil was at -37.63 once: a close that waits for a better price is a position that nobody closes."""
    answer = close(bot, query=f"close_price={price}&profit=-3873.50&reason=SL")

    assert (answer.status_code, answer.json()["status"]) == (200, "CLOSED")
    assert TradeHistory.objects.get().close_price == Decimal(price)
    assert close(bot, query=f"close_price={price}&profit=-3873.50&reason=SL").json()["already"] is True


def test_a_tombstone_keeps_a_price_below_zero(lena_bot: Bot) -> None:
    assert close(lena_bot, "7", "close_price=-1&profit=0&reason=SL").status_code == 202
    assert refusal(lena_bot.send("POST", fields=opening("7"))) == (409, "trade_closed")
