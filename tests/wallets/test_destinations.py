"""Withdrawals go to confirmed destinations of the wallet's owner, and not soon after a changed password."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.hashers import make_password
from django.db import DatabaseError, connections, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import reauthentication
from accounts import services as accounts
from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from config.management.commands.rekey import sealed_fields
from core.errors import DomainError, Invalid
from tests.answers import text
from tests.wallets.conftest import balance, fund, usd
from wallets import services
from wallets.models import Destination, LedgerTransfer, MoneyRequest, Wallet
from wallets.services import destinations, second_person

PAGE = "/wallet/"
IBAN = "GB82WEST12345698765432"


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    fund(usd(finn), "1000")
    return usd(finn)


def cool(**hours: int) -> None:
    """Let these cooling times hold in the test's database."""
    rows = second_person.in_force() | {(name, ""): Decimal(number) for name, number in hours.items()}
    second_person.write(rows, using="owner")


def new(owner: User, name: str = "New bank", details: str = IBAN) -> Destination:
    with transaction.atomic():
        return destinations.add(owner=owner, name=name, kind="BANK", details=details, actor=audit.SYSTEM)


def of(owner: User) -> Destination:
    return Destination.objects.get(owner=owner)


def withdraw(wallet: Wallet, key: str = "k", **more: Any) -> str:
    args = {"wallet": wallet, "kind": "WITHDRAWAL", "amount": Decimal(10), "reason": "", "idempotency_key": key}
    try:
        return services.request_money(**args, by=wallet.owner, actor=audit.SYSTEM, **more).state
    except DomainError as refusal:
        return refusal.code


def written(wallet: Wallet, destination: Destination | None) -> str:
    """The outcome of a request that a caller writes itself."""
    row = {"wallet": wallet, "kind": "WITHDRAWAL", "amount": Decimal(10), "requested_by": wallet.owner}
    try:
        with transaction.atomic():
            MoneyRequest.objects.create(**row, idempotency_key="w", needs_second=True, destination=destination)
    except DatabaseError as error:
        return str(error.__cause__.sqlstate)
    return "written"


def test_a_withdrawal_names_its_destination(wallet: Wallet) -> None:
    assert withdraw(wallet) == "DONE"
    assert MoneyRequest.objects.get(kind="WITHDRAWAL").destination == of(wallet.owner)


def test_a_new_destination_is_confirmed_after_its_cooling_time(wallet: Wallet) -> None:
    cool(destination_cooling_h=48)
    fresh = new(wallet.owner)
    left = fresh.usable_at - timezone.now()

    assert timedelta(hours=47) < left <= timedelta(hours=48)
    assert (withdraw(wallet, destination=fresh), written(wallet, fresh)) == ("destination_not_confirmed", "CD010")


def test_a_foreign_destination_is_refused(wallet: Wallet, lena: TradingAccount) -> None:
    foreign = of(lena.owner)

    assert (withdraw(wallet, destination=foreign), written(wallet, foreign)) == ("destination_not_confirmed", "CD010")


def test_a_withdrawal_without_a_destination_is_refused_by_the_database(wallet: Wallet) -> None:
    assert written(wallet, None) == "CD010"
    assert written(wallet, of(wallet.owner)) == "written"


def test_money_is_paid_out_by_requests_alone(wallet: Wallet, finn: TradingAccount) -> None:
    for kind in ("WITHDRAWAL", "PAYOUT"):
        with pytest.raises(services.DestinationNotConfirmed):
            services.debit_wallet(wallet=wallet, amount=Decimal(1), kind=kind, note="", idempotency_key=kind)
    assert balance(finn) == 1000


def test_a_removed_destination_receives_nothing_more(wallet: Wallet, staff: User) -> None:
    fund(wallet, "5000", "more")
    request = services.request_money(
        wallet=wallet, kind="WITHDRAWAL", amount=Decimal(2000), reason="", idempotency_key="w", by=wallet.owner,
        actor=audit.SYSTEM,
    )  # fmt: skip
    destinations.remove(destination=of(wallet.owner), reason="", actor=audit.SYSTEM)

    assert withdraw(wallet) == "destination_not_confirmed"
    with pytest.raises(services.DestinationNotConfirmed):
        services.approve(request=request, by=staff, actor=audit.SYSTEM)
    services.reject(request=request, by=staff, reason="", actor=audit.SYSTEM)
    assert not LedgerTransfer.objects.filter(kind="WITHDRAWAL").exists()


