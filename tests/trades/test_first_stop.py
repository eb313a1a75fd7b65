"""Copies by risk of a trade that was opened without a stop loss: they wait a few seconds for the first one."""

import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from core import uuid7
from market.models import Instrument
from strategies import services as strategies
from strategies import sizing
from strategies.models import Subscription
from tests.signed import LONG_AGO, Bot, opening
from trades import publisher, receipts, snapshot
from trades.feed import Entry, PacketKey
from trades.models import ActiveTrade, TradeHistory

ACTIVE = "/api/v2/trades/active"
D = Decimal


@pytest.fixture
def subscription(finn: TradingAccount, finn_bot: Bot) -> Subscription:
    """finn copies with 1 % of 10,000 USD at risk."""
    Instrument.objects.get_or_create(symbol="EURUSD", defaults={"point": D("0.00001"), "contract_size": 100_000})
    finn_bot.send("POST", "/api/v2/account", {"balance": "10000", "equity": "10000"})
    subscription = Subscription.objects.get(account=finn)
    set_terms(subscription)
    return subscription


def set_terms(subscription: Subscription, **settings: Any) -> None:
    settings = {"mode": "RISK", "risk_pct": D(1), "max_volume": D(9), **settings}
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, since=LONG_AGO, **settings)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The events that went out to the sockets."""
    events: list[Any] = []
    monkeypatch.setattr(publisher, "publish", events.append)
    yield events


def packets_of(events: list[Any], finn: TradingAccount) -> list[tuple[str, str, str]]:
    """Action, volume and stop loss of each event's packet for finn."""
    (source,) = snapshot.read([finn.pk]).sources.values()
    texts = []
    for outcome in events:
        trade = outcome["trade"]
        delta = {"type": outcome["event"], "strategy": source.name, "seq": trade["seq"], "trade": trade}
        text = Entry.of(uuid7.ms_of(outcome["trade"]["trade_id"]), delta).text(source, PacketKey("0" * 64, 1))
        packet = orjson.loads(text)["packet"]
        texts.append((packet["action"], packet["volume"], packet["sl"]))
    return texts


def plan(bot: Bot) -> dict[str, Any]:
    (trade,) = bot.send("GET").json()["trades"]
    copy: dict[str, Any] = trade["copy"]
    return copy


def open_without_a_stop(bot: Bot, **more: Any) -> str:
    answer = bot.send("POST", fields=opening("1", sl=None, **more))
    assert answer.status_code == 201
    trade_id: str = answer.json()["trade"]["trade_id"]
    return trade_id


def set_stop(bot: Bot, stop: str = "1.10000") -> None:
    assert bot.send("PATCH", f"{ACTIVE}/1", {"sl": stop}).status_code == 200


def test_a_copy_waits_for_the_first_stop_and_is_opened_with_it(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription, published: list[Any]
) -> None:
    open_without_a_stop(lena_bot)
    waiting = plan(finn_bot)
    set_stop(lena_bot)
    sized = plan(finn_bot)
    set_stop(lena_bot, "1.10200")

    assert (waiting["opens"], waiting["why_not"], waiting["volume"]) == (False, "awaiting_stop", "0.00000000")
    assert (sized["opens"], sized["volume"]) == (True, "0.20000000")
    assert packets_of(published, finn) == [
        ("GAPFILL", "0.00000000", ""),
        ("OPEN", "0.20000000", "1.10000000"),
        ("MODIFY", "0.20000000", "1.10200000"),  # a later stop changes no size
    ]


def test_other_ways_of_copying_open_at_once_and_get_the_stop_as_a_modification(
    lena_bot: Bot, finn: TradingAccount, subscription: Subscription, published: list[Any]
) -> None:
    set_terms(subscription, mode="MULTIPLIER")
    open_without_a_stop(lena_bot)
    set_stop(lena_bot)

    assert [action for action, _, _ in packets_of(published, finn)] == ["OPEN", "MODIFY"]


