"""Fees: settled once a period on the P/L above the high-water mark, then collected and paid out."""

import threading
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from config import demo_data
from market.models import Candle
from strategies import services as strategies
from strategies.models import Subscription
from tests.transactions import committed
from tests.wallets.conftest import JUST_AFTER, Following, accept, balance, following, pay_in, usd
from wallets import checks, fees, pnl, services, tasks
from wallets.models import FeeAgreement, FeeClaim, FeeTerms, LedgerTransfer, Settlement, TransferKind, WalletHold
from wallets.services import agreements, settlement

DAY = timedelta(days=1)


def claim() -> FeeClaim:
    return FeeClaim.objects.get(kind=FeeClaim.Kind.PERFORMANCE)


def finns_subscription() -> Subscription:
    return Subscription.objects.get(account__name="finn-mt5")


# --- settlement


def test_charges_a_share_of_the_profit(follows: Following) -> None:
    follows.realise("1", "1000")

    settled = follows.settle()

    assert (settled.period_no, settled.cumulative_pnl, settled.high_water_mark, settled.fee, settled.trades) == (
        1,
        1000,
        1000,
        200,
        1,
    )
    assert (claim().amount, claim().provider_share) == (200, 150)


def test_nothing_is_due_before_the_period_is_over(follows: Following) -> None:
    follows.realise("1", "1000")

    assert settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end()) is None


def test_a_period_is_settled_once(follows: Following) -> None:
    follows.realise("1", "1000")
    follows.settle()

    assert follows.settle() is None
    assert Settlement.objects.filter(period_no__gt=0).count() == 1


def test_a_loss_and_its_recovery_cost_nothing(follows: Following) -> None:
    """Cumulative results of 1000, 500 and 2000 cost 200, 0 and 200 at a rate of 20 %."""
    follows.copy("1", volume="0.1", price="1.00000")
    for month, price in enumerate(("1.10000", "1.05000", "1.20000"), 1):
        follows.bar(price, month=month)
        follows.settle(month)

    settled = Settlement.objects.filter(period_no__gt=0).order_by("period_no")
    assert [(period.cumulative_pnl, period.fee, period.high_water_mark) for period in settled] == [
        (1000, 200, 1000),
        (500, 0, 1000),
        (2000, 200, 2000),
    ]


def test_a_floating_loss_counts(follows: Following) -> None:
    follows.realise("1", "300")
    follows.copy("2", volume="0.1", price="1.10000")
    follows.bar("1.06000")

    settled = follows.settle()

    assert (settled.closed_result, settled.floating_result, settled.cumulative_pnl, settled.fee) == (300, -400, -100, 0)


def test_a_partial_close_counts_when_it_happens(follows: Following) -> None:
    from django.db import transaction

    from trades import services as trades

    follows.copy("1", volume="1", price="1.10000")
    with transaction.atomic():
        for account, ticket in ((follows.lena, "1"), (follows.finn, "91")):
            trades.reduce_trade(
                account=account, ticket_id=ticket, deal_id="d", volume=Decimal("0.4"), close_price=Decimal("1.11"),
                profit=Decimal("600"),
            )  # fmt: skip
    follows.bar("1.10100")

    settled = follows.settle()

    assert (settled.closed_result, settled.floating_result) == (600, 40)


def test_without_a_mark_price_no_fee_is_charged(follows: Following) -> None:
    follows.realise("1", "1000")
    follows.copy("2")

    assert follows.settle() is None
    assert FeeAgreement.objects.get().postponed == "no price of EURUSD in USD"

    follows.bar("1.10000")
    assert follows.settle().fee == 200
    assert FeeAgreement.objects.get().postponed == ""


def test_a_copy_under_another_symbol_is_valued_by_the_providers_symbol(follows: Following) -> None:
    follows.copy("1", called="EURUSD.vip")
    follows.bar("1.10100")

    assert follows.settle().floating_result == 100


def test_the_contract_size_that_the_copiers_bot_reports_does_not_matter(follows: Following) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "insert into account_symbols (account_id, symbol, contract_size, changed_at, updated_at) "
            "values (%s, 'EURUSD.vip', 0.00000001, now(), now())",
            [follows.finn.pk],
        )
    follows.copy("1", called="EURUSD.vip")
    follows.bar("1.10100")

    settled = follows.settle()

    assert settled.floating_result == 100
    with connections["owner"].cursor() as cursor:  # what was charged stays recomputable
        cursor.execute("update instruments set contract_size = 1")
    assert settlement.recalculate(settled).agrees