def test_a_request_from_before_a_changed_password_waits_for_the_cooling_time(wallet: Wallet, staff: User) -> None:
    fund(wallet, "5000", "more")
    request = services.request_money(
        wallet=wallet, kind="WITHDRAWAL", amount=Decimal(2000), reason="", idempotency_key="w", by=wallet.owner,
        actor=audit.SYSTEM,
    )  # fmt: skip
    cool(credentials_cooling_h=24)
    wallet.owner.set_password("another password of finn")
    wallet.owner.save(update_fields=["password"])

    with pytest.raises(destinations.CoolingTime):
        services.approve(request=request, by=staff, actor=audit.SYSTEM)
    assert not LedgerTransfer.objects.filter(kind="WITHDRAWAL").exists()
    cool(credentials_cooling_h=0)  # as if it had passed: the time of the change itself cannot be moved back
    services.approve(request=request, by=staff, actor=audit.SYSTEM)
    assert LedgerTransfer.objects.filter(kind="WITHDRAWAL").count() == 1


def test_where_there_are_several_one_has_to_be_named(wallet: Wallet) -> None:
    second = new(wallet.owner)

    assert withdraw(wallet) == "destination_not_confirmed"
    assert withdraw(wallet, "n", destination=second) == "DONE"


@pytest.mark.parametrize(
    "change",
    ["name = 'x'", "masked = 'x'", "owner_id = requested", "usable_at = now() - interval '9 days'", "kind = 'CRYPTO'"],
)
def test_a_destination_never_changes(wallet: Wallet, staff: User, change: str) -> None:
    with connections["owner"].cursor() as cursor, pytest.raises(DatabaseError) as error:
        cursor.execute(f"update withdrawal_destinations set {change.replace('requested', repr(str(staff.pk)))}")
    assert error.value.__cause__.sqlstate == "CD003"


def test_the_application_cannot_skip_the_cooling_time(wallet: Wallet) -> None:
    cool(destination_cooling_h=48)
    forged = Destination.objects.create(
        owner=wallet.owner, name="x", kind="BANK", masked="x", sealed_details=b"x",
        usable_at=timezone.now() - timedelta(days=9),
    )  # fmt: skip

    assert Destination.objects.get(pk=forged.pk).usable_at > timezone.now()


def test_details_are_sealed_and_masked(wallet: Wallet, staff: User) -> None:
    destination = new(wallet.owner, details="gb82 west 1234 5698 7654 32")

    assert destination.masked == "gb82…5432"
    assert b"12345698" not in bytes(destination.sealed_details)
    assert (Destination, "sealed_details") in [(model, field.name) for model, field in sealed_fields()]
    assert destinations.reveal(destination=destination, actor=audit.SYSTEM) == "gb82west12345698765432"
    assert AuditLog.objects.filter(action="destination.revealed", subject=f"user:{wallet.owner.pk}").count() == 1


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"name": ""}, "name"), ({"kind": "CASH"}, "kind"), ({"details": "12"}, "details"),
        ({"details": "GB82WEST12345698765433"}, "details"), ({"name": "Demo bank"}, "name"),
    ],
)  # fmt: skip
def test_refuses_an_invalid_destination(wallet: Wallet, fields: dict[str, str], fault: str) -> None:
    given = {"name": "New", "kind": "BANK", "details": IBAN, **fields}
    with pytest.raises(Invalid) as refusal, transaction.atomic():
        destinations.add(owner=wallet.owner, actor=audit.SYSTEM, **given)
    assert list(refusal.value.extra["fields"]) == [fault]


# --- the cooling time after a change of a credential


def test_no_money_leaves_soon_after_a_changed_password(wallet: Wallet, staff: User) -> None:
    cool(credentials_cooling_h=24)
    wallet.owner.set_password("another password")
    wallet.owner.save()

    assert (withdraw(wallet), written(wallet, of(wallet.owner))) == ("cooling_time", "CD011")


def test_whatever_changes_a_password_starts_the_cooling_time(wallet: Wallet) -> None:
    def changed() -> bool:
        return User.objects.get(pk=wallet.owner.pk).credentials_changed_at is not None

    User.objects.filter(pk=wallet.owner.pk).update(password=make_password(None))
    assert not changed(), "a password that was taken away opens nothing"
    User.objects.filter(pk=wallet.owner.pk).update(password=make_password("by a query"))
    assert changed()


def test_the_first_password_is_no_change(desk_db: str) -> None:
    person = User.objects.create(username="new")
    person.set_password("the first")
    person.save()

    assert User.objects.get(pk=person.pk).credentials_changed_at is None


def test_the_time_of_a_change_never_goes_back(wallet: Wallet) -> None:
    stale = User.objects.get(pk=wallet.owner.pk)
    with transaction.atomic():
        accounts.start_cooling(user=wallet.owner, what="second factor", actor=audit.SYSTEM)
    stale.save()
    User.objects.filter(pk=stale.pk).update(credentials_changed_at=None)

    assert User.objects.get(pk=stale.pk).credentials_changed_at is not None
    assert AuditLog.objects.get(action="credentials.changed").detail == {"what": "second factor"}


