"""What staff do with subscriptions: each deed asks on a page of its own, and a secret is shown once."""

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

LIST, ADD = "admin:strategies_subscription_changelist", "admin:strategies_subscription_add"
TERMS = {"mode": "FIXED", "fixed_lots": "0.03", "multiplier": "", "symbols": "EURUSD", "symbol_map": ""}
DEEDS = ["set_terms", "pause", "resume", "rotate_secret", "end"]


@pytest.fixture
def follows(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


@pytest.fixture
def admin(client: Client, staff: User) -> Client:
    client.force_login(staff)
    return client


def page_of(follows: Any) -> Any:
    return reverse("admin:strategies_subscription_change", args=[follows.pk])


def ask(browser: Any, action: Any, *chosen: Any, **more: Any) -> Any:
    """Choose an action in the list."""
    return browser.post(reverse(LIST), {"action": action, "_selected_action": [one.pk for one in chosen], **more})


def do(browser: Any, action: Any, *chosen: Any, **more: Any) -> Any:
    """Answer the page that the action asks on."""
    return ask(browser, action, *chosen, confirmed="1", **more)


@pytest.mark.parametrize("deed", DEEDS)
def test_each_deed_asks_first_and_does_nothing_yet(admin: Client, follows: Subscription, deed: str) -> None:
    before = Subscription.objects.values().get(pk=follows.pk)

    page = text(ask(admin, deed, follows))

    assert "finn-mt5" in page and "lena-eurusd" in page and "Cancel" in page
    assert Subscription.objects.values().get(pk=follows.pk) == before
    assert Terms.objects.filter(subscription=follows).count() == 1


@pytest.mark.parametrize("deed", DEEDS)
def test_who_may_only_look_does_nothing(cast: dict[str, Any], follows: Subscription, deed: str) -> None:
    browser = of_staff("vera", "view_subscription")
    assert browser.get(page_of(follows)).status_code == 200

    assert do(browser, deed, follows, **TERMS).status_code == 403

    follows.refresh_from_db()
    assert (follows.status, follows.next_generation) == ("ACTIVE", None)
    assert Terms.objects.filter(subscription=follows).count() == 1
    assert f'value="{deed}"' not in browser.get(page_of(follows)).content.decode()


def test_its_page_offers_what_makes_sense_now(admin: Client, follows: Subscription) -> None:
    def offered() -> Any:
        return re.findall(r'name="action" value="(\w+)"', admin.get(page_of(follows)).content.decode())

    assert offered() == ["set_terms", "pause", "rotate_secret", "end"]
    strategies.pause(subscription=follows, actor=audit.SYSTEM, why="UNPAID")
    assert offered() == ["set_terms", "resume", "rotate_secret", "end"]
    strategies.end(subscription=follows, actor=audit.SYSTEM)
    assert offered() == []


@pytest.mark.parametrize("page", ["change", "delete"])
def test_nobody_edits_or_deletes_one(admin: Client, follows: Subscription, page: str) -> None:
    url = reverse(f"admin:strategies_subscription_{page}", args=[follows.pk])

    assert admin.post(url, {"post": "yes", "status": "ENDED"}).status_code == 403
    follows.refresh_from_db()
    assert follows.status == "ACTIVE"


def test_a_subscription_is_begun_by_its_verb(admin: Client, sam: TradingAccount, lena: TradingAccount) -> None:
    assert "Save" in admin.get(reverse(ADD)).content.decode()

    admin.post(reverse(ADD), {"strategy": lena.strategy.pk, "account": sam.pk})

    made = Subscription.objects.get(account=sam)
    assert strategies.terms_of(made).multiplier == 1
    assert AuditLog.objects.filter(action="subscription.created", subject=f"subscription:{made.sub_id}").exists()


def test_terms_are_set_and_shown_with_those_before(admin: Client, follows: Subscription, staff: User) -> None:
    answer = do(admin, "set_terms", follows, **TERMS)

    assert answer["Location"] == page_of(follows)
    assert AuditLog.objects.get(action="subscription.terms_set").actor == str(staff.pk)
    page = text(admin.get(page_of(follows)))
    assert "0.03 lots each time; only EURUSD" in page
    assert "always × 1" in page


def test_the_page_that_asks_for_terms_shows_those_that_hold(admin: Client, follows: Subscription) -> None:
    strategies.set_terms(subscription=follows, actor=audit.SYSTEM, max_volume=Decimal("0.25"), symbols=["XAUUSD"])

    page = ask(admin, "set_terms", follows).content.decode()

    assert 'value="0.25"' in page and 'value="XAUUSD"' in page
    for title in ("How much", "Limits of each copy", "When to stop", "What to copy"):
        assert f"<h2>{title}</h2>" in page


def test_terms_that_make_no_sense_are_told_at_their_field(admin: Client, follows: Subscription) -> None:
    answer = do(admin, "set_terms", follows, **{**TERMS, "fixed_lots": "", "min_volume": "2", "max_volume": "1"})

    assert set(answer.context["form"].errors) == {"fixed_lots", "min_volume"}
    assert "The smallest volume is above the largest." in text(answer)
    assert Terms.objects.filter(subscription=follows).count() == 1


def test_terms_are_set_of_one_at_a_time(
    admin: Client, follows: Subscription, sam: TradingAccount, lena: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)

    answer = admin.post(reverse(LIST), {"action": "set_terms", "_selected_action": [follows.pk, other.pk]}, follow=True)

    assert "Choose one subscription, not several" in text(answer)


def test_several_are_paused_resumed_and_ended_together(
    admin: Client, follows: Subscription, sam: TradingAccount, lena: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)

    for deed, status in (("pause", "PAUSED"), ("resume", "ACTIVE"), ("end", "ENDED")):
        do(admin, deed, follows, other)
        assert set(Subscription.objects.values_list("status", flat=True)) == {status}


def test_staffs_hand_outranks_what_the_desk_paused_for_and_the_owners_does_not(
    admin: Client, follows: Subscription
) -> None:
    strategies.pause(subscription=follows, actor=audit.SYSTEM, why="UNPAID")
    strategies.pause(subscription=follows, actor=audit.SYSTEM, why="OWNER")
    follows.refresh_from_db()
    assert follows.paused_for == "UNPAID"

    do(admin, "pause", follows)

    follows.refresh_from_db()
    assert follows.paused_for == "HAND"


def test_new_secrets_are_shown_once_and_never_kept_in_a_cache(
    admin: Client, follows: Subscription, sam: TradingAccount, lena: TradingAccount
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)

    answer = do(admin, "rotate_secret", follows, other, at_once="on")

    made = [strategies.packet_secret(Subscription.objects.get(pk=one.pk)) for one in (follows, other)]
    assert all(secret in answer.content.decode() for secret in made)
    assert "no-store" in answer["Cache-Control"]
    for page in (page_of(follows), reverse(LIST), reverse("admin:audit_auditlog_changelist")):
        assert not any(secret in admin.get(page).content.decode() for secret in made)
    assert not any(secret in str(list(AuditLog.objects.values_list("detail", flat=True))) for secret in made)


def test_a_secret_comes_with_the_generation_that_its_bot_has_to_know(admin: Client, follows: Subscription) -> None:
    page = text(do(admin, "rotate_secret", follows))

    assert "Generation 2" in page
    assert "The old secret stays in use until the bot has this one" in page
