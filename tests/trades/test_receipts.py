"""Outcomes of copying, reasons for missing copies, and receipts, against figures calculated by hand."""

import uuid
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import TradingAccount
from audit import services as audit
from market.models import Instrument
from strategies import explanations, sizing
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests.signed import LONG_AGO, Bot, opening
from tests.transactions import committed
from trades import copy_statistics, receipts, snapshot
from trades.models import CopyOrder, TradeHistory

ACTIVE, SKIPS, ORDERS = "/api/v2/trades/active", "/api/v2/copier/skips", "/api/v2/trades/orders"


@pytest.fixture
def follows(finn: TradingAccount) -> Subscription:
    return Subscription.objects.select_related("account", "strategy").get(account=finn)


def set_terms(follows: Any, **settings: Any) -> None:
    strategies.set_terms(subscription=follows, actor=audit.SYSTEM, since=LONG_AGO, **settings)


def opened(bot: Any, ticket: str = "1", **more: Any) -> Any:
    answer = bot.send("POST", fields=opening(ticket, **more))
    assert answer.status_code == 201, answer.content
    return answer.json()["trade"]["trade_id"]


def copied(bot: Any, ref: Any, ticket: str = "501", **more: Any) -> None:
    copy = {**opening(ticket, **more), "strategy": "lena-eurusd", "trade_ref": ref}
    assert bot.send("POST", fields=copy).status_code == 201


def close(bot: Any, ticket: Any, profit: str = "5") -> None:
    answer = bot.send("DELETE", f"{ACTIVE}/{ticket}", query=f"close_price=1.11&profit={profit}&reason=TP")
    assert answer.status_code == 200


def skipped(bot: Any, ref: Any, reason: Any, **more: Any) -> None:
    assert bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": reason, **more}).json()


def recent(follows: Any, after: Any = timedelta(0)) -> Any:
    return receipts.recent([follows], now=timezone.now() + after)


def state(follows: Any, **more: Any) -> Any:
    (outcome,) = recent(follows, **more)
    return outcome.state, outcome.why_not


# --- outcomes


