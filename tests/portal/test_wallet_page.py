"""The wallet pages: a person's own money alone, and every refusal with a message."""

import re
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from config import demo_data
from strategies import services as strategies
from strategies.models import Subscription
from tests.answers import text
from tests.transactions import committed
from tests.wallets.conftest import JUST_AFTER, accept, balance, following, pay_in, set_limits, usd
from wallets import services
from wallets.models import FeeAgreement, FeeTerms, MoneyRequest
from wallets.services import agreements, settlement

PAGE = "/wallet/"


@pytest.fixture
def as_finn(client: Client, finn: TradingAccount) -> Client:
    client.force_login(finn.owner)
    return client


def withdraw(client: Any, amount: Any, key: Any = None, *, status: int = 200) -> Any:
    fields = {"amount": amount, "currency": "USD", "key": key or str(uuid.uuid4())}
    return text(client.post(f"{PAGE}withdraw/", fields, follow=True), status)


@pytest.fixture
def settled(lena: TradingAccount, finn: TradingAccount) -> Any:
    """finn made 1000 by following lena, who takes a fifth; he can pay half of it."""
    follows = following(lena, finn)
    pay_in(finn, "100")
    follows.realise("1", "1000")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    return follows


def test_a_visitor_is_asked_to_sign_in(client: Client, cast: dict[str, Any]) -> None:
    assert client.get(PAGE)["Location"] == f"/login/?next={PAGE}"


def test_a_user_without_a_wallet_is_told_so(client: Client, staff: User) -> None:
    client.force_login(staff)

    assert "You have no wallet yet" in text(client.get(PAGE))


def test_shows_the_balance(as_finn: Client, finn: TradingAccount) -> None:
    pay_in(finn, "123.45")

    assert "Available 123.45 Balance 123.45 On hold 0.00" in text(as_finn.get(PAGE))


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("1,250", "1,250.00"), ("1,250.5", "1,250.50"), ("12,5", "12.50"), ("0,125", "0.125"), ("1250.00", "1,250.00")],
)
def test_an_amount_may_be_typed_as_pages_show_it(as_finn: Client, finn: TradingAccount, typed: str, shown: str) -> None:
    pay_in(finn, "5000")

    assert f"Withdrawal of {shown} USD" in withdraw(as_finn, typed)


def test_a_withdrawal_sent_twice_is_made_once(as_finn: Client, finn: TradingAccount) -> None:
    pay_in(finn, "100")
    key = str(uuid.uuid4())

    assert "Withdrawal of 40.00 USD accepted, reference " in withdraw(as_finn, "40", key)
    withdraw(as_finn, "40", key)
    assert balance(finn) == 60


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("101", "available balance is lower than this amount"),
        ("-5", "The amount must be above zero"),
        ("0", "The amount must be above zero"),
        ("much", "Enter an amount such as 25.00"),
        ("NaN", "Enter an amount such as 25.00"),
        ("1e99", "Enter an amount such as 25.00"),
        ("", "Enter an amount such as 25.00"),
    ],
)
def test_explains_why_a_withdrawal_is_refused(as_finn: Client, finn: TradingAccount, amount: str, says: str) -> None:
    pay_in(finn, "100")

    assert says in withdraw(as_finn, amount, status=422)
    assert balance(finn) == 100


def test_a_large_withdrawal_awaits_approval_and_can_be_cancelled(as_finn: Client, finn: TradingAccount) -> None:
    pay_in(finn, "100")
    set_limits("10")

    assert "Withdrawal of 40.00 USD requested" in withdraw(as_finn, "40")
    assert usd(finn).held == 40

    money_request = MoneyRequest.objects.get()
    assert "Withdrawal cancelled. 40.00 USD available again" in text(
        as_finn.post(f"{PAGE}requests/{money_request.pk}/take-back/", follow=True)
    )
    assert usd(finn).held == 0


def test_only_the_owner_may_cancel_a_withdrawal(client: Client, finn: TradingAccount, sam: TradingAccount) -> None:
    pay_in(finn, "100")
    set_limits("10")
    client.force_login(finn.owner)
    withdraw(client, "40")
    client.force_login(sam.owner)

    assert client.post(f"{PAGE}requests/{MoneyRequest.objects.get().pk}/take-back/").status_code == 404
    assert usd(finn).held == 40


