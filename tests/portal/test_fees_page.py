"""The fees of a subscription: shown with an example before they are accepted, and answered on the page."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from config import demo_data
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests.answers import text
from tests.transactions import committed
from tests.wallets.conftest import accept, following
from wallets import examples
from wallets.models import FeeAcceptance, FeeAgreement, FeeNotice, FeeTerms, Wallet
from wallets.services import agreements

COPYING, COPIES = "/copying/", "/strategies/lena-eurusd/copies/"
DAY = timedelta(days=1)


@pytest.fixture
def strategy(lena: TradingAccount) -> Strategy:
    return Strategy.objects.get(account=lena)


@pytest.fixture
def terms(strategy: Strategy) -> FeeTerms:
    return FeeTerms.objects.create(strategy=strategy, performance_bps=2000, subscription_fee=Decimal(15))


@pytest.fixture
def ella(terms: FeeTerms, cast: dict[str, Any]) -> TradingAccount:
    """She wants to follow lena, who charges fees, and has no wallet."""
    account = demo_data.account(demo_data.user("ella"), "ella-mt5")
    committed(strategies.subscribe, account=account, strategy=terms.strategy, actor=audit.SYSTEM)
    return account


@pytest.fixture
def noticed(finn: TradingAccount, terms: FeeTerms) -> TradingAccount:
    """finn followed before there were fees, and has a notice."""
    agreements.keep_notices(now=timezone.now())
    return finn


def subscription_of(account: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=account)


def page_of(account: TradingAccount) -> str:
    return f"{COPYING}{subscription_of(account).sub_id}/fees/"


def signed_in(client: Client, account: TradingAccount) -> Client:
    client.force_login(account.owner)
    return client


def answer(client: Client, account: TradingAccount, terms: FeeTerms, **more: str) -> Any:
    return client.post(page_of(account), {"terms": terms.pk, **more}, follow=True)


# --- what is shown


def test_the_example_is_that_of_the_formulas(client: Client, ella: TradingAccount) -> None:
    page = text(signed_in(client, ella).get(page_of(ella)))

    assert "Performance fee 20 % of new profit Monthly fee 15.00 USD a calendar month" in page
    first = "All of it is new profit. 20 % of it: 200.00. The monthly fee: 15.00. You pay 215.00 USD"
    second = "There is no new profit. The monthly fee: 15.00. You pay 15.00 USD"
    third = "400.00 make up for the loss; 300.00 are new profit. 20 % of it: 60.00. The monthly fee: 15.00."
    assert f"Month 1: your copies earn 1,000.00 USD {first}" in page
    assert f"Month 2: your copies lose 400.00 USD {second}" in page
    assert f"Month 3: your copies earn 700.00 USD {third} You pay 75.00 USD" in page
    assert [month.total for month in examples.months(rate_bps=2000, monthly_fee=Decimal(15))] == [215, 15, 75]


def test_who_has_no_wallet_learns_that_accepting_opens_one(
    client: Client, ella: TradingAccount, terms: FeeTerms
) -> None:
    assert "You have no USD wallet yet: accepting opens one" in text(signed_in(client, ella).get(page_of(ella)))

    answer(client, ella, terms, confirms="on")

    assert Wallet.objects.filter(owner=ella.owner, currency="USD").count() == 1


def test_an_account_without_a_currency_sees_the_terms_and_what_is_needed(
    client: Client, ella: TradingAccount, terms: FeeTerms
) -> None:
    TradingAccount.objects.filter(pk=ella.pk).update(currency="")
    page = text(signed_in(client, ella).get(page_of(ella)))
    refused = answer(client, ella, terms, confirms="on")

    assert "20 % of new profit" in page
    assert "Start your copier once, or ask staff to enter it" in page
    assert "start your copier once" in text(refused, 422)


def test_a_notice_says_until_when_what_happens_and_how_long_is_left(client: Client, noticed: TradingAccount) -> None:
    ends = f"{FeeNotice.objects.get().ends_at:%-d %B %Y}"
    copying = text(signed_in(client, noticed).get(COPYING))
    page = text(client.get(page_of(noticed)))

    assert "The fees change from no fees to 20 % of new profit and 15.00 USD a month." in copying
    assert f"If you do not accept, you stop following on {ends} (29 days left)." in copying
    assert f"you stop following lena-eurusd on {ends}" in page
    assert "Copies that are open then stay at your broker" in page


def test_who_was_stopped_reads_why(client: Client, noticed: TradingAccount) -> None:
    agreements.keep_notices(now=timezone.now() + 31 * DAY)

    page = text(signed_in(client, noticed).get(COPYING))

    assert "No longer followed: lena-eurusd on finn-mt5 (its new fees were not accepted in time)" in page


def test_a_lower_price_is_offered_without_an_end(client: Client, lena: TradingAccount, finn: TradingAccount) -> None:
    follows = following(lena, finn)
    FeeTerms.objects.create(strategy=follows.agreement.strategy, performance_bps=1000)
    agreements.keep_notices(now=timezone.now())

    assert "Lower fees are offered: 10 % of new profit instead of 20 %" in text(signed_in(client, finn).get(COPYING))
    assert "You follow on whether you accept or not" in text(client.get(page_of(finn)))


def test_who_has_accepted_sees_the_fees_and_when(client: Client, noticed: TradingAccount, terms: FeeTerms) -> None:
    accept(noticed, terms)
    page = text(signed_in(client, noticed).get(page_of(noticed)))

    accepted = f"Accepted {timezone.now():%-d %B %Y}"
    assert f"Your fees Performance fee 20 % of new profit Monthly fee 15.00 USD a calendar month {accepted}" in page
    assert "Your answer" not in page
    assert "The fees change" not in text(client.get(COPYING))


def test_a_strategy_without_fees_says_so(client: Client, finn: TradingAccount) -> None:
    assert "You pay no fees for lena-eurusd" in text(signed_in(client, finn).get(page_of(finn)))


def test_the_fees_are_shown_to_their_subscriber_alone(
    client: Client, ella: TradingAccount, sam: TradingAccount
) -> None:
    assert signed_in(client, sam).get(page_of(ella)).status_code == 404
    assert client.post(page_of(ella), {"confirms": "on"}).status_code == 404


# --- what is answered


def test_accepting_begins_the_copying(client: Client, ella: TradingAccount, terms: FeeTerms) -> None:
    page = text(answer(signed_in(client, ella), ella, terms, confirms="on"))

    assert "Accepted. Trades of lena-eurusd that open from now on are copied." in page
    row = FeeAcceptance.objects.get()
    assert (row.subscriber, row.terms) == (ella.owner, terms)


def test_nothing_is_accepted_without_the_tick(client: Client, ella: TradingAccount, terms: FeeTerms) -> None:
    refused = answer(signed_in(client, ella), ella, terms, accept="1")

    assert "Tick this box to accept" in text(refused, 422)
    assert FeeAcceptance.objects.count() == 0


@pytest.mark.parametrize("field", ["confirms", "decline"])
def test_terms_that_changed_meanwhile_are_shown_anew(
    client: Client, ella: TradingAccount, terms: FeeTerms, field: str
) -> None:
    FeeTerms.objects.create(strategy=terms.strategy, performance_bps=3000)

    refused = answer(signed_in(client, ella), ella, terms, **{field: "on"})

    page = text(refused, 409)
    assert "The provider changed the fees while you were reading. Nothing was accepted." in page
    assert "Performance fee 30 % of new profit Monthly fee none" in page
    assert (FeeAcceptance.objects.count(), subscription_of(ella).paused_for) == (0, "TERMS")


@pytest.mark.parametrize("shown", ["", "0", "x", "-1", "99999999999999999999"])
def test_terms_that_do_not_exist_are_not_accepted(client: Client, ella: TradingAccount, shown: str) -> None:
    refused = signed_in(client, ella).post(page_of(ella), {"terms": shown, "confirms": "on"})

    assert refused.status_code == 409
    assert FeeAcceptance.objects.count() == 0


def test_another_strategys_terms_are_not_accepted(client: Client, ella: TradingAccount, sam: TradingAccount) -> None:
    other = FeeTerms.objects.create(strategy=Strategy.objects.get(account=sam), performance_bps=1)

    assert answer(signed_in(client, ella), ella, other, confirms="on").status_code == 409
    assert FeeAgreement.objects.count() == 0


def test_declining_ends_what_had_not_begun(client: Client, ella: TradingAccount, terms: FeeTerms) -> None:
    page = text(answer(signed_in(client, ella), ella, terms, decline="1"))

    assert "Declined. You do not follow lena-eurusd." in page


def test_declining_a_notice_can_be_taken_back_until_its_end(
    client: Client, noticed: TradingAccount, terms: FeeTerms
) -> None:
    page = text(answer(signed_in(client, noticed), noticed, terms, decline="1"))
    assert "You declined, so you stop following on" in page
    assert "Until then you may still accept" in text(client.get(page_of(noticed)))

    assert "Accepted" in text(answer(client, noticed, terms, confirms="on"))


def test_an_acceptance_with_a_fee_owed_says_that_it_is_paused(
    client: Client, lena: TradingAccount, finn: TradingAccount
) -> None:
    from tests.wallets.conftest import JUST_AFTER
    from wallets.services import settlement

    follows = following(lena, finn)
    follows.realise("1", "1000")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    strategies.end(subscription=subscription_of(finn), actor=audit.SYSTEM)
    dearer = FeeTerms.objects.create(strategy=follows.agreement.strategy, performance_bps=3000)
    committed(strategies.subscribe, account=finn, strategy=dearer.strategy, actor=audit.SYSTEM)

    page = text(answer(signed_in(client, finn), finn, dearer, confirms="on"))

    assert "Accepted. The subscription is paused for an unpaid fee." in page


# --- what the provider sees


def test_the_provider_sees_who_accepted_without_names(
    client: Client, lena: TradingAccount, noticed: TradingAccount, ella: TradingAccount, terms: FeeTerms
) -> None:
    page = text(signed_in(client, lena).get(COPIES))
    assert f"{subscription_of(noticed).sub_id} {timezone.now():%-d %b %Y} no answer" in page
    assert f"{subscription_of(ella).sub_id} {timezone.now():%-d %b %Y} waits to accept" in page

    accept(ella, terms)
    subscription = subscription_of(noticed)
    agreements.decline(subscription=subscription, terms=terms, actor=audit.SYSTEM, now=timezone.now())

    page, today = text(client.get(COPIES)), f"{timezone.now():%-d %b %Y}"
    assert f"{subscription_of(ella).sub_id} {today} accepted {today}" in page
    assert f"{subscription.sub_id} {today} declined – {FeeNotice.objects.get().ends_at:%-d %b %Y}" in page
    assert "finn" not in page and "ella" not in page