def test_without_subscriptions_the_database_is_not_queried(
    cast: dict[str, Any], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        assert receipts.recent([], now=timezone.now()) == []


def test_a_copy_is_open_then_overdue_then_closed(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    copied(finn_bot, opened(lena_bot))
    assert state(follows) == ("open", "")

    close(lena_bot, "1")
    assert state(follows) == ("overdue", "")

    close(finn_bot, "501")
    assert state(follows) == ("closed", "")


def test_a_copy_closed_by_its_own_stop_counts_as_copied(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    copied(finn_bot, opened(lena_bot))
    close(finn_bot, "501")

    assert state(follows) == ("closed", "")


def test_a_reason_reported_by_the_bot_outranks_one_derived_from_the_terms(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription
) -> None:
    set_terms(follows, symbols=["XAUUSD"])
    skipped(finn_bot, opened(lena_bot), "slippage", detail="8 bps")

    (outcome,) = recent(follows)

    assert (outcome.state, outcome.why_not, outcome.detail) == ("not copied", "slippage", "8 bps")
    assert outcome.why_not_text == "the price had moved further than the settings allow"


def test_an_open_copy_outranks_a_reported_skip(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    ref = opened(lena_bot)
    skipped(finn_bot, ref, "missed")
    copied(finn_bot, ref)

    assert state(follows) == ("open", "")


@pytest.mark.parametrize(
    ("settings", "why_not"),
    [
        ({"symbols": ["XAUUSD"]}, "symbol_not_allowed"),
        ({"min_volume": Decimal(1)}, "volume_too_small"),
        ({"mode": "EQUITY", "max_volume": Decimal(9)}, "not_sizable"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_without_a_report_the_reason_comes_from_the_terms_in_force(
    lena_bot: Bot, follows: Subscription, settings: dict[str, Any], why_not: str
) -> None:
    set_terms(follows, **settings)
    opened(lena_bot)

    assert state(follows) == ("not copied", why_not)


def test_terms_set_after_a_trade_do_not_explain_it(lena_bot: Bot, follows: Subscription) -> None:
    opened(lena_bot)
    strategies.set_terms(subscription=follows, actor=audit.SYSTEM, since=timezone.now(), symbols=["XAUUSD"])
    opened(lena_bot, "2")

    later, earlier = recent(follows)

    assert (later.why_not, earlier.why_not) == ("symbol_not_allowed", "")


def test_a_trade_is_pending_for_a_minute_and_then_not_reported(lena_bot: Bot, follows: Subscription) -> None:
    opened(lena_bot)

    assert state(follows) == ("pending", "")
    assert state(follows, after=timedelta(seconds=59)) == ("pending", "")
    assert state(follows, after=timedelta(seconds=61)) == ("not copied", "not_reported")


def test_a_closed_trade_without_a_copy_is_not_pending(lena_bot: Bot, follows: Subscription) -> None:
    opened(lena_bot)
    close(lena_bot, "1")

    assert state(follows) == ("not copied", "not_reported")


def test_a_trade_opened_before_the_subscription_was_not_to_be_copied(
    lena_bot: Bot, lena: TradingAccount, sam: TradingAccount
) -> None:
    opened(lena_bot)
    close(lena_bot, "1")
    opened(lena_bot, "2")
    late = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)
    late = Subscription.objects.select_related("account", "strategy").get(pk=late.pk)

    (outcome,) = recent(late)

    assert (outcome.provider_trade.ticket_id, outcome.why_not) == ("2", "new_install")


def test_copies_and_reasons_of_other_subscribers_are_not_included(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription, lena: TradingAccount, sam: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)
    other = Subscription.objects.select_related("account", "strategy").get(pk=other.pk)
    copied(finn_bot, opened(lena_bot))
    skipped(finn_bot, opened(lena_bot, "2"), "slippage")

    assert [outcome.state for outcome in recent(follows)] == ["not copied", "open"]
    assert [(outcome.state, outcome.why_not) for outcome in recent(other)] == [("pending", ""), ("pending", "")]
    both = receipts.recent([follows, other], now=timezone.now())
    assert {(outcome.subscription.pk, outcome.provider_trade.ticket_id, outcome.state) for outcome in both} == {
        (follows.pk, "1", "open"), (follows.pk, "2", "not copied"),
        (other.pk, "1", "pending"), (other.pk, "2", "pending"),
    }  # fmt: skip


def test_the_number_of_queries_does_not_depend_on_the_number_of_trades(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for ticket in range(1, 9):
        ref = opened(lena_bot, ticket)
        if ticket % 3:
            copied(finn_bot, ref, 500 + ticket)
        if ticket % 2:
            close(lena_bot, ticket)

    with django_assert_max_num_queries(6):
        assert len(recent(follows)) == 8


# --- calculation of the lots


LOTS = sizing.ProviderTrade(
    symbol="EURUSD", type="BUY", opened_volume=Decimal("0.5"), volume=Decimal("0.5"), open_price=Decimal("1.105"),
    opened_sl=Decimal("1.1"), sl=Decimal("1.1"), tp=None,
)  # fmt: skip
BY = sizing.Settings(mode="MULTIPLIER", multiplier=Decimal("0.333"), currency="USD")
EQUITY = replace(BY, mode="EQUITY", multiplier=Decimal(1), equity=Decimal(2500), master_equity=Decimal(10000))
RISK = replace(BY, mode="RISK", risk_pct=Decimal(1), equity=Decimal(10000), contracts={"EURUSD": Decimal(100000)})


@pytest.mark.parametrize(
    ("settings", "explanation"),
    [
        (BY, "0.50 lots × 0.333 = 0.1665"),
        (replace(BY, max_volume=Decimal("0.1")), "0.50 lots × 0.333 = 0.1665; at most 0.10 → 0.10"),
        (
            replace(BY, min_volume=Decimal("0.2"), raises_to_min=True),
            "0.50 lots × 0.333 = 0.1665; raised to the smallest, 0.20 → 0.20",
        ),
        (
            replace(BY, min_volume=Decimal("0.2")),
            "0.50 lots × 0.333 = 0.1665; below the smallest, 0.20: not copied → 0.00",
        ),
        (replace(BY, mode="FIXED", fixed_lots=Decimal("0.03")), "the same lots each time = 0.03"),
        (EQUITY, "0.50 lots × 1 × 2,500 / 10,000 of equity = 0.125"),
        (
            replace(EQUITY, master_equity=Decimal(3000)),
            "0.50 lots × 1 × 2,500 / 3,000 of equity, rounded down = 0.41666666",
        ),
        (replace(EQUITY, equity=None), "the equity of both accounts was not known"),
        (RISK, "1 % of an equity of 10,000 is 100 USD, lost between 1.105 and the stop at 1.1 by lots = 0.20"),
        (
            replace(RISK, currency="CHF"),
            "the loss of EURUSD at its stop cannot be converted to CHF: no rate of USD was known",
        ),
        (replace(BY, symbols=("XAUUSD",)), "EURUSD is not among the symbols to copy (XAUUSD) = 0.00"),
    ],
    ids=str,
)
def test_explains_how_the_lots_were_calculated(settings: Any, explanation: str) -> None:
    lines = explanations.arithmetic(settings, LOTS)

    assert explanations.in_one_line(lines) == explanation
    assert (lines[-1].lots or 0) == sizing.opened_volume(settings, LOTS)[0]


def test_a_moved_stop_does_not_change_the_calculation_of_the_lots(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription
) -> None:
    assert finn_bot.send("POST", "/api/v2/account", {"balance": "10000", "equity": "10000"}).status_code == 200
    set_terms(follows, mode="RISK", risk_pct=Decimal(1), max_volume=Decimal(9))
    ref = opened(lena_bot, open_price="1.105", sl="1.100")
    copied(finn_bot, ref)
    lena_bot.send("PATCH", "/api/v2/trades/active/1", {"sl": "1.104"})
    close(lena_bot, "1")

    provider_trade = TradeHistory.objects.get(pk=ref)

    assert (provider_trade.sl, receipts.as_opened(provider_trade).opened_sl) == (Decimal("1.104"), Decimal("1.100"))


def test_without_a_stop_the_risk_is_unknown() -> None:
    no_stop = replace(LOTS, opened_sl=None)

    assert "without a stop loss" in explanations.in_one_line(explanations.arithmetic(RISK, no_stop))


def test_the_terms_history_agrees_with_the_snapshot(lena_bot: Bot, follows: Subscription) -> None:
    set_terms(follows, mode="RISK", risk_pct=Decimal(2), max_volume=Decimal(3), symbols=["EURUSD"])
    ref = opened(lena_bot)
    (outcome,) = recent(follows)

    history = receipts.TermsHistory.of([follows], since=outcome.known_at)

    source = snapshot.read([follows.account_id]).sources["lena-eurusd"]
    assert history.settings(follows, outcome.known_at) == source.settings_of(ref)


# --- receipts


@pytest.fixture
def filled(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> Subscription:
    """A buy of 0.5 lots at 1.105, copied with 0.16 of 0.1665 at 1.10503."""
    set_terms(follows, multiplier=Decimal("0.333"))
    ref = opened(lena_bot, volume="0.5")
    known_ms = int(ref[:8] + ref[9:13], 16)
    copied(finn_bot, ref, volume="0.16", open_price="1.10503")
    order = {
        "strategy": "lena-eurusd", "seq": "1", "trade_ref": ref, "status": "executed", "requested_price": "1.10500",
        "executed_price": "1.10503", "volume": "0.16", "ticket_id": "501", "heard_ms": str(known_ms + 60),
        "sent_ms": str(known_ms + 67), "filled_ms": str(known_ms + 157),
    }  # fmt: skip
    assert finn_bot.send("POST", ORDERS, order).status_code == 201
    return follows


def receipt_of(follows: Any) -> Any:
    return receipts.receipt(recent(follows)[0])


def test_latency_is_split_between_desk_copier_and_broker(filled: Subscription) -> None:
    receipt = receipt_of(filled)

    assert [(stage.actor, stage.ms) for stage in receipt.stages[1:]] == [
        ("Desk and network", 60), ("Your copier", 7), ("Your broker", 90),
    ]  # fmt: skip
    assert receipt.total_ms == 157
    assert [round(start + length) for start, length in receipt.bars] == [38, 43, 100]


def test_a_brokers_clock_that_is_far_off_gives_no_latency(lena_bot: Bot, follows: Subscription) -> None:
    opened(lena_bot, opened_at="2017-05-01T10:00:00Z")

    assert receipt_of(follows).stages[0].ms is None


def test_slippage_is_given_in_points_bps_and_money(filled: Subscription) -> None:
    slippage = receipt_of(filled).slippage

    assert (slippage.points, round(slippage.bps, 4)) == (Decimal(3), Decimal("0.2715"))
    assert (slippage.money, slippage.currency) == (Decimal("0.48"), "USD")  # 0.00003 × 0.16 × 100,000
    assert slippage.direction == "worse"


def test_an_unknown_symbol_has_slippage_in_neither_points_nor_money(filled: Subscription) -> None:
    order = CopyOrder.objects.get()
    order.slippage_points = None
    Instrument.objects.filter(symbol="EURUSD").delete()

    slippage = receipts._slippage(order)

    assert (slippage.points, slippage.money, slippage.direction) == (None, None, "worse")


def test_planned_lots_and_lots_rounded_for_the_broker_are_both_shown(filled: Subscription) -> None:
    receipt = receipt_of(filled)

    assert (receipt.planned_lots, receipt.outcome.copied_lots, receipt.is_rounded) == (
        Decimal("0.1665"),
        Decimal("0.16"),
        True,
    )


def test_the_close_lag_is_measured_from_the_providers_close(filled: Subscription, lena_bot: Bot, finn_bot: Bot) -> None:
    close(lena_bot, "1")
    assert receipt_of(filled).close_lag_ms is None
    close(finn_bot, "501")

    receipt = receipt_of(filled)

    lag = receipt.outcome.copy.closed_at - receipt.outcome.provider_trade.closed_at
    assert receipt.close_lag_ms == lag // timedelta(milliseconds=1)


def test_a_copy_closed_before_the_providers_trade_has_no_close_lag(
    filled: Subscription, lena_bot: Bot, finn_bot: Bot
) -> None:
    close(finn_bot, "501")
    close(lena_bot, "1")

    assert receipt_of(filled).close_lag_ms is None


def test_a_trade_of_another_strategy_has_no_receipt(sam_bot: Bot, follows: Subscription) -> None:
    ref = opened(sam_bot, "9")

    assert receipts.outcome(follows, uuid.UUID(ref), now=timezone.now()) is None


# --- copy statistics


@pytest.fixture
def strategy(lena: TradingAccount) -> Strategy:
    return Strategy.objects.get(account=lena)


def coverage(strategy: Any, after: Any = timedelta(0)) -> Any:
    return copy_statistics.coverage(strategy, now=timezone.now() + after)


def test_each_trade_is_counted_with_each_subscription(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription, sam: TradingAccount, strategy: Strategy
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=strategy, actor=audit.SYSTEM)
    set_terms(other, symbols=["XAUUSD"])
    copied(finn_bot, opened(lena_bot))
    skipped(finn_bot, opened(lena_bot, "2"), "slippage")
    opened(lena_bot, "3")

    third, second, first = coverage(strategy)

    assert (first.copied, first.why_not, first.subscriptions) == (1, {"symbol_not_allowed": 1}, 2)
    assert (second.copied, second.why_not) == (0, {"slippage": 1, "symbol_not_allowed": 1})
    assert (third.pending, third.why_not) == (1, {"symbol_not_allowed": 1})
    assert coverage(strategy, after=timedelta(minutes=2))[0].why_not == {"symbol_not_allowed": 1, "not_reported": 1}


def test_the_summary_counts_pairs_of_trade_and_subscription(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription, strategy: Strategy
) -> None:
    set_terms(follows, symbols=["EURUSD"])
    copied(finn_bot, opened(lena_bot))
    opened(lena_bot, "2", symbol="GBPUSD")
    opened(lena_bot, "3", symbol="GBPUSD")
    skipped(finn_bot, opened(lena_bot, "4"), "missed")

    summary = copy_statistics.summary(coverage(strategy))

    assert (summary.pairs, summary.copied, summary.copied_pct, summary.not_copyable_pct) == (4, 1, 25, 50)
    assert [count for count, _ in summary.reasons] == [2, 1]


def test_ended_and_later_subscriptions_are_not_counted(
    lena_bot: Bot, follows: Subscription, sam: TradingAccount, strategy: Strategy
) -> None:
    opened(lena_bot)
    committed(strategies.subscribe, account=sam, strategy=strategy, actor=audit.SYSTEM)
    strategies.end(subscription=follows, actor=audit.SYSTEM)

    assert [row.subscriptions for row in coverage(strategy)] == [0]


def test_the_statistics_of_many_trades_need_four_queries(
    lena_bot: Bot, finn_bot: Bot, strategy: Strategy, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for ticket in range(1, 6):
        copied(finn_bot, opened(lena_bot, ticket), 500 + ticket)

    with django_assert_max_num_queries(4):
        assert sum(row.copied for row in coverage(strategy)) == 5


def test_overdue_closes_are_added_up(lena_bot: Bot, finn_bot: Bot, follows: Subscription, strategy: Strategy) -> None:
    for ticket in (1, 2):
        copied(finn_bot, opened(lena_bot, ticket), 500 + ticket, volume="0.03")
    assert copy_statistics.overdue(strategy=strategy).count == 0
    close(lena_bot, 1)
    close(lena_bot, 2)

    overdue = copy_statistics.overdue(strategy=strategy)

    assert (overdue.count, overdue.lots) == (2, Decimal("0.06"))
    now = timezone.now()
    assert not overdue.is_late(now)
    assert overdue.is_late(now + timedelta(seconds=31))
    assert copy_statistics.overdue_by_subscription([follows.account_id]) == {(follows.account_id, strategy.pk): overdue}


def test_latency_and_slippage_are_medians_over_executed_orders(lena_bot: Bot, finn_bot: Bot) -> None:
    assert copy_statistics.execution(CopyOrder.objects.all())["latency"] is None
    ref = opened(lena_bot)
    for latency, price in ((10, "1.105"), (30, "1.105"), (1000, "1.1061")):
        order = {
            "strategy": "lena-eurusd", "seq": "1", "trade_ref": ref, "status": "executed", "volume": "0.1",
            "requested_price": "1.105", "executed_price": price, "latency_ms": latency,
        }  # fmt: skip
        assert finn_bot.send("POST", ORDERS, order).status_code == 201
    failed = {**order, "status": "failed", "latency_ms": 9, "executed_price": None}
    finn_bot.send("POST", ORDERS, {name: value for name, value in failed.items() if value is not None})

    execution = copy_statistics.execution(CopyOrder.objects.all())

    assert (execution["count"], execution["latency"], execution["slippage"]) == (3, 30, 0)
    assert execution["latency_p95"] == pytest.approx(903)
