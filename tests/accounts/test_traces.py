"""What people do with their sign-in, and what staff look at, leaves a row with user and address."""

from typing import Any

import pytest
from django.test import Client

from accounts.models import TradingAccount, User
from audit.models import AuditLog
from core import limiting
from tests.signed import HOST, Bot, opening

ELSEWHERE = {"HTTP_HOST": HOST, "REMOTE_ADDR": "198.51.100.9"}


def rows(action: str) -> list[tuple[str, str, str | None, str, str]]:
    found = AuditLog.objects.filter(action=action).order_by("id")
    return [(row.actor_kind, row.actor, row.ip, row.subject, row.code) for row in found]


@pytest.fixture
def office(client: Client, staff: User) -> Client:
    client.force_login(staff)
    client.defaults.update(ELSEWHERE)
    return client


def test_a_changed_password_is_recorded_whoever_changes_it(office: Client, staff: User, lena: TradingAccount) -> None:
    before = len(rows("password.changed"))
    staff.set_password("the-old-one-0815")
    staff.save()
    office.force_login(staff)
    word = "a-new-word-for-the-desk"
    form = {"old_password": "the-old-one-0815", "new_password1": word, "new_password2": word}
    assert office.post("/admin/password_change/", form).status_code == 302

    subject = f"user:{staff.pk}"
    assert rows("password.changed")[before:] == [
        ("system", "", None, subject, ""),
        ("staff", str(staff.pk), "198.51.100.9", subject, ""),
    ]
    assert "the-old-one" not in repr(list(AuditLog.objects.values()))


def test_signing_in_does_not_count_as_a_change(client: Client, cast: dict[str, Any]) -> None:
    before = len(rows("password.changed"))
    form = {"username": "lena", "password": cast["users"]["lena"]["password"]}
    assert client.post("/login/", form, **ELSEWHERE).status_code == 302

    assert len(rows("password.changed")) == before


def test_a_customer_at_the_staffs_door_leaves_a_row(client: Client, cast: dict[str, Any], lena: TradingAccount) -> None:
    form = {"username": "lena", "password": cast["users"]["lena"]["password"]}
    assert client.post("/admin/login/", form, **ELSEWHERE).status_code == 200

    subject = f"user:{lena.owner_id}"
    assert rows("session.refused") == [("nobody", "", "198.51.100.9", subject, "not_allowed_here")]


def test_a_limited_sign_in_leaves_a_row(client: Client, cast: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "is_spent", lambda *_: True)
    for _ in range(50):
        assert client.post("/login/", {"username": "lena", "password": "x"}, **ELSEWHERE).status_code == 429

    assert rows("session.limited") == [("nobody", "", "198.51.100.9", "", "rate_limited")] * 20


def test_staff_who_look_at_a_customers_object_leave_a_row(office: Client, staff: User, finn: TradingAccount) -> None:
    """One for each page of an object that the admin has for them."""
    key = finn.bot_keys.get()
    pages = {
        "user": f"/admin/accounts/user/{finn.owner_id}/change/",
        "tradingaccount": f"/admin/accounts/tradingaccount/{finn.pk}/change/",
        "botkey": f"/admin/accounts/botkey/{key.pk}/change/",
        "wallet": f"/admin/wallets/wallet/{finn.owner.wallets.get().pk}/change/",
        "subscription": f"/admin/strategies/subscription/{finn.subscriptions.get().pk}/change/",
    }
    for page in pages.values():
        assert office.get(page).status_code == 200, page

    seen = [(kind, actor, ip, subject.partition(":")[0]) for kind, actor, ip, subject, _ in rows("object.viewed")]
    assert seen == [("staff", str(staff.pk), "198.51.100.9", model) for model in pages]


def test_pages_that_were_refused_or_are_lists_leave_no_row(
    client: Client, lena: TradingAccount, office: Client
) -> None:
    customer = Client()
    customer.force_login(lena.owner)
    customer.get(f"/admin/accounts/user/{lena.owner_id}/change/", **ELSEWHERE)
    office.get("/admin/accounts/user/")
    office.get("/admin/accounts/user/00000000-0000-0000-0000-000000000000/change/")

    assert rows("object.viewed") == []


def test_exports_are_recorded_for_staff_and_owner(
    office: Client, staff: User, lena: TradingAccount, lena_bot: Bot
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    owner = Client()
    owner.force_login(lena.owner)
    b"".join(owner.get("/api/v2/trades/history.csv", **ELSEWHERE).streaming_content)  # type: ignore[attr-defined]
    b"".join(office.get("/admin/trades/tradehistory/export.csv").streaming_content)  # type: ignore[attr-defined]
    owner.get("/api/v2/wallets/me/statement.csv?month=2026-01", **ELSEWHERE)

    exported = rows("history.exported")
    assert [(kind, actor, ip) for kind, actor, ip, _, _ in exported] == [
        ("user", str(lena.owner_id), "198.51.100.9"),
        ("staff", str(staff.pk), "198.51.100.9"),
    ]
