"""Fees: settled once a period, on the result above the mark, and what becomes of them."""

import threading
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from market.models import Candle
from strategies import services as strategies
from strategies.models import Subscription
from tests.transactions import committed
from tests.wallets.conftest import JUST_AFTER, Following, balance, following, pay_in, usd
from wallets import checks, fees, pnl, services, tasks
from wallets.models import FeeAgreement, FeeClaim, FeeTerms, LedgerTransfer, Settlement, TransferKind, WalletHold
from wallets.services import settlement

DAY = timedelta(days=1)


def claim() -> FeeClaim:
    return FeeClaim.objects.get(kind=FeeClaim.Kind.PERFORMANCE)


def of_finn() -> Subscription:
    return Subscription.objects.get(account__name="finn-mt5")


# --- what is owed


def test_charges_a_share_of_what_was_made(follows: Following) -> None:
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


def test_a_loss_costs_nothing_and_winning_it_back_costs_nothing(follows: Following) -> None:
    """The documents' own example, read as a cumulative result: 1000, 500, 2000 at a fifth cost 200, 0, 200."""
    follows.copy("1", volume="0.1", price="1.00000")
    for month, price in enumerate(("1.10000", "1.05000", "1.20000"), 1):
        follows.bar(price, month=month)
        follows.settle(month)

    settled = Settlement.objects.filter(period_no__gt=0).order_by("period_no")
    assert [(one.cumulative_pnl, one.fee, one.high_water_mark) for one in settled] == [
        (1000, 200, 1000),
        (500, 0, 1000),
        (2000, 200, 2000),
    ]


def test_a_loss_that_is_still_open_counts(follows: Following) -> None:
    follows.realise("1", "300")
    follows.copy("2", volume="0.1", price="1.10000")
    follows.bar("1.06000")

    settled = follows.settle()

    assert (settled.closed_result, settled.floating_result, settled.cumulative_pnl, settled.fee) == (300, -400, -100, 0)


def test_what_was_closed_by_parts_counts_when_it_was_closed(follows: Following) -> None:
    from django.db import transaction

    from trades import services as trades

    follows.copy("1", volume="1", price="1.10000")
    with transaction.atomic():
        trades.reduce_trade(
            account=follows.finn, ticket_id="91", deal_id="d", volume=Decimal("0.4"), close_price=Decimal("1.11"),
            profit=Decimal("600"),
        )  # fmt: skip
    follows.bar("1.10100")

    settled = follows.settle()

    assert (settled.closed_result, settled.floating_result) == (600, 40)


def test_no_mark_no_fee(follows: Following) -> None:
    follows.realise("1", "1000")
    follows.copy("2")

    assert follows.settle() is None
    assert FeeAgreement.objects.get().postponed == "no price of EURUSD in USD"

    follows.bar("1.10000")
    assert follows.settle().fee == 200
    assert FeeAgreement.objects.get().postponed == ""


def test_a_copy_that_its_broker_calls_otherwise_is_valued_as_the_one_thing_it_is(follows: Following) -> None:
    follows.copy("1", called="EURUSD.vip")
    follows.bar("1.10100")

    assert follows.settle().floating_result == 100


def test_a_stale_bar_is_no_mark(follows: Following) -> None:
    follows.copy("1")
    follows.bar("1.10000")
    Candle.objects.update(opened_at=follows.month_end() - timedelta(days=5))

    assert follows.settle() is None


def test_a_month_without_a_mark_goes_on_into_the_next(follows: Following) -> None:
    follows.copy("1", volume="0.1", price="1.00000")
    follows.bar("1.10000", month=2)
    later = follows.month_end(2) + JUST_AFTER

    assert settlement.settle(agreement_id=follows.agreement.pk, now=later) is None
    settled = settlement.settle(agreement_id=follows.agreement.pk, now=later)

    assert (settled.period_no, settled.ends_at, settled.fee) == (1, follows.month_end(2), 200)


def test_leaving_and_coming_back_keeps_the_mark(follows: Following) -> None:
    follows.copy("1", volume="0.1", price="1.00000")
    follows.bar("1.10000")
    follows.settle()
    strategies.end(subscription=of_finn(), actor=audit.SYSTEM)
    committed(strategies.subscribe, account=follows.finn, strategy=follows.agreement.strategy, actor=audit.SYSTEM)
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    follows.bar("1.10000", month=2)

    assert follows.settle(2).fee == 0
    assert FeeAgreement.objects.count() == 1


def test_what_was_open_before_the_agreement_is_not_its_business(lena: TradingAccount, finn: TradingAccount) -> None:
    early = following(lena, finn)
    early.realise("1", "1000")
    early.agreement.started_at += DAY

    assert pnl.result(early.agreement, at=early.month_end()).cumulative_pnl == 0