def test_shows_an_unpaid_fee_and_its_consequence(as_finn: Client, settled: Any) -> None:
    page = text(as_finn.get(PAGE))

    assert "Fees due 100.00" in page
    assert "no new trades are copied" in page
    assert re.search(r"Until Cumulative P/L High-water mark before Fee \S+ \S+ \S+ \+1,000.00 0.00 200.00", page)
    assert Subscription.objects.get().status == "PAUSED"


def test_shows_the_calculation_of_a_fee(as_finn: Client, settled: Any) -> None:
    page = text(as_finn.get(f"{PAGE}fees/{settled.agreement.pk}/1/"))

    assert "matches the fee charged" in page
    assert "Cumulative P/L 1,000.00" in page
    assert "Fee, rounded down 200.00 Charged 200.00" in page


def test_the_fees_of_others_are_not_shown(
    client: Client, lena: TradingAccount, sam: TradingAccount, settled: Any
) -> None:
    for stranger in (sam, lena):
        client.force_login(stranger.owner)
        assert client.get(f"{PAGE}fees/{settled.agreement.pk}/1/").status_code == 404


def test_staff_see_the_calculation_of_a_fee(client: Client, staff: User, settled: Any) -> None:
    client.force_login(staff)

    assert client.get(f"{PAGE}fees/{settled.agreement.pk}/1/").status_code == 200


def test_a_period_without_a_settlement_is_not_found(as_finn: Client, settled: Any) -> None:
    assert [as_finn.get(f"{PAGE}fees/{settled.agreement.pk}/{no}/").status_code for no in (0, 2)] == [404, 404]


def test_a_provider_sees_earnings_without_names(client: Client, lena: TradingAccount, settled: Any) -> None:
    client.force_login(lena.owner)
    page = text(client.get(PAGE))

    assert "150.00 not paid yet" in page
    assert "finn" not in page


def test_new_terms_are_shown_and_hold_from_the_next_period_on(as_finn: Client, settled: Any) -> None:
    dearer = FeeTerms.objects.create(strategy=settled.agreement.strategy, performance_bps=2550)
    agreements.keep_notices(now=timezone.now())
    page = text(as_finn.get(PAGE))
    assert "The fees change from 20 % of new profit to 25.5 % of new profit" in page
    assert "20 % of new profit. New profit counts above" in page

    accept(settled.finn, dearer)

    assert "From the next period on: 25.5 % of new profit." in text(as_finn.get(PAGE))


def test_without_a_wallet_the_terms_are_shown_all_the_same(client: Client, lena: TradingAccount) -> None:
    ella = demo_data.account(demo_data.user("ella"), "ella-mt5")
    FeeTerms.objects.create(strategy=lena.strategy, performance_bps=2000, subscription_fee=Decimal(15))
    committed(strategies.subscribe, account=ella, strategy=lena.strategy, actor=audit.SYSTEM)
    client.force_login(ella.owner)

    page = text(client.get(PAGE))

    assert "This strategy charges 20 % of new profit and 15.00 USD a month. Copying begins when you accept." in page
    assert "You have no wallet yet" in page


def test_an_agreement_that_nobody_accepted_says_that_it_charges_nothing(as_finn: Client, settled: Any) -> None:
    FeeAgreement.objects.update(acceptance=None, next_acceptance=None)

    assert "nothing is charged, because you have not accepted any fees" in text(as_finn.get(PAGE))


def test_a_statement_adds_up(as_finn: Client, finn: TradingAccount, settled: Any) -> None:
    page = text(as_finn.get(f"{PAGE}statements/{timezone.now():%Y-%m}/"))

    assert "Opening balance 0.00 Deposit +100.00 Performance fee −100.00 Closing balance 0.00" in page


@pytest.mark.parametrize("month", ["2026-13", "soon", "1999-01"])
def test_an_unknown_month_has_no_statement(as_finn: Client, month: str) -> None:
    assert as_finn.get(f"{PAGE}statements/{month}/").status_code == 404


def test_the_number_of_queries_does_not_depend_on_the_number_of_transactions(
    as_finn: Client, finn: TradingAccount, settled: Any
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            as_finn.get(PAGE)
        return len(seen)

    few = queries()
    for number in range(20):
        pay_in(finn, str(number + 1))

    assert queries() == few


def test_a_frozen_wallet_says_so(as_finn: Client, finn: TradingAccount) -> None:
    services.freeze(wallet=usd(finn), reason="dispute", actor=audit.SYSTEM)

    assert "Staff have frozen this wallet" in text(as_finn.get(PAGE))
