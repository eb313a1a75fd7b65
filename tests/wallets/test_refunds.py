"""Fees on figures that were wrong: refunded once they are corrected, with the high-water mark, and never twice."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connections
from django.utils import timezone

from accounts.models import User
from audit import services as audit
from strategies.models import Subscription
from tests.people import colleague
from tests.wallets.conftest import JUST_AFTER, Following, balance, pay_in, usd
from trades.models import TradeHistory
from trades.services import staff as verbs
from wallets import fees, services
from wallets.models import FeeClaim, FeeRefund, Settlement
from wallets.services import refunds, settlement


@pytest.fixture
def second(cast: dict[str, Any]) -> User:
    return colleague()


@pytest.fixture
def correct(staff: User, second: User) -> Any:
    """Correct the figures of finn's copy, or of lena's trade, with this ticket, by two people."""

    def correct(ticket: str, profit: str, of: str = "finn-mt5", close_price: str = "") -> None:
        row = TradeHistory.objects.get(ticket_id=ticket if of == "lena-mt5" else f"9{ticket}", account__name=of)
        price = Decimal(close_price) if close_price else row.close_price
        request = verbs.request_correction(
            trade_id=row.pk, close_price=price, profit=Decimal(profit), reason="a typo", by=staff, actor=audit.SYSTEM
        )
        verbs.approve(request=request, by=second, actor=audit.SYSTEM)

    return correct


def settled(follows: Following, month: int) -> Settlement:
    done = follows.settle(month)
    assert isinstance(done, Settlement)
    return done


def test_a_fee_on_a_typo_is_refunded_at_the_next_settlement_and_the_mark_with_it(
    follows: Following, correct: Any
) -> None:
    follows.realise("1", "99999")
    assert settled(follows, 1).fee == Decimal("19999.8")
    correct("1", "99")

    second_period = settled(follows, 2)

    assert (second_period.mark_corrected, second_period.high_water_mark, second_period.fee) == (99, 99, 0)
    refund = FeeRefund.objects.get()
    assert refund.amount == Decimal("19980")  # what stays is 20 % of 99
    assert refund.provider_share == Decimal("14985")
    # Nothing of the fee was collected, so the refund pays it: there is no money to withdraw that nobody paid in.
    assert (balance(follows.finn), FeeClaim.objects.get().owed) == (0, Decimal("19.8"))


def test_the_refund_pays_what_is_still_owed_and_copying_resumes(follows: Following, correct: Any) -> None:
    follows.realise("1", "99999")
    settled(follows, 1)
    now = follows.month_end(1) + JUST_AFTER
    settlement.sweep(now=now)
    subscription = Subscription.objects.get(account=follows.finn)
    assert subscription.paused_for == "UNPAID"

    correct("1", "99")
    settlement.sweep(now=now)

    subscription.refresh_from_db()
    assert subscription.status == "ACTIVE"  # a fee that will be corrected stops nobody
    pay_in(follows.finn, "100")
    settled(follows, 2)
    settlement.sweep(now=follows.month_end(2) + JUST_AFTER)
    assert FeeClaim.objects.get().collected_at is not None
    assert balance(follows.finn) == Decimal("80.2")  # 100 less 20 % of 99


def test_a_disputed_fee_is_neither_collected_nor_paid_out(follows: Following, correct: Any) -> None:
    follows.realise("1", "1000")
    settled(follows, 1)
    correct("1", "10")
    pay_in(follows.finn, "500")

    settlement.sweep(now=follows.month_end(1) + JUST_AFTER)

    assert balance(follows.finn) == 500


def test_the_providers_share_is_taken_back_as_far_as_there_is_money(follows: Following, correct: Any) -> None:
    follows.realise("1", "1000")
    pay_in(follows.finn, "200")
    settled(follows, 1)
    settlement.collect(claim_id=FeeClaim.objects.get().pk)
    assert settlement.pay_out(claim_id=FeeClaim.objects.get().pk, now=timezone.now() + settlement.COOLING)
    assert balance(follows.lena) == 150
    correct("1", "0")
    settled(follows, 2)

    assert refunds.recover(refund_id=FeeRefund.objects.get().pk)

    assert (balance(follows.finn), balance(follows.lena)) == (200, 0)
    assert not refunds.unrecovered().exists()


def test_what_a_provider_has_spent_stays_owed(follows: Following, correct: Any) -> None:
    follows.realise("1", "1000")
    pay_in(follows.finn, "200")
    settled(follows, 1)
    settlement.collect(claim_id=FeeClaim.objects.get().pk)
    settlement.pay_out(claim_id=FeeClaim.objects.get().pk, now=timezone.now() + settlement.COOLING)
    services.debit_wallet(
        wallet=usd(follows.lena), amount=Decimal(150), kind="ADJUSTMENT", note="", idempotency_key="spent"
    )
    correct("1", "0")
    settled(follows, 2)
    refund = FeeRefund.objects.get()

    assert not refunds.recover(refund_id=refund.pk)
    pay_in(follows.lena, "100")
    assert not refunds.recover(refund_id=refund.pk)
    pay_in(follows.lena, "100")
    assert refunds.recover(refund_id=refund.pk)

    assert balance(follows.lena) == 50


def test_a_provider_gives_back_nothing_before_receiving_it(follows: Following, correct: Any) -> None:
    """The fee was never collected, so its share was never paid out: the provider's own money stays."""
    pay_in(follows.lena, "500")
    follows.realise("1", "1000")
    settled(follows, 1)
    correct("1", "0")
    settled(follows, 2)

    settlement.sweep(now=timezone.now() + JUST_AFTER)
    assert (balance(follows.finn), balance(follows.lena)) == (0, 500)

    settlement.sweep(now=timezone.now() + settlement.COOLING)
    assert (balance(follows.lena), FeeRefund.objects.get().recovered) == (500, 150)  # paid out, and taken back


