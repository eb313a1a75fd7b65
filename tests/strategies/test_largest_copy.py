"""Each subscription has a largest copy. Open copies keep the size of the terms that they were opened under."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from strategies import explanations, forms
from strategies import services as strategies
from strategies.models import Subscription, Terms
from tests.answers import text
from tests.signed import Bot, opening
from tests.sql import as_owner

MIGRATION = Path(strategies.__file__).parent / "migrations" / "0013_largest_copy.sql"


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def copies(bot: Bot) -> dict[str, str]:
    return {trade["ticket_id"]: trade["copy"]["volume"] for trade in bot.send("GET").json()["trades"]}


def test_a_copy_of_an_enormous_trade_is_cut_to_the_largest(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    assert lena_bot.send("POST", fields=opening("1", volume="1000")).status_code == 201

    assert copies(finn_bot) == {"1": "100.00000000"}
    assert "at most 100 lots" in explanations.terms(strategies.terms_of(subscription))


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ({"mode": "MULTIPLIER"}, "100"),
        ({"mode": "FIXED", "fixed_lots": Decimal(150)}, "150"),
        ({"min_volume": Decimal(200)}, "200"),
    ],
)
def test_terms_without_a_largest_copy_get_one_whoever_makes_them(
    subscription: Subscription, settings: dict[str, Any], largest: str
) -> None:
    terms = Terms.objects.create(subscription=subscription, since=timezone.now(), **settings)

    terms.refresh_from_db()
    assert terms.max_volume == Decimal(largest)
    defaults = {"mode": "MULTIPLIER", "multiplier": "1", **settings}
    form = forms.TermsForm({name: str(value) for name, value in defaults.items()}, instance=Terms())
    assert form.is_valid() and form.cleaned_data["max_volume"] == terms.max_volume


def test_existing_subscriptions_get_it_and_open_copies_keep_their_size(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    as_owner(
        "alter table subscription_terms disable trigger user",
        "update subscription_terms set max_volume = null, symbols = '{EURUSD}'",
        "alter table subscription_terms enable always trigger has_a_largest_copy",
    )
    lena_bot.send("POST", fields=opening("1", volume="500"))
    assert copies(finn_bot) == {"1": "500.00000000"}

    as_owner("drop trigger has_a_largest_copy on subscription_terms", MIGRATION.read_text())
    lena_bot.send("POST", fields=opening("2", volume="500"))

    assert copies(finn_bot) == {"1": "500.00000000", "2": "100.00000000"}
    latest = strategies.terms_of(subscription)
    assert (latest.max_volume, latest.symbols, latest.multiplier) == (Decimal(100), ["EURUSD"], Decimal(1))
    assert Terms.objects.filter(subscription=subscription).count() == 2


def test_a_person_reads_and_keeps_the_largest_copy(client: Client, subscription: Subscription) -> None:
    client.force_login(subscription.account.owner)
    page = reverse("portal:copying-settings", args=[subscription.sub_id])
    assert "Empty: 100." in text(client.get(page))

    client.post(page, {"mode": "MULTIPLIER", "multiplier": "2", "max_volume": ""}, follow=True)

    assert strategies.terms_of(subscription).max_volume == Decimal(100)


def test_an_own_limit_stays(subscription: Subscription) -> None:
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, max_volume=Decimal("0.5"))
    assert strategies.terms_of(subscription).max_volume == Decimal("0.5")
