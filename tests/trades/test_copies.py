"""A copier's own trades: recorded as exactly as a provider's, and visible to their account only."""

from typing import Any

import pytest

from accounts.models import TradingAccount
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests.answers import refusal
from tests.conftest import key_of
from tests.signed import Bot, opening
from tests.transactions import committed
from trades import publisher
from trades.models import ActiveTrade, Trade, TradeHistory

ACTIVE = "/api/v2/trades/active"
COPY = {"strategy": "lena-eurusd", "master_ticket": "1", "volume": "0.05"}


@pytest.fixture
def copier(lena_bot: Bot, finn_bot: Bot) -> Bot:
    """Finn's bot, with lena's ticket 1 open."""
    lena_bot.send("POST", fields=opening("1"))
    return finn_bot


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    events: list[Any] = []
    monkeypatch.setattr(publisher, "publish", events.append)
    return events


def copy(bot: Any, ticket: str = "501", **more: Any) -> Any:
    return bot.send("POST", fields=opening(ticket, **{**COPY, **more}))


def close(bot: Any, ticket: str = "501", query: str = "close_price=1.11&profit=2&reason=TP") -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query=query)


def copy_seq(account: Any) -> Any:
    return TradingAccount.objects.get(pk=account.pk).copy_seq


def test_a_copier_reports_its_copy_as_open(copier: Bot, finn: TradingAccount, lena: TradingAccount) -> None:
    answer = copy(copier)

    assert answer.status_code == 201
    trade = answer.json()["trade"]
    assert (trade["role"], trade["strategy"], trade["ticket_id"], trade["master_ticket"]) == (
        "copy",
        "lena-eurusd",
        "501",
        "1",
    )
    held = ActiveTrade.objects.get(account=finn)
    assert held.master_trade == Trade.objects.get(account=lena).pk
    assert held.is_copy


def test_a_copy_takes_no_number_of_the_stream_and_makes_no_event(
    copier: Bot, finn: TradingAccount, lena: TradingAccount, published: list[Any]
) -> None:
    copy(copier)
    copier.send("PATCH", f"{ACTIVE}/501", {"sl": "1.10100000"})
    copier.send("POST", f"{ACTIVE}/501/reduce", {"deal_id": "1", "volume": "0.01", "close_price": "1.1", "profit": "1"})
    close(copier)

    assert published == []
    assert Strategy.objects.get(account=lena).last_seq == 1
    assert copy_seq(finn) == 4
    assert TradeHistory.objects.get().seq == 4


def test_an_accounts_copies_are_numbered_from_one(copier: Bot) -> None:
    assert copy(copier, "501").json()["seq"] == "1"
    assert copy(copier, "502").json()["seq"] == "2"
    assert close(copier, "501").json()["seq"] == "3"


def test_only_its_own_account_sees_a_copy(copier: Bot, lena_bot: Bot, sam_bot: Bot) -> None:
    copy(copier)

    assert [t["role"] for t in copier.send("GET").json()["trades"]] == ["master", "copy"]
    assert [t["ticket_id"] for t in lena_bot.send("GET").json()["trades"]] == ["1"]
    assert sam_bot.send("GET").json()["trades"] == []


def test_a_closed_copy_moves_to_history_with_its_partial_closes(copier: Bot, finn: TradingAccount) -> None:
    copy(copier)
    copier.send("POST", f"{ACTIVE}/501/reduce", {"deal_id": "1", "volume": "0.01", "close_price": "1.1", "profit": "1"})

    answer = close(copier)

    assert (answer.status_code, answer.json()["status"]) == (200, "CLOSED")
    closed = TradeHistory.objects.get(account=finn)
    assert closed.is_copy
    assert (str(closed.volume), str(closed.profit)) == ("0.05000000", "3.00000000")
    assert AuditLog.objects.get(action="trade.closed").actor == copier.key


def test_a_closed_copy_is_never_reopened(copier: Bot) -> None:
    copy(copier)
    close(copier)

    assert refusal(copy(copier)) == (409, "trade_closed")
    assert AuditLog.objects.filter(action="zombie.refused").count() == 1