def test_a_corrected_close_of_the_provider_refunds_those_who_copied_it(follows: Following, correct: Any) -> None:
    """lena's bot reported 2.09999 for 1.10099: one correction is enough, her followers' copies need none."""
    follows.realise("1", "99999")
    assert settled(follows, 1).fee == Decimal("19999.8")
    correct("1", "99", of="lena-mt5", close_price="1.10099")

    second_period = settled(follows, 2)

    assert (second_period.high_water_mark, FeeRefund.objects.get().amount) == (99, Decimal("19980"))
    assert all(settlement.recalculate(row).agrees for row in Settlement.objects.filter(period_no__gt=0))


def test_only_a_fee_on_the_corrected_trade_waits_for_the_next_settlement(follows: Following, correct: Any) -> None:
    follows.realise("1", "1000")
    pay_in(follows.finn, "500")
    settled(follows, 1)
    with connections["owner"].cursor() as cursor:  # as if it had been closed in the second period
        follows.realise("2", "1000")
        cursor.execute("alter table trade_history disable trigger user")
        cursor.execute("update trade_history set closed_at = %s where ticket_id like '%%2'", [follows.month_end(2)])
        cursor.execute("alter table trade_history enable trigger user")
    correct("2", "10")

    settlement.sweep(now=follows.month_end(1) + JUST_AFTER)

    assert balance(follows.finn) == 300


def test_a_correction_upwards_raises_the_next_fee_alone(follows: Following, correct: Any) -> None:
    follows.realise("1", "100")
    settled(follows, 1)
    correct("1", "1000")

    second_period = settled(follows, 2)

    assert (second_period.mark_corrected, second_period.fee) == (None, 180)
    assert not FeeRefund.objects.exists()


def test_a_correction_before_the_settlement_is_simply_counted(follows: Following, correct: Any) -> None:
    follows.realise("1", "99999")
    correct("1", "100")

    assert settled(follows, 1).fee == 20
    assert settled(follows, 2).fee == 0
    assert not FeeRefund.objects.exists()


def test_a_profit_hidden_by_the_wrong_mark_is_charged_within_the_refund(follows: Following, correct: Any) -> None:
    follows.realise("1", "99999")
    settled(follows, 1)
    follows.realise("2", "50")  # closed in the first period by its time, but unknown to its settlement
    settled(follows, 2)
    correct("1", "100")

    third = settled(follows, 3)

    assert third.high_water_mark == 150
    assert sum(row.fee for row in Settlement.objects.all()) - FeeRefund.objects.get().amount == 30


def test_a_second_correction_refunds_the_rest_once(follows: Following, correct: Any) -> None:
    follows.realise("1", "1000")
    settled(follows, 1)
    correct("1", "500")
    settled(follows, 2)
    correct("1", "100")
    settled(follows, 3)
    settled(follows, 4)

    assert [row.amount for row in FeeRefund.objects.order_by("pk")] == [100, 80]
    assert [row.high_water_mark for row in Settlement.objects.order_by("period_no")] == [0, 1000, 500, 100, 100]


def test_every_settlement_is_recalculated_to_what_was_charged(follows: Following, correct: Any) -> None:
    follows.realise("1", "1000")
    settled(follows, 1)
    correct("1", "500")
    settled(follows, 2)
    correct("1", "700")
    settled(follows, 3)

    for period in Settlement.objects.filter(period_no__gt=0):
        assert settlement.recalculate(period).agrees, period


@pytest.mark.parametrize("mark", ["-1", "1000", "1001", "'NaN'::numeric"])
def test_the_database_refuses_a_mark_that_is_not_lowered(follows: Following, mark: str) -> None:
    follows.realise("1", "1000")
    first = settled(follows, 1)

    with pytest.raises(IntegrityError), connections["owner"].cursor() as cursor:
        cursor.execute(
            "insert into settlements (agreement_id, period_no, prev_no, starts_at, ends_at, closed_result,"
            " floating_result, base, mark_before, mark_corrected, mark, rate_bps, fee, trades, marks, settled_at)"
            f" values (%s, 2, 1, %s, %s + interval '1 day', 0, 0, 0, 1000, {mark}, greatest({mark}, 0), 2000, 0, 0,"
            " '[]', now())",
            [first.agreement_id, first.ends_at, first.ends_at],
        )


def test_the_page_of_a_fee_shows_the_correction(client: Any, follows: Following, correct: Any) -> None:
    from tests.answers import text

    follows.realise("1", "1000")
    settled(follows, 1)
    correct("1", "500")
    settled(follows, 2)
    client.force_login(follows.finn.owner)

    page = text(client.get(f"/wallet/fees/{follows.agreement.pk}/2/"))

    assert "matches the fee charged" in page
    assert "Refunded: earlier fees on trades that were corrected 100" in page
    assert "a typo" in page


def test_fees_over_several_periods_are_those_of_each() -> None:
    periods = [fees.Period(Decimal(100), 2000), fees.Period(Decimal(50), 2000), fees.Period(Decimal(300), 1000)]

    assert fees.over(periods) == fees.Performance(Decimal(40), Decimal(300))