# --- the page, and the password again


@pytest.fixture
def as_finn(client: Client, wallet: Wallet) -> Client:
    client.force_login(wallet.owner)
    return client


def an_hour_later(client: Client) -> None:
    session = client.session
    session[reauthentication.GIVEN_AT] -= 3600
    session.save()


def post(client: Client, path: str, **fields: str) -> Any:
    return client.post(f"{PAGE}{path}", {"currency": "USD", **fields}, follow=True)


def test_the_password_is_asked_for_again_before_money_leaves(
    as_finn: Client, finn: TradingAccount, cast: dict[str, Any]
) -> None:
    an_hour_later(as_finn)
    asked = {"amount": "10", "note": "for rent", "key": "k" * 20}

    refused = post(as_finn, "withdraw/", **asked)
    wrong = post(as_finn, "withdraw/", **asked, password="wrong")
    assert (refused.status_code, wrong.status_code, balance(finn)) == (403, 403, 1000)
    assert "This is not your password" in text(wrong, 403)
    assert 'value="10"' in wrong.content.decode() and 'value="for rent"' in wrong.content.decode()
    assert "wrong" not in re_typed(wrong)

    assert "accepted" in text(post(as_finn, "withdraw/", **asked, password=cast["users"]["finn"]["password"]))
    assert balance(finn) == 990
    assert "accepted" in text(post(as_finn, "withdraw/", amount="10", key="n" * 20)), "it was given just now"


def re_typed(response: Any) -> str:
    html = response.content.decode()
    return html[html.index('type="password"') :][:200]


def test_the_api_asks_for_a_new_sign_in(as_finn: Client, finn: TradingAccount) -> None:
    an_hour_later(as_finn)
    response = as_finn.post(
        "/api/v2/wallets/me/withdrawals", {"amount": "1"}, content_type="application/json",
        HTTP_IDEMPOTENCY_KEY="k" * 20,
    )  # fmt: skip

    assert (response.status_code, response.json()["code"]) == (403, "reauthentication_needed")
    assert balance(finn) == 1000


def test_the_guest_of_a_demo_has_no_password_to_give(as_finn: Client, finn: TradingAccount, settings: Settings) -> None:
    settings.DEMO_GUEST = finn.owner.username
    an_hour_later(as_finn)

    assert "accepted" in text(post(as_finn, "withdraw/", amount="10", key="k" * 20))


def test_a_customer_adds_and_removes_a_destination(as_finn: Client, wallet: Wallet) -> None:
    cool(destination_cooling_h=48)
    page = text(post(as_finn, "destinations/", name="Savings", kind="BANK", details=IBAN))
    added = Destination.objects.get(name="Savings")

    assert "Savings (GB82…5432) added" in page
    assert "Savings bank account GB82…5432 usable from" in page
    assert "removed" in text(post(as_finn, f"destinations/{added.ref}/remove/"))
    assert Destination.objects.get(name="Savings").removed_at is not None


def test_a_destination_needs_the_password_too(as_finn: Client, wallet: Wallet) -> None:
    an_hour_later(as_finn)
    refused = post(as_finn, "destinations/", name="Savings", kind="BANK", details=IBAN)

    assert refused.status_code == 403
    assert f'value="{IBAN}"' in refused.content.decode()
    assert Destination.objects.filter(owner=wallet.owner).count() == 1


def test_nobody_removes_or_uses_the_destination_of_another(
    as_finn: Client, lena: TradingAccount, finn: TradingAccount
) -> None:
    foreign = of(lena.owner)

    assert as_finn.post(f"{PAGE}destinations/{foreign.ref}/remove/").status_code == 404
    assert post(as_finn, "withdraw/", amount="1", key="k" * 20, destination=str(foreign.ref)).status_code == 422
    assert balance(finn) == 1000


def test_staff_see_a_destination_masked_until_they_ask(client: Client, wallet: Wallet, staff: User) -> None:
    client.force_login(staff)
    destination = of(wallet.owner)
    rows = "/admin/wallets/destination/"

    assert "DE89…3000" in client.get(rows).content.decode()
    assert "370400440532" not in client.get(f"{rows}{destination.pk}/change/").content.decode()
    action = {"action": "reveal", "_selected_action": destination.pk, "confirmed": "1"}
    assert "DE89370400440532013000" in client.post(rows, action, follow=True).content.decode()
    assert AuditLog.objects.filter(action="destination.revealed", actor=str(staff.pk)).exists()
