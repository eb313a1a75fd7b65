"""What the database refuses about fee terms, and the agreements of before, which nobody accepted."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connections
from django.utils import timezone

from accounts.models import TradingAccount
from strategies.models import Strategy
from tests.wallets.conftest import JUST_AFTER, Following, accept, balance, pay_in, priced, subscribe, usd
from wallets import services
from wallets.models import FeeAcceptance, FeeAgreement, FeeClaim, FeeNotice, Settlement, Wallet, WalletHold
from wallets.services import agreements, settlement

DAY = timedelta(days=1)


# --- the agreements of before, which the desk made by itself


@pytest.fixture
def by_the_desk(lena: TradingAccount, finn: TradingAccount, strategy: Strategy) -> Following:
    """An agreement as 0.1.0 made it: nobody accepted."""
    terms, now = priced(strategy, monthly="0"), timezone.now() - timedelta(seconds=1)
    agreement = FeeAgreement.objects.create(
        subscriber=finn.owner, strategy=strategy, currency="USD", terms=terms, next_terms=terms, started_at=now,
        due_at=now + 20 * DAY,
    )  # fmt: skip
    zeros = dict.fromkeys(
        ("closed_result", "floating_result", "cumulative_pnl", "high_water_mark", "fee", "rate_bps"), 0
    )
    Settlement.objects.create(agreement=agreement, period_no=0, starts_at=now, ends_at=now, **zeros)
    return Following(lena, finn, agreement)


def settle(follows: Following, now: datetime) -> Any:
    return settlement.settle(agreement_id=follows.agreement.pk, now=now)


def test_an_agreement_without_an_acceptance_charges_nothing(by_the_desk: Following) -> None:
    pay_in(by_the_desk.finn, "500")
    by_the_desk.realise("1", "1000")
    due = by_the_desk.agreement.due_at

    settled = settle(by_the_desk, due + JUST_AFTER)

    assert (settled.fee, settled.rate_bps, settled.high_water_mark) == (0, 0, 1000)
    assert (FeeClaim.objects.count(), balance(by_the_desk.finn)) == (0, 500)


def test_what_was_earned_before_the_acceptance_is_never_charged(by_the_desk: Following) -> None:
    by_the_desk.realise("1", "1000")
    first_end = by_the_desk.agreement.due_at
    accept(by_the_desk.finn)
    by_the_desk.realise("2", "100")  # in the period in which nothing was accepted when it began

    settled = settle(by_the_desk, first_end + JUST_AFTER)
    by_the_desk.agreement.refresh_from_db()

    assert (settled.fee, settled.high_water_mark) == (0, 1100)
    assert by_the_desk.agreement.binding_terms == by_the_desk.agreement.terms


def test_an_agreement_without_an_acceptance_holds_no_money(by_the_desk: Following) -> None:
    pay_in(by_the_desk.finn, "500")
    purpose = f"performance:{by_the_desk.agreement.pk}"
    services.hold(wallet=usd(by_the_desk.finn), amount=Decimal(200), purpose=purpose, idempotency_key="reserved")
    by_the_desk.realise("1", "1000")

    settlement.reserve_all(now=timezone.now())

    assert [hold.state for hold in WalletHold.objects.all()] == ["VOIDED"]


def test_its_follower_has_a_notice_from_now_on(by_the_desk: Following) -> None:
    now = timezone.now()

    assert agreements.keep_notices(now=now)["given"] == 1
    assert FeeNotice.objects.get().ends_at == now + 30 * DAY
    assert agreements.keep_notices(now=now + 30 * DAY)["stopped"] == 1


# --- what the database refuses


def refusal_of(statement: str, *arguments: Any, alias: str = "default") -> str:
    """The name of the constraint or trigger, or the SQLSTATE, that refuses the statement."""
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute(statement, arguments)
    except DatabaseError as error:
        diagnostics = error.__cause__.diag
        return diagnostics.constraint_name or diagnostics.sqlstate
    return "nothing"


@pytest.mark.parametrize("alias", ["default", "owner"])
def test_the_database_refuses_a_charge_without_an_acceptance(by_the_desk: Following, alias: str) -> None:
    agreement = by_the_desk.agreement
    start, end = agreement.started_at, agreement.due_at
    wallet = Wallet.objects.get(owner=by_the_desk.finn.owner)

    assert refusal_of(
        "insert into settlements (agreement_id, period_no, prev_no, starts_at, ends_at, closed_result, floating_result,"
        " base, mark_before, mark, rate_bps, fee, trades, marks)"
        " values (%s, 1, 0, %s, %s, 100, 0, 100, 0, 100, 2000, 20, 1, '[]')", agreement.pk, start, end, alias=alias,
    ) == "settlement_charges_what_was_accepted"  # fmt: skip
    assert refusal_of(
        "insert into fee_claims (agreement_id, kind, period_no, payer_id, payee_id, amount, provider_share, collected,"
        " detail) values (%s, 'FEE_SUBSCRIPTION', 202612, %s, %s, 15, 1, 0, '{}')",
        agreement.pk, wallet.pk, wallet.pk, alias=alias,
    ) == "fee_claim_charges_what_was_accepted"  # fmt: skip


def test_the_database_refuses_more_than_was_accepted(follows: Following) -> None:
    wallet = Wallet.objects.get(owner=follows.finn.owner)
    priced(follows.agreement.strategy, 2000, "99")

    assert refusal_of(
        "insert into settlements (agreement_id, period_no, prev_no, starts_at, ends_at, closed_result, floating_result,"
        " base, mark_before, mark, rate_bps, fee, trades, marks)"
        " values (%s, 1, 0, %s, %s, 100, 0, 100, 0, 100, 2001, 20.01, 1, '[]')",
        follows.agreement.pk, follows.agreement.started_at, follows.agreement.due_at,
    ) == "settlement_charges_what_was_accepted"  # fmt: skip
    assert refusal_of(
        "insert into fee_claims (agreement_id, kind, period_no, payer_id, payee_id, amount, provider_share, collected,"
        " detail) values (%s, 'FEE_SUBSCRIPTION', 202612, %s, %s, 99, 1, 0, '{}')",
        follows.agreement.pk, wallet.pk, wallet.pk,
    ) == "fee_claim_charges_what_was_accepted"  # fmt: skip


def test_the_database_ties_an_agreement_to_the_acceptance_of_its_own_terms(
    follows: Following, ella: TradingAccount
) -> None:
    dearer = priced(follows.agreement.strategy, 5000)
    own = follows.agreement.acceptance_id
    accept(follows.finn, dearer)
    others = accept(subscribe(ella, follows.agreement.strategy).account, dearer).acceptance_id

    for change, key in (
        (f"terms_id = {dearer.pk}", "fee_agreement_has_accepted_its_terms"),
        (f"acceptance_id = {others}", "fee_agreement_has_accepted_its_terms"),
        (f"next_acceptance_id = {own}", "fee_agreement_has_accepted_its_next_terms"),
        (f"terms_id = {dearer.pk}, acceptance_id = {others}", "fee_agreement_has_accepted_its_terms"),
    ):
        assert refusal_of(f"update fee_agreements set {change} where id = %s", follows.agreement.pk) == key


def test_acceptances_are_for_ever_and_notices_say_what_they_said(finn: TradingAccount, strategy: Strategy) -> None:
    terms = priced(strategy)
    agreements.keep_notices(now=timezone.now())
    accept(finn, terms)

    for statement in (
        "update fee_acceptances set accepted_at = now()", "delete from fee_acceptances",
        "truncate fee_acceptances cascade",
        "update fee_notices set ends_at = now()", "update fee_notices set closed_at = null, outcome = ''",
        "delete from fee_notices", "truncate fee_notices",
    ):  # fmt: skip
        assert refusal_of(statement) in ("42501", "CD003")
        assert refusal_of(statement, alias="owner") in ("CD002", "CD003")


def test_a_notice_stops_nobody_before_its_end(finn: TradingAccount, strategy: Strategy) -> None:
    priced(strategy)
    agreements.keep_notices(now=timezone.now())

    assert (
        refusal_of("update fee_notices set closed_at = now(), outcome = 'STOPPED'")
        == "fee_notice_stops_nothing_before_its_end"
    )


def test_the_database_accepts_the_latest_terms_only(finn: TradingAccount, strategy: Strategy) -> None:
    old = priced(strategy)
    priced(strategy, 5000)

    with pytest.raises(IntegrityError, match="not the latest"):
        FeeAcceptance.objects.create(subscriber=finn.owner, strategy=strategy, currency="USD", terms=old)