def test_a_trade_opened_with_a_stop_does_not_wait(
    lena_bot: Bot, finn: TradingAccount, subscription: Subscription, published: list[Any]
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    set_stop(lena_bot, "1.10200")

    assert packets_of(published, finn) == [
        ("OPEN", "0.20000000", "1.10000000"), ("MODIFY", "0.20000000", "1.10200000")
    ]  # fmt: skip
    assert ActiveTrade.objects.get().first_sl is None


def test_a_default_distance_sizes_at_once_and_for_ever(
    lena_bot: Bot, finn: TradingAccount, subscription: Subscription, published: list[Any]
) -> None:
    """50 bps of 1.105 are 552.50 USD a lot."""
    set_terms(subscription, risk_default_stop_bps=D(50))
    open_without_a_stop(lena_bot)
    set_stop(lena_bot)

    assert packets_of(published, finn) == [("OPEN", "0.18099547", ""), ("MODIFY", "0.18099547", "1.10000000")]


def test_after_the_wait_it_is_not_sizable(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_without_a_stop(lena_bot)
    assert plan(finn_bot)["why_not"] == "awaiting_stop"

    later_ns = time.time_ns() + (sizing.FIRST_STOP_MS + 1000) * 1_000_000
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(time_ns=lambda: later_ns))

    assert plan(finn_bot)["why_not"] == "not_sizable"  # though nothing changed: the stored snapshot is not used


def test_a_stop_that_comes_too_late_sizes_nothing(
    lena_bot: Bot, finn_bot: Bot, lena: TradingAccount, subscription: Subscription
) -> None:
    old = uuid7.first_at(timezone.now() - timedelta(milliseconds=sizing.FIRST_STOP_MS + 500))
    with transaction.atomic("owner"), connections["owner"].cursor() as cursor:
        cursor.execute(
            "insert into trades (id, account_id, ticket_id, state) values (%s, %s, '1', 'OPEN')", [old, lena.pk]
        )
        cursor.execute(
            "insert into active_trades (trade_id, account_id, strategy_id, ticket_id, master_ticket, seq, symbol, "
            "type, volume, opened_volume, open_price, status, comment, opened_at) "
            "values (%s, %s, %s, '1', '1', 1, 'EURUSD', 'BUY', 1, 1, 1.105, 'OPEN', '', now())",
            [old, lena.pk, subscription.strategy_id],
        )
    set_stop(lena_bot)

    assert ActiveTrade.objects.get().first_sl is None
    assert plan(finn_bot)["why_not"] == "not_sizable"


def test_while_it_is_paused_nothing_opens_with_the_first_stop(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription, published: list[Any]
) -> None:
    strategies.pause(subscription=subscription, actor=audit.SYSTEM)
    open_without_a_stop(lena_bot)
    assert finn_bot.send("GET").json()["trades"] == []
    set_stop(lena_bot)

    assert [action for action, _, _ in packets_of(published, finn)] == ["GAPFILL", "GAPFILL"]


def test_a_close_before_the_first_stop_is_a_close(
    lena_bot: Bot, finn: TradingAccount, subscription: Subscription, published: list[Any]
) -> None:
    open_without_a_stop(lena_bot)
    lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=0&reason=MANUAL")

    assert [action for action, _, _ in packets_of(published, finn)] == ["GAPFILL", "CLOSE"]


def test_the_first_stop_never_changes_and_stays_with_the_closed_trade(
    lena_bot: Bot, subscription: Subscription
) -> None:
    trade_id = open_without_a_stop(lena_bot)
    set_stop(lena_bot)
    with connections["owner"].cursor() as cursor, pytest.raises(DatabaseError, match="first stop loss"):
        cursor.execute("update active_trades set first_sl = 1 where trade_id = %s", [trade_id])
    set_stop(lena_bot, "1.10200")
    lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=0&reason=MANUAL")

    closed = TradeHistory.objects.get(pk=trade_id)
    assert (closed.opened_sl, closed.first_sl, closed.sl) == (None, D("1.1"), D("1.102"))
    assert receipts.as_opened(closed).first_sl == D("1.1")


def test_people_see_it_pending_while_it_waits(lena_bot: Bot, subscription: Subscription) -> None:
    open_without_a_stop(lena_bot)

    def state(**ahead: int) -> str:
        (outcome,) = receipts.recent([subscription], now=timezone.now() + timedelta(**ahead))
        return outcome.state if not outcome.why_not else outcome.why_not

    assert (state(), state(seconds=6)) == ("pending", "not_sizable")


def test_an_older_bots_skip_for_the_wait_is_a_size_that_was_not_known(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    ref = open_without_a_stop(lena_bot)
    skip = {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "awaiting_stop"}

    assert finn_bot.send("POST", "/api/v2/copier/skips", skip).status_code == 201