def test_no_fee_is_charged_from_profits_in_another_currency(follows: Following) -> None:
    follows.realise("1", "1000")
    TradingAccount.objects.filter(pk=follows.finn.pk).update(reported_currency="USC")

    assert follows.settle() is None
    assert FeeAgreement.objects.get().postponed == "finn-mt5 reports USC, registered is USD"
    reports = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end() + JUST_AFTER + 2 * DAY)
    assert reports is None

    TradingAccount.objects.filter(pk=follows.finn.pk).update(reported_currency="USD")
    assert follows.settle().fee == 200


def test_a_stale_bar_gives_no_mark_price(follows: Following) -> None:
    follows.copy("1")
    follows.bar("1.10000")
    Candle.objects.update(opened_at=follows.month_end() - timedelta(days=5))

    assert follows.settle() is None


def test_a_period_without_a_current_price_is_settled_at_the_last_known_one(follows: Following) -> None:
    """A symbol without a price cannot hold up a fee for ever."""
    follows.realise("1", "300")
    follows.copy("2", volume="0.1", price="1.10000")
    follows.bar("1.11000")
    Candle.objects.update(opened_at=follows.month_end() - timedelta(days=9))
    waits_until = follows.month_end() + timedelta(days=settings.FEE_PRICE_DAYS)

    assert settlement.settle(agreement_id=follows.agreement.pk, now=waits_until - DAY / 24) is None
    settled = settlement.settle(agreement_id=follows.agreement.pk, now=waits_until)

    assert settled is not None
    assert (settled.ends_at, settled.closed_result, settled.floating_result, settled.fee) == (
        follows.month_end(), 300, 100, 80,
    )  # fmt: skip
    assert settled.lines[-1]["why"] == "no current price of EURUSD: at the last known price"
    assert settlement.recalculate(settled).agrees


def test_a_trade_whose_price_was_never_known_counts_when_it_is_closed(follows: Following) -> None:
    follows.copy("1")
    settled = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end() + timedelta(days=9))
    assert settled is not None
    assert (settled.cumulative_pnl, settled.lines[0]["why"]) == (0, "no price of EURUSD in USD: not valued yet")

    follows.close("1", "500")

    assert follows.settle(2).fee == 100


def test_the_high_water_mark_survives_the_end_of_a_subscription(follows: Following) -> None:
    follows.copy("1", volume="0.1", price="1.00000")
    follows.bar("1.10000")
    follows.settle()
    strategies.end(subscription=finns_subscription(), actor=audit.SYSTEM)
    committed(strategies.subscribe, account=follows.finn, strategy=follows.agreement.strategy, actor=audit.SYSTEM)
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    follows.bar("1.10000", month=2)

    assert follows.settle(2).fee == 0
    assert FeeAgreement.objects.count() == 1


def test_trades_before_the_agreement_do_not_count(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn)
    follows.realise("1", "1000")
    follows.agreement.started_at += DAY

    assert pnl.result(follows.agreement, at=follows.month_end()).cumulative_pnl == 0


def test_copying_an_own_strategy_costs_nothing(lena: TradingAccount) -> None:
    FeeTerms.objects.create(strategy=lena.strategy)
    second = demo_data.account(lena.owner, "lena-second")
    subscription = committed(strategies.subscribe, account=second, strategy=lena.strategy, actor=audit.SYSTEM)

    assert subscription.status == "ACTIVE"
    with pytest.raises(agreements.TermsNotOffered):
        accept(second)


def test_accepted_terms_apply_from_the_next_period_on(follows: Following) -> None:
    higher_terms = FeeTerms.objects.create(strategy=follows.agreement.strategy, performance_bps=5000)
    follows.copy("1", volume="0.1", price="1.00000")
    for month, price in enumerate(("1.10000", "1.20000", "1.30000"), 1):
        follows.bar(price, month=month)
    follows.settle(1)
    accept(follows.finn, higher_terms)
    follows.settle(2)
    follows.settle(3)

    settled = Settlement.objects.filter(period_no__gt=0).order_by("period_no")
    assert [(period.rate_bps, period.fee) for period in settled] == [(2000, 200), (2000, 200), (5000, 500)]


