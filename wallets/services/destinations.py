"""Where a customer's withdrawals go: added by the customer, confirmed by a cooling time, removed, never changed."""

import re
from datetime import datetime

from django.db import IntegrityError, connection
from django.db.models.functions import Now

from accounts.models import User
from audit import services as audit
from core import crypto, database
from core.errors import DomainError, Invalid
from core.transactions import part, savepoint, use_case
from wallets.models import Destination

MOST = 10
_DETAILS = re.compile(r"[!-~]{6,128}")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")


class DestinationNotConfirmed(DomainError):
    code = "destination_not_confirmed"
    status = 422
    detail = "A withdrawal needs a confirmed destination of yours. A new one is confirmed after its cooling time."


class CoolingTime(DomainError):
    code = "cooling_time"
    status = 409
    detail = "A password or another sign-in factor was changed lately: no money can leave yet."


@part
def add(*, owner: User, name: str, kind: str, details: str, actor: audit.Actor) -> Destination:
    """Add a destination, which is confirmed after its cooling time. `details`: an IBAN, account number or address.

    Raises Invalid with the faults of the fields.
    """
    name, details = " ".join(name.split()), "".join(details.split())
    _check(name, kind, details)
    destination = Destination(owner=owner, name=name, kind=kind, masked=masked(details))
    bound_to = Destination.BINDING.format(ref=destination.ref)
    destination.sealed_details = crypto.encrypt(details, bound_to=bound_to)
    detail = {"destination": str(destination.ref), "name": name, "kind": kind, "masked": destination.masked}
    if Destination.objects.present().filter(owner=owner).count() >= MOST:
        raise Invalid({"name": [f"is one too many: {MOST} destinations are the most, remove one first"]})
    try:
        with savepoint():
            destination.save(force_insert=True)
    except IntegrityError as error:
        if database.constraint_name(error) != "destination_name_is_the_owners_only_one":
            raise
        raise Invalid({"name": ["is the name of another destination of yours"]}) from error
    audit.record("destination.added", actor=actor, subject=f"user:{owner.pk}", **detail)
    return destination


@use_case()
def remove(*, destination: Destination, reason: str, actor: audit.Actor) -> None:
    """Remove a destination for ever. Withdrawals to it that wait for approval can only be rejected then."""
    if Destination.objects.present().filter(pk=destination.pk).update(removed_at=Now()):
        audit.record(
            "destination.removed", actor=actor, subject=f"user:{destination.owner_id}",
            destination=str(destination.ref), reason=reason,
        )  # fmt: skip


@use_case()
def reveal(*, destination: Destination, actor: audit.Actor) -> str:
    """Return the full details, for staff who pay out. Each look is recorded."""
    audit.record(
        "destination.revealed", actor=actor, subject=f"user:{destination.owner_id}", destination=str(destination.ref)
    )
    return crypto.decrypt(destination.sealed_details, bound_to=Destination.BINDING.format(ref=destination.ref))


def of_owner(owner: User, name: str | None = None) -> Destination:
    """Return the owner's confirmed destination of that name, or the only one where no name is given."""
    confirmed = Destination.objects.confirmed().filter(owner=owner)
    found = list((confirmed.filter(name=name) if name else confirmed)[:2])
    if len(found) > 1:
        raise DestinationNotConfirmed("You have several destinations: say to which one the money goes.")
    if not found:
        raise DestinationNotConfirmed
    return found[0]


def check_may_withdraw(owner: User, destination: Destination) -> None:
    """Say in words what the database would refuse."""
    if destination.owner_id != owner.pk or not Destination.objects.confirmed().filter(pk=destination.pk).exists():
        raise DestinationNotConfirmed
    opens_at = withdrawals_open_at(owner)
    if opens_at is not None:
        raise CoolingTime(
            f"A password was changed lately. Withdrawals are possible from {opens_at:%-d %B, %H:%M} UTC on."
        )


def withdrawals_open_at(owner: User) -> datetime | None:
    """The end of the cooling time after a change of a password or another factor; None outside one."""
    with connection.cursor() as cursor:
        cursor.execute("select at from withdrawals_open_at(%s) at where at > now()", [owner.pk])
        (opens_at,) = cursor.fetchone() or (None,)
    return opens_at


def masked(details: str) -> str:
    """Enough to recognise the details: the last four characters, and the first four of long ones."""
    first = details[:4] if len(details) >= 12 else ""
    return f"{first}…{details[-4:]}"


def _check(name: str, kind: str, details: str) -> None:
    faults: dict[str, list[str]] = {}
    if not 1 <= len(name) <= 64 or not name.isprintable():
        faults["name"] = ["must be 1 to 64 characters"]
    if kind not in Destination.Kind.values:
        faults["kind"] = ["must be chosen"]
    if not _DETAILS.fullmatch(details):
        faults["details"] = ["must be an account number, IBAN or address of 6 to 128 letters and digits"]
    elif kind == Destination.Kind.BANK and not is_plausible_account(details):
        faults["details"] = ["is no valid IBAN: compare it with your bank's papers"]
    if faults:
        raise Invalid(faults)


def is_plausible_account(details: str) -> bool:
    """False for an IBAN whose check digits (ISO 7064, mod 97) are wrong. Other account numbers have no common check."""
    if not _IBAN.fullmatch(details.upper()):
        return True
    digits = "".join(str(int(symbol, 36)) for symbol in details.upper()[4:] + details.upper()[:4])
    return int(digits) % 97 == 1
