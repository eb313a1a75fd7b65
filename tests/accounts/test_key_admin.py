"""Keys and users in the admin: a secret is shown once, and staff cannot extend their own permissions."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import BotKey, TradingAccount, User
from audit.models import AuditLog
from tests.signed import Bot

KEYS, ADD = "admin:accounts_botkey_changelist", "admin:accounts_botkey_add"


def asked_for(owner: Any, /, **more: Any) -> dict[str, Any]:
    return {"account": owner.pk, "kind": "master", "label": "second", "allowed_networks": "", **more}


def make(browser: Any, owner: Any, /, **more: Any) -> Any:
    return browser.post(reverse(ADD), asked_for(owner, **more))


def shown(answer: Any) -> dict[str, Any]:
    """Return the key and the secret on the page."""
    ((_, new),) = answer.context["secrets"]
    assert new.secret in answer.content.decode()
    return {"key": new.key, "secret": new.secret}


def act(browser: Any, action: Any, key: Any, **more: Any) -> Any:
    return browser.post(reverse(KEYS), {"action": action, "_selected_action": key.pk, **more}, follow=True)


def key_of(account: Any) -> BotKey:
    return BotKey.objects.get(account=account, kind="master")


# --- a secret, once


def test_a_new_key_signs(admin: Client, lena: TradingAccount) -> None:
    assert Bot(shown(make(admin, lena))).send("GET").status_code == 200


@pytest.mark.parametrize("way", ["create", "rotate"])
def test_a_secret_is_shown_once_and_stored_only_encrypted(admin: Client, lena: TradingAccount, way: str) -> None:
    answer = make(admin, lena) if way == "create" else act(admin, "rotate", key_of(lena))
    secret = shown(answer)["secret"]
    key = BotKey.objects.get(label="second") if way == "create" else key_of(lena)

    assert "no-store" in answer["Cache-Control"]
    assert secret not in str(answer.cookies)
    for name, args in ((KEYS, []), ("admin:accounts_botkey_change", [key.pk]), ("admin:audit_auditlog_changelist", [])):
        assert secret not in admin.get(reverse(name, args=args)).content.decode()
    assert not [row for row in Session.objects.all() if secret in json.dumps(row.get_decoded())]
    assert not [row for row in AuditLog.objects.values() if secret in str(row)]


def test_a_key_is_created_with_the_entered_fields(admin: Client, lena: TradingAccount, staff: User) -> None:
    more = {"allowed_networks": "203.0.113.0/24, 2001:db8::/48", "rate_per_minute": "90"}
    make(admin, lena, expires_at_0="2031-05-06", expires_at_1="07:08:09", **more)

    key = BotKey.objects.get(label="second")
    assert (key.account, key.kind, key.rate_per_minute) == (lena, "master", 90)
    assert key.allowed_networks == ["203.0.113.0/24", "2001:db8::/48"]
    assert key.expires_at == datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    fact = AuditLog.objects.get(action="key.created", subject=f"key:{key.key_id}")
    assert (fact.actor_kind, fact.actor) == ("staff", str(staff.pk))


@pytest.mark.parametrize(
    "fault",
    [
        {"allowed_networks": "203.0.113.7/24"},
        {"allowed_networks": "everywhere"},
        {"kind": "admin"},
        {"expires_at_0": "tomorrow", "expires_at_1": ""},
        {"rate_per_minute": "-1"},
        {"account": "0"},
    ],
    ids=str,
)
def test_an_invalid_form_creates_no_key(admin: Client, lena: TradingAccount, fault: dict[str, Any]) -> None:
    answer = make(admin, lena, **fault)

    assert answer.context["errors"]
    assert not BotKey.objects.filter(label="second").exists()


# --- revoked, rotated, changed


def test_a_key_is_revoked_only_after_confirmation(admin: Client, lena: TradingAccount, lena_bot: Bot) -> None:
    page = act(admin, "revoke", key_of(lena))
    before = lena_bot.send("GET").status_code
    act(admin, "revoke", key_of(lena), confirmed="1")

    assert "A revoked key cannot be restored" in page.content.decode()
    assert before == 200
    assert lena_bot.send("GET").json()["code"] == "key_revoked"


def test_a_rotated_key_signs_with_its_new_secret(admin: Client, lena: TradingAccount) -> None:
    new = shown(act(admin, "rotate", key_of(lena)))

    assert new["key"] == f"{key_of(lena).key_id}.2"
    assert Bot(new).send("GET").status_code == 200


def test_rotating_a_revoked_key_shows_the_refusal(admin: Client, lena: TradingAccount) -> None:
    key = key_of(lena)
    act(admin, "revoke", key, confirmed="1")

    (message,) = act(admin, "rotate", key).context["messages"]

    assert str(message) == f"Key {key}: This key was revoked, which cannot be undone. Create a new key."
    assert key.generations.count() == 1


def test_a_changed_key_keeps_its_account_and_kind_and_is_audited(
    admin: Client, lena: TradingAccount, sam: TradingAccount
) -> None:
    key = key_of(lena)

    admin.post(reverse("admin:accounts_botkey_change", args=[key.pk]), asked_for(sam, kind="copier", label="renamed"))

    key.refresh_from_db()
    assert (key.account, key.kind, key.label) == (lena, "master", "renamed")
    assert AuditLog.objects.get(action="key.changed").detail == {"label": "renamed"}


def test_the_list_shows_and_filters_by_a_keys_state(admin: Client, lena: TradingAccount, sam: TradingAccount) -> None:
    BotKey.objects.filter(account=lena).update(revoked_at=timezone.now())
    BotKey.objects.filter(account=sam).update(expires_at=timezone.now() - timedelta(seconds=1))

    shown_by_state = {
        state: {str(key.account) for key in admin.get(reverse(KEYS), {"state": state}).context["cl"].result_list}
        for state in ("active", "expired", "revoked")
    }

    assert shown_by_state == {"active": {"finn-mt5"}, "expired": {"sam-mt5"}, "revoked": {"lena-mt5"}}


# --- who may


@pytest.mark.parametrize("model", ["botkey", "tradingaccount", "user"])
def test_not_even_a_superuser_can_delete(admin: Client, lena: TradingAccount, model: str) -> None:
    row = {"botkey": key_of(lena), "tradingaccount": lena, "user": lena.owner}[model]

    assert admin.post(reverse(f"admin:accounts_{model}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert type(row)._default_manager.filter(pk=row.pk).exists()


def test_staff_who_may_only_view_cannot_create_rotate_or_revoke(
    clerk: Callable[..., Any], lena: TradingAccount, lena_bot: Bot
) -> None:
    viewer = clerk("view_botkey")

    assert make(viewer, lena).status_code == 403
    act(viewer, "rotate", key_of(lena))
    act(viewer, "revoke", key_of(lena), confirmed="1")

    assert lena_bot.send("GET").status_code == 200
    assert key_of(lena).generations.count() == 1


def test_staff_cannot_grant_permissions_to_themselves_or_others(
    clerk: Callable[..., Any], cast: dict[str, Any]
) -> None:
    browser = clerk("view_user", "change_user")
    powers = {"is_staff": "on", "is_superuser": "on", "user_permissions": [Permission.objects.first().pk]}

    for name in ("vera", "sam"):
        person = User.objects.get(username=name)
        form = {"username": name, "first_name": "Changed", "is_active": "on", **powers}
        assert browser.post(reverse("admin:accounts_user_change", args=[person.pk]), form).status_code == 302
        person.refresh_from_db()
        assert (person.first_name, person.is_superuser, person.is_staff) == ("Changed", False, name == "vera")


def test_staff_cannot_change_other_staff(clerk: Callable[..., Any], staff: User) -> None:
    browser = clerk("view_user", "change_user")
    before = staff.password

    form = {"password1": "n3w-Passw0rd!", "password2": "n3w-Passw0rd!"}
    answer = browser.post(reverse("admin:accounts_user_change", args=[staff.pk]), form)

    staff.refresh_from_db()
    assert (answer.status_code, staff.password) == (403, before)


def test_only_superusers_change_groups(clerk: Callable[..., Any], cast: dict[str, Any]) -> None:
    browser = clerk("view_group", "add_group", "change_group")

    assert browser.post(reverse("admin:auth_group_add"), {"name": "all-powerful"}).status_code == 403
    assert not Group.objects.exists()


def test_a_changed_user_is_audited(admin: Client, staff: User, lena: TradingAccount) -> None:
    form = {"username": "lena", "email": lena.owner.email, "first_name": "Lena", "is_active": "on"}
    assert admin.post(reverse("admin:accounts_user_change", args=[lena.owner.pk]), form).status_code == 302

    fact = AuditLog.objects.get(action="user.changed", subject=f"user:{lena.owner.pk}")
    assert fact.actor == str(staff.pk)
    assert User.objects.get(pk=lena.owner.pk).first_name == "Lena"


def test_an_added_account_is_audited_and_keeps_its_owner(
    admin: Client, lena: TradingAccount, sam: TradingAccount
) -> None:
    form = {
        "owner": lena.owner.pk, "broker": "B", "server": "S", "login": "77", "generation": "1", "currency": "EUR",
        "max_open_trades": "200",
    }  # fmt: skip
    admin.post(reverse("admin:accounts_tradingaccount_add"), {"name": "lena-two", **form})
    account = TradingAccount.objects.get(name="lena-two")

    admin.post(
        reverse("admin:accounts_tradingaccount_change", args=[account.pk]),
        {"name": "lena-2", **form, "owner": sam.owner.pk, "login": "78"},
    )

    account.refresh_from_db()
    assert (account.name, account.owner, account.login, account.max_open_trades) == ("lena-2", lena.owner, "77", 200)
    actions = AuditLog.objects.filter(subject=f"account:{account.pk}").order_by("id").values_list("action", flat=True)
    assert list(actions) == ["account.added", "account.changed"]