def test_refuses_terms_that_are_no_longer_offered(follows: Following) -> None:
    old = follows.agreement.terms
    FeeTerms.objects.create(strategy=follows.agreement.strategy, performance_bps=5000)

    with pytest.raises(agreements.TermsNotOffered):
        accept(follows.finn, old)


# --- collection and payout


def test_collects_the_fee_from_the_wallet(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()

    assert settlement.collect(claim_id=claim().pk) == 0
    assert balance(follows.finn) == 300


def test_collects_what_is_available_and_the_rest_later(follows: Following) -> None:
    pay_in(follows.finn, "50")
    follows.realise("1", "1000")
    follows.settle()

    assert settlement.collect(claim_id=claim().pk) == 150
    assert settlement.collect(claim_id=claim().pk) == 150
    pay_in(follows.finn, "500")
    assert settlement.collect(claim_id=claim().pk) == 0
    assert balance(follows.finn) == 350


def test_a_second_collection_takes_nothing(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()
    settlement.collect(claim_id=claim().pk)
    settlement.collect(claim_id=claim().pk)

    assert balance(follows.finn) == 300


def test_an_unpaid_fee_pauses_the_subscription_until_it_is_paid(follows: Following) -> None:
    follows.realise("1", "1000")
    now = follows.month_end() + JUST_AFTER

    settlement.sweep(now=now)
    assert (finns_subscription().status, finns_subscription().paused_for) == ("PAUSED", "UNPAID")

    pay_in(follows.finn, "500")
    settlement.sweep(now=now)
    assert finns_subscription().status == "ACTIVE"


def test_a_manual_pause_outlasts_the_payment(follows: Following) -> None:
    follows.realise("1", "1000")
    now = follows.month_end() + JUST_AFTER
    strategies.pause(subscription=finns_subscription(), actor=audit.SYSTEM)
    settlement.sweep(now=now)
    pay_in(follows.finn, "500")
    settlement.sweep(now=now)

    assert (finns_subscription().status, finns_subscription().paused_for) == ("PAUSED", "HAND")


def test_an_unpaid_fee_never_holds_back_a_close(follows: Following) -> None:
    follows.realise("1", "1000")
    follows.copy("2")
    follows.bar("1.1")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    assert finns_subscription().status == "PAUSED"

    follows.close("2", "-5")


def test_the_provider_share_is_paid_out_after_the_cooling_period(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()
    settlement.collect(claim_id=claim().pk)
    collected = claim().collected_at

    assert not settlement.pay_out(claim_id=claim().pk, now=collected + settlement.COOLING - DAY)
    assert settlement.pay_out(claim_id=claim().pk, now=collected + settlement.COOLING)
    assert not settlement.pay_out(claim_id=claim().pk, now=collected + settlement.COOLING)
    assert balance(follows.lena) == 150


def test_collects_nothing_from_a_frozen_wallet(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()
    services.freeze(wallet=usd(follows.finn), reason="dispute", actor=audit.SYSTEM)

    assert settlement.collect(claim_id=claim().pk) == 200
    assert balance(follows.finn) == 500


# --- the hold for the open period


def reserve(follows: Any) -> Any:
    # At the current time, as the task does: on the last day of a month the closes lie after the day before its end.
    settlement.reserve(agreement_id=follows.agreement.pk, now=timezone.now())
    return usd(follows.finn).held


def test_the_fee_of_the_open_period_is_held(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")

    assert reserve(follows) == 200
    with pytest.raises(services.InsufficientFunds):
        services.debit_wallet(
            wallet=usd(follows.finn), amount=Decimal(301), kind=TransferKind.ADJUSTMENT, note="", idempotency_key="w"
        )


def test_the_hold_follows_the_result(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    held_amounts = [reserve(follows)]
    follows.realise("2", "-400")
    held_amounts.append(reserve(follows))
    follows.realise("3", "-900")
    held_amounts.append(reserve(follows))

    assert held_amounts == [200, 120, 0]


def test_a_trade_without_a_price_does_not_keep_the_fee_of_the_others_free(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.copy("2", called="NOSUCH")

    assert reserve(follows) == 200


def test_one_agreement_that_cannot_be_settled_delays_no_other(
    follows: Following, sam: TradingAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(strategies.subscribe, account=sam, strategy=follows.agreement.strategy, actor=audit.SYSTEM)
    other = accept(sam, now=follows.agreement.started_at)
    real = pnl.result

    def broken(agreement: FeeAgreement, **options: Any) -> pnl.Result:
        if agreement == follows.agreement:
            raise ArithmeticError
        return real(agreement, **options)

    monkeypatch.setattr(pnl, "result", broken)

    assert settlement.sweep(now=follows.month_end() + JUST_AFTER)["settled"] == 1
    assert other.settlements.count() == 2


def test_holds_at_most_the_available_balance(follows: Following) -> None:
    pay_in(follows.finn, "50")
    follows.realise("1", "1000")

    assert reserve(follows) == 50


def test_the_hold_pays_the_fee_and_the_rest_is_released(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    reserve(follows)
    follows.realise("2", "-400")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)

    wallet = usd(follows.finn)
    assert (wallet.balance, wallet.held) == (380, 0)
    assert WalletHold.objects.get().posted == 120


def test_a_period_without_a_fee_releases_the_hold(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    reserve(follows)
    follows.realise("2", "-1000")
    follows.settle()

    assert usd(follows.finn).held == 0


# --- the subscription fee


def test_the_subscription_fee_is_charged_once_a_month(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn, subscription_fee=Decimal(30), performance_bps=0)
    pay_in(finn, "100")
    for hours in (1, 2, 48):
        settlement.sweep(now=follows.month_end() + timedelta(hours=hours))

    assert FeeClaim.objects.get().amount == 30
    assert balance(finn) == 70


def test_a_later_subscriber_pays_for_the_remaining_days(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn, subscription_fee=Decimal(31))
    now = follows.agreement.started_at
    charged = settlement.charge_subscription(agreement_id=follows.agreement.pk, now=now)
    left, month = (follows.month_end() - now) // DAY, (follows.month_end() - fees.month_of(now)) // DAY

    assert (
        (charged.amount if charged else 0)
        == fees.subscription(monthly=Decimal(31), begins=now, ends=follows.month_end())
        == (Decimal(31) * left / month).quantize(Decimal("1e-8"), rounding="ROUND_DOWN")
    )


def test_a_former_subscriber_pays_no_subscription_fee(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn, subscription_fee=Decimal(30))
    strategies.end(subscription=finns_subscription(), actor=audit.SYSTEM)

    assert settlement.charge_subscription(agreement_id=follows.agreement.pk, now=follows.month_end() + DAY / 2) is None


# --- periodic work


def test_fifty_concurrent_deliveries_settle_once(follows: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    now = follows.month_end() + JUST_AFTER
    settled = Counter()

    def deliver() -> None:
        try:
            settled[settlement.settle(agreement_id=follows.agreement.pk, now=now) is not None] += 1
            settlement.sweep(now=now)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=deliver) for _ in range(50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert settled[True] <= 1
    assert Settlement.objects.filter(period_no__gt=0).count() == 1
    assert LedgerTransfer.objects.filter(kind__in=["ACCRUAL", "FEE_PERFORMANCE"]).count() == 2
    assert balance(follows.finn) == 300


def test_the_tasks_run_without_work(follows: Following) -> None:
    assert tasks.sweep()["settled"] == 0
    assert tasks.settle(agreement_id=follows.agreement.pk) is None
    assert tasks.reserve() == 0
    assert tasks.check_ledger() == 0


# --- recalculation


def test_a_fee_can_be_recalculated(follows: Following) -> None:
    follows.realise("1", "300")
    follows.copy("2", volume="0.1", price="1.10000")
    follows.bar("1.20000")
    settled = follows.settle()
    Candle.objects.update(open=2, high=2, low=2, close=2)  # bars that change later have no effect

    recalculation = settlement.recalculate(settled)

    assert recalculation.agrees
    assert (recalculation.result.cumulative_pnl, recalculation.performance.fee) == (1300, 260)


@pytest.mark.breaks_the_books
def test_a_recalculation_finds_a_wrong_fee(follows: Following) -> None:
    follows.realise("1", "1000")
    settled = follows.settle()
    with connections["owner"].cursor() as cursor:
        cursor.execute("alter table settlements disable trigger append_only")
        cursor.execute("alter table settlements drop constraint settlement_follows_from_its_base")
        cursor.execute("update settlements set fee = fee + 0.00000001 where period_no = 1")
    settled.refresh_from_db()

    assert not settlement.recalculate(settled).agrees
    assert checks.faults() != []
