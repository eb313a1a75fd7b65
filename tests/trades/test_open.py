"""Opening a trade."""

from typing import Any

import pytest

from accounts.models import TradingAccount
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Strategy
from tests.answers import refusal
from tests.signed import Bot, opening
from tests.transactions import committed
from trades.models import ActiveTrade, Trade, TradeHistory

ACTIVE = "/api/v2/trades/active"


def fact(action: Any) -> AuditLog:
    return AuditLog.objects.get(action=action)


def as_of(bot: Any) -> Any:
    return bot.send("GET").json()["as_of"]


def close(bot: Any, ticket: str = "1") -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query="close_price=1.11&profit=5&reason=TP")


def test_opens_a_trade_that_is_then_active(lena_bot: Bot) -> None:
    answer = lena_bot.send("POST", fields=opening("1"))

    assert answer.status_code == 201
    assert answer.json()["status"] == "broadcasted"
    (trade,) = lena_bot.send("GET").json()["trades"]
    assert trade["ticket_id"] == "1"
    assert trade["volume"] == "0.10000000"


def test_answers_with_the_trade_and_its_number(lena_bot: Bot) -> None:
    answer = lena_bot.send("POST", fields=opening("1", opened_at="2026-01-05T10:00:00.000Z")).json()

    assert (answer["ticket_id"], answer["seq"]) == ("1", "1")
    assert answer["trade"] == {
        "trade_id": str(Trade.objects.get().pk), "role": "master", "strategy": "lena-eurusd", "ticket_id": "1",
        "master_ticket": "1", "symbol": "EURUSD", "type": "BUY", "volume": "0.10000000", "copy_volume": None,
        "open_price": "1.10500000", "sl": "1.10000000", "tp": "1.12000000", "opened_at": "2026-01-05T10:00:00.000Z",
        "seq": "1", "status": "OPEN", "opened_volume": "0.10000000", "opened_sl": "1.10000000", "copies": None,
        "copy": None, "first_sl": None,
    }  # fmt: skip


def test_is_audited_with_who_did_it_and_its_number(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))

    opened = fact("trade.opened")
    assert (opened.actor_kind, opened.actor, opened.ip) == ("bot", lena_bot.key, "127.0.0.1")
    assert (opened.outcome, opened.subject) == ("ok", f"trade:{Trade.objects.get().pk}")
    assert opened.detail["strategy"] == "lena-eurusd"
    assert (opened.detail["ticket_id"], opened.detail["seq"]) == ("1", 1)
    assert opened.request_id != ""


def test_stores_the_comment_and_the_analysis(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1", comment="breakout", analysis={"rsi": "71.5"}))

    trade = ActiveTrade.objects.get()
    assert (trade.comment, trade.analysis) == ("breakout", {"rsi": "71.5"})


def test_answers_a_repeated_open_as_the_first(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))

    again = lena_bot.send("POST", fields=opening("1"))

    assert again.status_code == 200
    assert again["Idempotency-Replayed"] == "true"
    assert as_of(lena_bot) == {"lena-eurusd": "1"}
    assert AuditLog.objects.filter(action="trade.opened").count() == 1


def test_a_repeat_may_write_its_amounts_and_ticket_differently(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))

    again = lena_bot.send("POST", fields=opening("1", ticket_id=1, volume=0.1, open_price="1.105", comment="again"))

    assert (again.status_code, again.json()["status"]) == (200, "broadcasted")


