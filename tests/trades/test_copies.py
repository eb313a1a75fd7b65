"""A copier's own trades: as exact as a master's, and nobody's business but its account's."""

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
    told = []
    monkeypatch.setattr(publisher, "publish", told.append)
    return told


def copy(bot: Any, ticket: str = "501", **more: Any) -> Any:
    return bot.send("POST", fields=opening(ticket, **{**COPY, **more}))


def close(bot: Any, ticket: str = "501", query: str = "close_price=1.11&profit=2&reason=TP") -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query=query)


def copy_seq(account: Any) -> Any:
    return TradingAccount.objects.get(pk=account.pk).copy_seq


def test_reports_its_copy_as_open(copier: Bot, finn: TradingAccount, lena: TradingAccount) -> None:
    answer = copy(copier)

    assert answer.status_code == 201
    told = answer.json()["trade"]
    assert (told["role"], told["strategy"], told["ticket_id"], told["master_ticket"]) == (
        "copy",
        "lena-eurusd",
        "501",
        "1",
    )
    held = ActiveTrade.objects.get(account=finn)
    assert held.master_trade == Trade.objects.get(account=lena).pk
    assert held.is_copy


def test_moves_no_number_of_the_stream_and_makes_no_event(
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


def test_is_counted_by_its_account_from_one(copier: Bot) -> None:
    assert copy(copier, "501").json()["seq"] == "1"
    assert copy(copier, "502").json()["seq"] == "2"
    assert close(copier, "501").json()["seq"] == "3"


def test_is_seen_by_its_own_account_alone(copier: Bot, lena_bot: Bot, sam_bot: Bot) -> None:
    copy(copier)

    assert [t["role"] for t in copier.send("GET").json()["trades"]] == ["master", "copy"]
    assert [t["ticket_id"] for t in lena_bot.send("GET").json()["trades"]] == ["1"]
    assert sam_bot.send("GET").json()["trades"] == []


def test_closes_into_history_as_a_copy_with_all_its_parts(copier: Bot, finn: TradingAccount) -> None:
    copy(copier)
    copier.send("POST", f"{ACTIVE}/501/reduce", {"deal_id": "1", "volume": "0.01", "close_price": "1.1", "profit": "1"})

    answer = close(copier)

    assert (answer.status_code, answer.json()["status"]) == (200, "CLOSED")
    closed = TradeHistory.objects.get(account=finn)
    assert closed.is_copy
    assert (str(closed.volume), str(closed.profit)) == ("0.05000000", "3.00000000")
    assert AuditLog.objects.get(action="trade.closed").actor == copier.key


def test_a_closed_copy_comes_back_no_more_than_a_master(copier: Bot) -> None:
    copy(copier)
    close(copier)

    assert refusal(copy(copier)) == (409, "trade_closed")
    assert AuditLog.objects.filter(action="zombie.refused").count() == 1


def test_a_repeat_is_the_same_and_other_content_is_not(copier: Bot) -> None:
    copy(copier)

    assert copy(copier).status_code == 200
    assert refusal(copy(copier, volume="0.06")) == (409, "trade_exists_different")


def test_the_same_copy_of_another_master_is_other_content(copier: Bot, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("2"))
    copy(copier)

    assert refusal(copy(copier, master_ticket="2")) == (409, "trade_exists_different")


def test_a_close_before_its_open_leaves_a_tombstone(copier: Bot, lena: TradingAccount) -> None:
    assert close(copier).status_code == 202

    assert refusal(copy(copier)) == (409, "trade_closed")
    assert Strategy.objects.get(account=lena).last_seq == 1


def test_may_be_told_of_a_master_that_closed_meanwhile(copier: Bot, lena_bot: Bot) -> None:
    """It is a fact at the copier's broker, and must be seen there to be closed."""
    close(lena_bot, "1")

    assert copy(copier).status_code == 201
    assert [t["role"] for t in copier.send("GET").json()["trades"]] == ["copy"]


def test_of_a_master_that_never_was_is_unknown(copier: Bot) -> None:
    assert refusal(copy(copier, master_ticket="99")) == (404, "trade_unknown")


def test_of_a_strategy_not_followed_is_not_found(copier: Bot, cast: dict[str, Any]) -> None:
    stranger = Bot(key_of(cast, "sam", "copier"))

    assert refusal(copy(stranger)) == (404, "not_found")
    assert refusal(copy(copier, strategy="sam-xauusd")) == (404, "not_found")
    assert refusal(copy(copier, strategy="nobody")) == (404, "not_found")


@pytest.mark.parametrize("verb", [strategies.pause, strategies.end])
def test_outlives_its_subscription(copier: Bot, finn: TradingAccount, verb: Any) -> None:
    """What a broker still holds is told and closed, also when nothing more is to be copied."""
    from audit import services as audit

    copy(copier)
    verb(subscription=Subscription.objects.get(account=finn), actor=audit.SYSTEM)

    assert "copy" in [t["role"] for t in copier.send("GET").json()["trades"]]
    assert close(copier).status_code == 200


def test_a_frozen_strategy_keeps_no_copy_from_being_told(copier: Bot, lena: TradingAccount) -> None:
    from audit import services as audit

    strategies.freeze(strategy=Strategy.objects.get(account=lena), actor=audit.SYSTEM, reason="a look at it")

    assert copy(copier).status_code == 201


def test_a_copier_cannot_open_without_naming_what_it_copies(copier: Bot) -> None:
    answer = copier.send("POST", fields=opening("501"))

    assert refusal(answer) == (422, "invalid")
    assert set(answer.json()["fields"]) == {"master_ticket", "strategy"}


def test_one_account_may_lead_and_follow_and_its_tickets_are_one_space(
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
