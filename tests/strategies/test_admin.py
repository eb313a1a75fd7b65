"""Staff's actions on subscriptions: each asks for confirmation, and a secret is shown once."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription, Terms
from tests.answers import text
from tests.browsers import of_staff
from tests.transactions import committed
from wallets.models import FeeTerms

LIST, ADD = "admin:strategies_subscription_changelist", "admin:strategies_subscription_add"
TERMS = {"mode": "FIXED", "fixed_lots": "0.03", "multiplier": "", "symbols": "EURUSD", "symbol_map": ""}
ACTIONS = ["set_terms", "pause", "resume", "rotate_secret", "end"]


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def page_of(subscription: Any) -> Any:
    return reverse("admin:strategies_subscription_change", args=[subscription.pk])


def ask(browser: Any, action: Any, *chosen: Any, **more: Any) -> Any:
    """Choose an action in the list."""
    return browser.post(
        reverse(LIST), {"action": action, "_selected_action": [subscription.pk for subscription in chosen], **more}
    )


def do(browser: Any, action: Any, *chosen: Any, **more: Any) -> Any:
    """Answer the page that the action asks on."""
    return ask(browser, action, *chosen, confirmed="1", **more)


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_asks_for_confirmation_before_it_changes_anything(
    admin: Client, subscription: Subscription, action: str
) -> None:
    before = Subscription.objects.values().get(pk=subscription.pk)

    page = text(ask(admin, action, subscription))

    assert "finn-mt5" in page and "lena-eurusd" in page and "Cancel" in page
    assert Subscription.objects.values().get(pk=subscription.pk) == before
    assert Terms.objects.filter(subscription=subscription).count() == 1


@pytest.mark.parametrize("action", ACTIONS)
def test_staff_with_only_the_view_permission_cannot_act(
    cast: dict[str, Any], subscription: Subscription, action: str
) -> None:
    browser = of_staff("vera", "view_subscription")
    assert browser.get(page_of(subscription)).status_code == 200

    assert do(browser, action, subscription, **TERMS).status_code == 403

    subscription.refresh_from_db()
    assert (subscription.status, subscription.next_generation) == ("ACTIVE", None)
    assert Terms.objects.filter(subscription=subscription).count() == 1
    assert f'value="{action}"' not in browser.get(page_of(subscription)).content.decode()


def test_the_page_offers_the_actions_that_fit_the_status(admin: Client, subscription: Subscription) -> None:
    def offered() -> Any:
        return re.findall(r'name="action" value="(\w+)"', admin.get(page_of(subscription)).content.decode())

    assert offered() == ["set_terms", "pause", "rotate_secret", "end"]
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why="UNPAID")
    assert offered() == ["set_terms", "resume", "rotate_secret", "end"]
    strategies.end(subscription=subscription, actor=audit.SYSTEM)
    assert offered() == []


@pytest.mark.parametrize("page", ["change", "delete"])
def test_a_subscription_cannot_be_edited_or_deleted(admin: Client, subscription: Subscription, page: str) -> None:
    url = reverse(f"admin:strategies_subscription_{page}", args=[subscription.pk])

    assert admin.post(url, {"post": "yes", "status": "ENDED"}).status_code == 403
    subscription.refresh_from_db()
    assert subscription.status == "ACTIVE"


def test_the_form_creates_a_subscription_through_the_service(
    admin: Client, sam: TradingAccount, lena: TradingAccount
) -> None:
    assert "Save" in admin.get(reverse(ADD)).content.decode()

    admin.post(reverse(ADD), {"strategy": lena.strategy.pk, "account": sam.pk})

    subscription = Subscription.objects.get(account=sam)
    assert strategies.terms_of(subscription).multiplier == 1
    assert AuditLog.objects.filter(
        action="subscription.created", subject=f"subscription:{subscription.sub_id}"
    ).exists()


def test_new_terms_are_shown_beside_the_earlier_ones(admin: Client, subscription: Subscription, staff: User) -> None:
    answer = do(admin, "set_terms", subscription, **TERMS)

    assert answer["Location"] == page_of(subscription)
    assert AuditLog.objects.get(action="subscription.terms_set").actor == str(staff.pk)
    page = text(admin.get(page_of(subscription)))
    assert "0.03 lots each time; at most 100 lots; only EURUSD" in page
    assert "always provider's lots × 1" in page


def test_the_terms_form_shows_the_present_terms(admin: Client, subscription: Subscription) -> None:
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, max_volume=Decimal("0.25"), symbols=["XAUUSD"])

    page = ask(admin, "set_terms", subscription).content.decode()

    assert 'value="0.25"' in page and 'value="XAUUSD"' in page
    for title in ("How much", "Limits of each copy", "When to stop", "What to copy"):
        assert f"<h2>{title}</h2>" in page


def test_contradictory_terms_are_reported_at_their_fields(admin: Client, subscription: Subscription) -> None:
    answer = do(admin, "set_terms", subscription, **{**TERMS, "fixed_lots": "", "min_volume": "2", "max_volume": "1"})

    assert set(answer.context["form"].errors) == {"fixed_lots", "min_volume"}
    assert "The smallest volume is above the largest." in text(answer)
    assert Terms.objects.filter(subscription=subscription).count() == 1


def test_terms_are_set_for_one_subscription_at_a_time(
    admin: Client, subscription: Subscription, sam: TradingAccount, lena: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)

    answer = admin.post(
        reverse(LIST), {"action": "set_terms", "_selected_action": [subscription.pk, other.pk]}, follow=True
    )

    assert "Choose one subscription, not several" in text(answer)


def test_pauses_resumes_and_ends_several_together(
    admin: Client, subscription: Subscription, sam: TradingAccount, lena: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)

    for action, status in (("pause", "PAUSED"), ("resume", "ACTIVE"), ("end", "ENDED")):
        do(admin, action, subscription, other)
        assert set(Subscription.objects.values_list("status", flat=True)) == {status}


def test_a_pause_by_staff_replaces_other_reasons_and_a_pause_by_the_owner_does_not(
    admin: Client, subscription: Subscription
) -> None:
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why="UNPAID")
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why="OWNER")
    subscription.refresh_from_db()
    assert subscription.paused_for == "UNPAID"

    do(admin, "pause", subscription)

    subscription.refresh_from_db()
    assert subscription.paused_for == "HAND"


def test_staff_read_that_a_subscription_waits_for_its_fees_and_cannot_begin_it(
    admin: Client, lena: TradingAccount, sam: TradingAccount
) -> None:
    waits = "nothing is copied until its subscriber accepts the strategy&#x27;s fees."
    FeeTerms.objects.create(strategy=lena.strategy)

    added = admin.post(reverse(ADD), {"strategy": lena.strategy.pk, "account": sam.pk}, follow=True)
    subscription = Subscription.objects.get(account=sam)
    refused = admin.post(
        reverse(LIST), {"action": "resume", "_selected_action": [subscription.pk], "confirmed": "1"}, follow=True
    )

    assert waits in added.content.decode()
    assert waits in refused.content.decode()
    assert "Resume: done" not in refused.content.decode()
    assert Subscription.objects.get(account=sam).paused_for == "TERMS"


def test_new_secrets_are_shown_once_and_never_cached(
    admin: Client, subscription: Subscription, sam: TradingAccount, lena: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)

    answer = do(admin, "rotate_secret", subscription, other, at_once="on")

    secrets = [strategies.packet_secret(Subscription.objects.get(pk=each.pk)) for each in (subscription, other)]
    assert all(secret in answer.content.decode() for secret in secrets)
    assert "no-store" in answer["Cache-Control"]
    for page in (page_of(subscription), reverse(LIST), reverse("admin:audit_auditlog_changelist")):
        assert not any(secret in admin.get(page).content.decode() for secret in secrets)
    assert not any(secret in str(list(AuditLog.objects.values_list("detail", flat=True))) for secret in secrets)


def test_a_secret_is_shown_with_its_generation(admin: Client, subscription: Subscription) -> None:
    page = text(do(admin, "rotate_secret", subscription))

    assert "Generation 2" in page
    assert "The old secret stays in use until the bot has this one" in page