def test_a_strategy_of_ones_own_costs_nothing(lena: TradingAccount) -> None:
    strategy = lena.strategy
    FeeTerms.objects.create(strategy=strategy)

    assert settlement.agree(subscriber=lena.owner, strategy=strategy, currency="USD", now=lena.created_at) is None


def test_new_terms_hold_once_accepted_and_from_the_next_period_on(follows: Following) -> None:
    dearer = FeeTerms.objects.create(strategy=follows.agreement.strategy, performance_bps=5000)
    follows.copy("1", volume="0.1", price="1.00000")
    for month, price in enumerate(("1.10000", "1.20000", "1.30000"), 1):
        follows.bar(price, month=month)
    follows.settle(1)
    settlement.accept(agreement=FeeAgreement.objects.get(), terms=dearer, actor=audit.SYSTEM)
    follows.settle(2)
    follows.settle(3)

    settled = Settlement.objects.filter(period_no__gt=0).order_by("period_no")
    assert [(one.rate_bps, one.fee) for one in settled] == [(2000, 200), (2000, 200), (5000, 500)]


def test_terms_that_are_not_offered_cannot_be_accepted(follows: Following) -> None:
    old = follows.agreement.terms
    FeeTerms.objects.create(strategy=follows.agreement.strategy, performance_bps=5000)

    with pytest.raises(settlement.TermsNotOffered):
        settlement.accept(agreement=follows.agreement, terms=old, actor=audit.SYSTEM)


# --- what is paid