def test_a_repeat_returns_the_present_state_of_the_trade(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("PATCH", f"{ACTIVE}/1", {"sl": "1.10300000"})

    again = lena_bot.send("POST", fields=opening("1"))

    assert again.status_code == 200
    assert again.json()["trade"]["sl"] == "1.10300000"


@pytest.mark.parametrize(
    "other",
    [
        {"volume": "0.20000000"},
        {"type": "SELL"},
        {"symbol": "GBPUSD"},
        {"open_price": "1.10500001"},
        {"sl": None},
        {"sl": "1.12000000", "tp": "1.10000000"},
    ],
)
def test_refuses_other_content_under_an_open_ticket(lena_bot: Bot, other: dict[str, Any]) -> None:
    lena_bot.send("POST", fields=opening("1"))

    different = lena_bot.send("POST", fields=opening("1", **other))

    assert refusal(different) == (409, "trade_exists_different")
    assert fact("trade.refused").code == "trade_exists_different"
    assert as_of(lena_bot) == {"lena-eurusd": "1"}


def test_refuses_the_open_of_a_closed_ticket_and_audits_the_zombie(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    close(lena_bot)

    late = lena_bot.send("POST", fields=opening("1"))

    assert refusal(late) == (409, "trade_closed")
    assert late.json()["retry"] == "never"
    zombie = fact("zombie.refused")
    assert (zombie.code, zombie.outcome, zombie.actor) == ("trade_closed", "refused", lena_bot.key)
    assert zombie.subject == f"trade:{TradeHistory.objects.get().pk}"
    assert as_of(lena_bot) == {"lena-eurusd": "2"}
    assert lena_bot.send("GET").json()["count"] == 0


def test_a_closed_ticket_stays_refused_with_any_content_and_however_often(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    close(lena_bot)

    for other in ({}, {"symbol": "XAUUSD"}, {"volume": "9"}, {}):
        assert refusal(lena_bot.send("POST", fields=opening("1", **other))) == (409, "trade_closed")
    assert AuditLog.objects.filter(action="zombie.refused").count() == 4


def test_a_refused_open_stays_refused_under_its_own_key(lena_bot: Bot) -> None:
    """The refusal is stored with its Idempotency-Key, and the repeat is marked as one."""
    lena_bot.send("POST", fields=opening("1"))
    close(lena_bot)
    first = lena_bot.send("POST", fields=opening("1"), effect="zombie-0000000000001")

    again = lena_bot.send("POST", fields=opening("1"), effect="zombie-0000000000001")

    assert refusal(first) == refusal(again) == (409, "trade_closed")
    assert again["Idempotency-Replayed"] == "true"


def test_a_frozen_strategy_opens_nothing_but_still_answers_repeats_and_closes(
    lena_bot: Bot, lena: TradingAccount
) -> None:
    from audit import services as audit

    lena_bot.send("POST", fields=opening("1"))
    strategies.freeze(strategy=Strategy.objects.get(account=lena), actor=audit.SYSTEM, reason="a look at it")

    assert refusal(lena_bot.send("POST", fields=opening("2"))) == (409, "strategy_close_only")
    assert fact("trade.refused").code == "strategy_close_only"
    assert lena_bot.send("POST", fields=opening("1")).status_code == 200
    assert close(lena_bot).status_code == 200


def test_an_account_without_a_strategy_cannot_open(cast: dict[str, Any], finn: TradingAccount) -> None:
    from accounts import services as accounts
    from audit import services as audit
    from tests.signed import Bot

    secret = committed(accounts.create_key, account=finn, kind="master", actor=audit.SYSTEM)[1]
    bot = Bot({"key": secret.key, "secret": secret.secret})

    assert refusal(bot.send("POST", fields=opening("1"))) == (409, "strategy_missing")


def test_tickets_of_two_accounts_are_independent(lena_bot: Bot, sam_bot: Bot) -> None:
    assert lena_bot.send("POST", fields=opening("1")).status_code == 201
    close(lena_bot)

    assert sam_bot.send("POST", fields=opening("1")).status_code == 201
    assert refusal(lena_bot.send("POST", fields=opening("1"))) == (409, "trade_closed")
    assert as_of(sam_bot) == {"sam-xauusd": "1"}


def test_a_broker_that_restarts_its_tickets_needs_a_new_account(lena_bot: Bot, lena: TradingAccount) -> None:
    from accounts import services as accounts
    from accounts.models import TradingAccount
    from audit import services as audit
    from tests.signed import Bot

    lena_bot.send("POST", fields=opening("1"))
    close(lena_bot)
    same = {"owner": lena.owner, "broker": lena.broker, "server": lena.server, "login": lena.login}
    anew = TradingAccount.objects.create(name="lena-mt5-2", generation=2, **same)
    Strategy.objects.create(name="lena-anew", owner=lena.owner, account=anew)
    secret = committed(accounts.create_key, account=anew, kind="master", actor=audit.SYSTEM)[1]

    assert Bot({"key": secret.key, "secret": secret.secret}).send("POST", fields=opening("1")).status_code == 201
    assert refusal(lena_bot.send("POST", fields=opening("1"))) == (409, "trade_closed")


@pytest.mark.parametrize(
    ("fields", "code", "detail"),
    [
        ({"volume": "9"}, "trade_exists_different", {"ticket_id": "1"}),
        ({"ticket_id": "2"}, "trade_closed", {"ticket_id": "2", "strategy": "lena-eurusd"}),
    ],
)
def test_a_refusal_is_audited_in_full_and_takes_no_number(
    lena_bot: Bot, lena: TradingAccount, fields: dict[str, Any], code: str, detail: dict[str, Any]
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    close(lena_bot, "2")

    assert refusal(lena_bot.send("POST", fields=opening(**{"ticket": "1", **fields}))) == (409, code)

    entry = AuditLog.objects.get(code=code)
    assert (entry.outcome, entry.actor_kind, entry.actor, entry.ip) == ("refused", "bot", lena_bot.key, "127.0.0.1")
    assert (entry.subject, entry.detail) == (f"trade:{Trade.objects.get(ticket_id=detail['ticket_id']).pk}", detail)
    assert Strategy.objects.get(account=lena).last_seq == 1


def test_accepts_the_longest_ticket(lena_bot: Bot) -> None:
    assert lena_bot.send("POST", fields=opening(9999999999999999999)).status_code == 201
    assert lena_bot.send("GET").json()["trades"][0]["ticket_id"] == "9999999999999999999"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ticket_id", "0"),
        ("ticket_id", "01"),
        ("ticket_id", "-1"),
        ("ticket_id", "10000000000000000000"),
        ("ticket_id", None),
        ("ticket_id", True),
        ("type", "HOLD"),
        ("volume", "0"),
        ("volume", "-0.1"),
        ("volume", "NaN"),
        ("volume", "1e-1"),
        ("volume", "0.000000001"),
        ("open_price", "1000000000000"),
        ("open_price", "Infinity"),
        ("sl", "0"),
        ("tp", "-1"),
        ("opened_at", "2026-01-05"),
        ("opened_at", "2026-01-05T10:00:00"),
        ("comment", "a\nb"),
        ("analysis", [1]),
        ("analysis", {"a": "x" * 2048}),
        ("profit", "1"),
    ],
)
def test_names_the_field_that_cannot_be_read(lena_bot: Bot, field: str, value: Any) -> None:
    answer = lena_bot.send("POST", fields=opening("1", **{field: value}))

    assert refusal(answer) == (422, "invalid")
    assert list(answer.json()["fields"]) == [field]
    assert not Trade.objects.exists()


def test_a_malformed_symbol_has_its_own_code(lena_bot: Bot) -> None:
    assert refusal(lena_bot.send("POST", fields=opening("1", symbol="EUR USD"))) == (422, "symbol_grammar")