def test_a_repeat_is_accepted_and_other_content_is_refused(copier: Bot) -> None:
    copy(copier)

    assert copy(copier).status_code == 200
    assert refusal(copy(copier, volume="0.06")) == (409, "trade_exists_different")


def test_the_same_ticket_as_a_copy_of_another_trade_is_other_content(copier: Bot, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("2"))
    copy(copier)

    assert refusal(copy(copier, master_ticket="2")) == (409, "trade_exists_different")


def test_a_close_of_a_copy_before_its_open_leaves_a_tombstone(copier: Bot, lena: TradingAccount) -> None:
    assert close(copier).status_code == 202

    assert refusal(copy(copier)) == (409, "trade_closed")
    assert Strategy.objects.get(account=lena).last_seq == 1


def test_a_copy_of_a_trade_closed_meanwhile_is_recorded(copier: Bot, lena_bot: Bot) -> None:
    """The copy is open at the copier's broker, and only a recorded copy is reported as overdue."""
    close(lena_bot, "1")

    assert copy(copier).status_code == 201
    assert [t["role"] for t in copier.send("GET").json()["trades"]] == ["copy"]


def test_a_copy_of_an_unknown_trade_is_refused(copier: Bot) -> None:
    assert refusal(copy(copier, master_ticket="99")) == (404, "trade_unknown")


def test_a_copy_of_a_strategy_that_is_not_followed_is_refused(copier: Bot, cast: dict[str, Any]) -> None:
    stranger = Bot(key_of(cast, "sam", "copier"))

    assert refusal(copy(stranger)) == (404, "not_found")
    assert refusal(copy(copier, strategy="sam-xauusd")) == (404, "not_found")
    assert refusal(copy(copier, strategy="nobody")) == (404, "not_found")


@pytest.mark.parametrize("verb", [strategies.pause, strategies.end])
def test_a_copy_can_be_reported_and_closed_after_its_subscription_ended(
    copier: Bot, finn: TradingAccount, verb: Any
) -> None:
    """Copies at the broker are still reported and closed when no new trades are copied."""
    from audit import services as audit

    copy(copier)
    verb(subscription=Subscription.objects.get(account=finn), actor=audit.SYSTEM)

    assert "copy" in [t["role"] for t in copier.send("GET").json()["trades"]]
    assert close(copier).status_code == 200


def test_a_copy_of_a_frozen_strategy_can_be_reported(copier: Bot, lena: TradingAccount) -> None:
    from audit import services as audit

    strategies.freeze(strategy=Strategy.objects.get(account=lena), actor=audit.SYSTEM, reason="a look at it")

    assert copy(copier).status_code == 201


def test_a_copier_must_name_the_trade_that_it_copies(copier: Bot) -> None:
    answer = copier.send("POST", fields=opening("501"))

    assert refusal(answer) == (422, "invalid")
    assert set(answer.json()["fields"]) == {"master_ticket", "strategy"}


def test_an_account_may_lead_and_follow_and_its_tickets_are_unique_over_both(
    cast: dict[str, Any], sam: TradingAccount, lena_bot: Bot
) -> None:
    from audit import services as audit

    lena_bot.send("POST", fields=opening("1"))
    committed(strategies.subscribe, account=sam, strategy=Strategy.objects.get(name="lena-eurusd"), actor=audit.SYSTEM)
    leads, follows = Bot(key_of(cast, "sam", "master")), Bot(key_of(cast, "sam", "copier"))

    assert leads.send("POST", fields=opening("7")).status_code == 201
    assert refusal(copy(follows, "7")) == (409, "trade_exists_different")
    assert copy(follows, "8").status_code == 201
    assert refusal(leads.send("POST", fields=opening("8"))) == (409, "trade_exists_different")
    assert {t["ticket_id"]: t["role"] for t in leads.send("GET").json()["trades"]} == {
        "1": "master",
        "7": "master",
        "8": "copy",
    }