def test_takes_what_is_owed_from_the_wallet(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()

    assert settlement.collect(claim_id=claim().pk) == 0
    assert balance(follows.finn) == 300


def test_takes_what_is_there_and_the_rest_later(follows: Following) -> None:
    pay_in(follows.finn, "50")
    follows.realise("1", "1000")
    follows.settle()

    assert settlement.collect(claim_id=claim().pk) == 150
    assert settlement.collect(claim_id=claim().pk) == 150
    pay_in(follows.finn, "500")
    assert settlement.collect(claim_id=claim().pk) == 0
    assert balance(follows.finn) == 350


def test_collecting_twice_takes_once(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()
    settlement.collect(claim_id=claim().pk)
    settlement.collect(claim_id=claim().pk)

    assert balance(follows.finn) == 300


def test_who_owes_opens_nothing_new_until_it_is_paid(follows: Following) -> None:
    follows.realise("1", "1000")
    now = follows.month_end() + JUST_AFTER

    settlement.sweep(now=now)
    assert (of_finn().status, of_finn().paused_for) == ("PAUSED", "UNPAID")

    pay_in(follows.finn, "500")
    settlement.sweep(now=now)
    assert of_finn().status == "ACTIVE"


def test_a_pause_by_hand_outlasts_the_payment(follows: Following) -> None:
    follows.realise("1", "1000")
    now = follows.month_end() + JUST_AFTER
    strategies.pause(subscription=of_finn(), actor=audit.SYSTEM)
    settlement.sweep(now=now)
    pay_in(follows.finn, "500")
    settlement.sweep(now=now)

    assert (of_finn().status, of_finn().paused_for) == ("PAUSED", "HAND")


def test_an_unpaid_fee_never_holds_back_a_close(follows: Following) -> None:
    follows.realise("1", "1000")
    follows.copy("2")
    follows.bar("1.1")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    assert of_finn().status == "PAUSED"

    follows.close("2", "-5")


def test_the_provider_gets_their_share_after_the_cooling_time(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()
    settlement.collect(claim_id=claim().pk)
    collected = claim().collected_at

    assert not settlement.pay_out(claim_id=claim().pk, now=collected + settlement.COOLING - DAY)
    assert settlement.pay_out(claim_id=claim().pk, now=collected + settlement.COOLING)
    assert not settlement.pay_out(claim_id=claim().pk, now=collected + settlement.COOLING)
    assert balance(follows.lena) == 150


def test_a_frozen_wallet_is_left_alone(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    follows.settle()
    services.freeze(wallet=usd(follows.finn), reason="dispute", actor=audit.SYSTEM)

    assert settlement.collect(claim_id=claim().pk) == 200
    assert balance(follows.finn) == 500


# --- set aside meanwhile


def reserve(follows: Any) -> Any:
    # Now, as the task has it: a day before the month's end lies before the closes on the month's last day.
    settlement.reserve(agreement_id=follows.agreement.pk, now=timezone.now())
    return usd(follows.finn).held


def test_what_the_period_would_cost_is_set_aside(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")

    assert reserve(follows) == 200
    with pytest.raises(services.InsufficientFunds):
        services.debit_wallet(
            wallet=usd(follows.finn), amount=Decimal(301), kind=TransferKind.WITHDRAWAL, note="", idempotency_key="w"
        )


def test_what_is_set_aside_follows_the_result(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    held = [reserve(follows)]
    follows.realise("2", "-400")
    held.append(reserve(follows))
    follows.realise("3", "-900")
    held.append(reserve(follows))

    assert held == [200, 120, 0]


def test_no_more_is_set_aside_than_there_is(follows: Following) -> None:
    pay_in(follows.finn, "50")
    follows.realise("1", "1000")

    assert reserve(follows) == 50


def test_what_was_set_aside_pays_the_fee_and_the_rest_goes_back(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    reserve(follows)
    follows.realise("2", "-400")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)

    wallet = usd(follows.finn)
    assert (wallet.balance, wallet.held) == (380, 0)
    assert WalletHold.objects.get().posted == 120


def test_a_period_that_costs_nothing_gives_back_what_was_set_aside(follows: Following) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    reserve(follows)
    follows.realise("2", "-1000")
    follows.settle()

    assert usd(follows.finn).held == 0


# --- the subscription fee


def test_a_month_costs_its_fee_once(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn, subscription_fee=Decimal(30), performance_bps=0)
    pay_in(finn, "100")
    for hours in (1, 2, 48):
        settlement.sweep(now=follows.month_end() + timedelta(hours=hours))

    assert FeeClaim.objects.get().amount == 30
    assert balance(finn) == 70


def test_who_comes_later_pays_for_the_days_that_are_left(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn, subscription_fee=Decimal(31))
    now = follows.agreement.started_at
    charged = settlement.charge_subscription(agreement_id=follows.agreement.pk, now=now)
    left, month = (follows.month_end() - now) // DAY, (follows.month_end() - fees.month_of(now)) // DAY

    assert (
        (charged.amount if charged else 0)
        == fees.subscription(monthly=Decimal(31), begins=now, ends=follows.month_end())
        == (Decimal(31) * left / month).quantize(Decimal("1e-8"), rounding="ROUND_DOWN")
    )


def test_who_has_left_pays_no_subscription_fee(lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn, subscription_fee=Decimal(30))
    strategies.end(subscription=of_finn(), actor=audit.SYSTEM)

    assert settlement.charge_subscription(agreement_id=follows.agreement.pk, now=follows.month_end() + DAY / 2) is None


# --- the clock


def test_following_a_strategy_that_costs_something_begins_an_agreement(
    lena: TradingAccount, finn: TradingAccount
) -> None:
    FeeTerms.objects.create(strategy=lena.strategy)

    for _ in range(2):
        settlement.sweep(now=finn.created_at)

    assert str(FeeAgreement.objects.get()) == "finn for lena-eurusd"


def test_fifty_deliveries_at_once_settle_once(follows: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    pay_in(follows.finn, "500")
    follows.realise("1", "1000")
    now = follows.month_end() + JUST_AFTER
    told = Counter()

    def deliver() -> None:
        try:
            told[settlement.settle(agreement_id=follows.agreement.pk, now=now) is not None] += 1
            settlement.sweep(now=now)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=deliver) for _ in range(50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert told[True] <= 1
    assert Settlement.objects.filter(period_no__gt=0).count() == 1
    assert LedgerTransfer.objects.filter(kind__in=["ACCRUAL", "FEE_PERFORMANCE"]).count() == 2
    assert balance(follows.finn) == 300


def test_the_tasks_do_what_is_due(follows: Following) -> None:
    assert tasks.sweep()["settled"] == 0
    assert tasks.settle(agreement_id=follows.agreement.pk) is None
    assert tasks.reserve() == 0
    assert tasks.check_ledger() == 0


# --- show me


def test_a_fee_can_be_reckoned_once_more(follows: Following) -> None:
    follows.realise("1", "300")
    follows.copy("2", volume="0.1", price="1.10000")
    follows.bar("1.20000")
    settled = follows.settle()
    Candle.objects.update(open=2, high=2, low=2, close=2)  # what the bars say later changes nothing

    shown = settlement.recalculate(settled)

    assert shown.agrees
    assert (shown.result.cumulative_pnl, shown.performance.fee) == (1300, 260)


@pytest.mark.breaks_the_books
def test_a_fee_that_was_charged_wrong_shows(follows: Following) -> None:
    follows.realise("1", "1000")
    settled = follows.settle()
    with connections["owner"].cursor() as cursor:
        cursor.execute("alter table settlements disable trigger append_only")
        cursor.execute("alter table settlements drop constraint settlement_follows_from_its_base")
        cursor.execute("update settlements set fee = fee + 0.00000001 where period_no = 1")
    settled.refresh_from_db()

    assert not settlement.recalculate(settled).agrees
    assert checks.faults() != []
