"""Creates, rotates and revokes bots' keys; changes people's rights and e-mail addresses.

A secret is returned once, here, and stored only encrypted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.contrib.auth.models import Group, Permission
from django.db import DatabaseError
from django.db.models import Max
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import BotKey, BotKeyGeneration, RightsRequest, TradingAccount, User
from audit import services as audit
from core import crypto
from core.errors import DomainError, RequestDecided, RequestPending, SecondPersonNeeded
from core.transactions import part, use_case

OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=7)
COOLING = timedelta(days=1)
SETUP = "set up a copier "  # begins the label of a key that was made for a download
CHANGEABLE = frozenset({"label", "allowed_networks", "rate_per_minute", "expires_at"})


class KeyWasCreated(DomainError):
    code = "key_was_created"
    detail = "This was done already. A secret is shown once: start again to make another key."


class KeyIsRevoked(DomainError):
    code = "key_is_revoked"
    detail = "This key was revoked, which cannot be undone. Create a new key."


@dataclass(frozen=True, slots=True)
class NewSecret:
    """`key` is what a bot sends as X-Cd-Key, `secret` is what it signs with. Both are shown once."""

    key: str
    secret: str = field(repr=False)


@part
def create_key(
    *,
    account: TradingAccount,
    kind: str,
    actor: audit.Actor,
    label: str = "",
    allowed_networks: list[str] | None = None,
    rate_per_minute: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[BotKey, NewSecret]:
    """Create a key with generation 1 for one trading account."""
    key = BotKey(
        account=account,
        kind=kind,
        label=label,
        allowed_networks=allowed_networks or [],
        rate_per_minute=rate_per_minute,
        expires_at=expires_at,
    )
    key.full_clean(exclude=["created_at"])
    key.save(force_insert=True)
    audit.record(
        "key.created",
        actor=actor,
        subject=f"key:{key.key_id}",
        kind=kind,
        account=account.name,
        networks=key.allowed_networks,
    )
    return key, _add_generation(key, 1)


@part
def create_setup_key(*, account: TradingAccount, actor: audit.Actor, label: str) -> NewSecret:
    """Create a copier key for a bot that is being set up. Raises KeyWasCreated if the account has one of this label.

    Earlier keys for a setup that no bot ever used are revoked, so that lost downloads leave no open door.
    """
    User.locked(account.owner_id)  # a form that is sent twice waits here, and then finds the key
    earlier = BotKey.objects.filter(account=account, kind=BotKey.Kind.COPIER, label__startswith=SETUP)
    if earlier.filter(label=SETUP + label).exists():
        raise KeyWasCreated
    for key in earlier.filter(revoked_at__isnull=True).exclude(generations__last_used_at__isnull=False):
        _revoke(key, actor)
    _, secret = create_key(account=account, kind=BotKey.Kind.COPIER, actor=actor, label=SETUP + label)
    return secret


@part
def rotate_key(*, key: BotKey, actor: audit.Actor, overlap: timedelta = OVERLAP) -> NewSecret:
    """Add a generation, whose sequence numbers start anew. Older generations retire after `overlap` (at most 7 days),
    or one hour after the new one is first used; signed_call does the latter.
    """
    locked = BotKey.objects.lock().get(pk=key.pk)
    if locked.revoked_at is not None:
        raise KeyIsRevoked
    latest = locked.generations.aggregate(latest=Max("generation"))["latest"]
    locked.generations.filter(retires_at__isnull=True).update(retires_at=timezone.now() + min(overlap, LONGEST_OVERLAP))
    audit.record("key.rotated", actor=actor, subject=f"key:{locked.key_id}", generation=latest + 1)
    return _add_generation(locked, latest + 1)


@part
def change_key(*, key: BotKey, changed: list[str], actor: audit.Actor) -> None:
    """Save changes of a key's label, networks, rate or expiry. Its account and kind never change."""
    fields = [name for name in changed if name in CHANGEABLE]
    if not fields:
        return
    key.save(update_fields=fields)
    values = {name: str(getattr(key, name)) for name in fields}
    audit.record("key.changed", actor=actor, subject=f"key:{key.key_id}", **values)


@use_case()
def revoke_key(*, key: BotKey, actor: audit.Actor) -> None:
    """Revoke at once: the next request of any generation is refused, and open sockets close within 2 s."""
    _revoke(key, actor)


def _revoke(key: BotKey, actor: audit.Actor) -> None:
    if BotKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=timezone.now()):
        audit.record("key.revoked", actor=actor, subject=f"key:{key.key_id}")


def _add_generation(key: BotKey, generation: int) -> NewSecret:
    secret = crypto.new_secret()
    sealed = crypto.encrypt(secret, bound_to=BotKeyGeneration.BINDING.format(key=key.key_id, generation=generation))
    BotKeyGeneration.objects.create(key=key, generation=generation, sealed_secret=sealed)
    return NewSecret(f"{key.key_id}.{generation}", secret)


# --- people


class EmailChangedRecently(DomainError):
    code = "email_changed_recently"
    detail = "The e-mail address was changed within the last day: no password is reset by mail until then."


@dataclass(frozen=True, slots=True)
class Rights:
    """What a person may do in the back office. An empty `email` leaves the address as it is."""

    is_active: bool
    is_staff: bool
    is_superuser: bool
    groups: Sequence[int] = ()
    permissions: Sequence[int] = ()
    email: str = ""


def rights_of(person: User) -> Rights:
    return Rights(
        is_active=person.is_active,
        is_staff=person.is_staff,
        is_superuser=person.is_superuser,
        groups=sorted(person.groups.values_list("pk", flat=True)),
        permissions=sorted(person.user_permissions.values_list("pk", flat=True)),
    )


def add_person(person: User) -> None:
    """Add a person without a password: the first one is chosen by a link, as later ones are."""
    person.set_unusable_password()
    person.save(force_insert=True)


@part
def change_person(*, person: User, changed: Sequence[str], actor: audit.Actor) -> str:
    """Save changed fields of a person who is no staff. Returns the old e-mail address where that was changed, else "".

    From a changed address no password can be reset for a day, in which its owner can object.
    """
    before = User.locked(person.pk)
    fields = [name for name in changed if name in CHANGEABLE_OF_PEOPLE]
    is_moved = "email" in fields and before.email != person.email
    if is_moved:
        person.email_changed_at = timezone.now()
        audit.record("email.changed", actor=actor, subject=f"user:{person.pk}")
    person.save(update_fields=[*fields, "email_changed_at"])
    return before.email if is_moved else ""


CHANGEABLE_OF_PEOPLE = frozenset({"username", "first_name", "last_name", "email", "is_active"})


def check_may_reset(person: User) -> None:
    """Raise a refusal where a password may not be reset by mail at all now."""
    changed_at = person.email_changed_at
    if changed_at is not None and timezone.now() - changed_at < COOLING:
        raise EmailChangedRecently


@use_case()
def request_rights(*, person: User, rights: Rights, reason: str, by: User, actor: audit.Actor) -> RightsRequest:
    """Request other rights, or another e-mail address, for a person. A superuser must approve."""
    return _request(RightsRequest.Kind.RIGHTS, person, rights, reason, by, actor)


@use_case()
def request_reset(*, person: User, reason: str, by: User, actor: audit.Actor) -> RightsRequest:
    """Request that a member of staff is sent a link for a new password."""
    check_may_reset(person)
    return _request(RightsRequest.Kind.RESET, person, rights_of(person), reason, by, actor)


def _request(
    kind: RightsRequest.Kind, person: User, rights: Rights, reason: str, by: User, actor: audit.Actor
) -> RightsRequest:
    if by.pk == person.pk:
        raise SecondPersonNeeded("Nobody changes their own rights: ask a colleague.")
    if RightsRequest.objects.filter(person=person, kind=kind, state=RightsRequest.State.PENDING).exists():
        raise RequestPending
    request = RightsRequest.objects.create(
        kind=kind,
        person=person,
        is_active=rights.is_active,
        is_staff=rights.is_staff,
        is_superuser=rights.is_superuser,
        email=rights.email,
        groups=list(rights.groups),
        permissions=list(rights.permissions),
        reason=reason,
        requested_by=by,
    )
    _record("rights.requested", request, actor)
    return request


def approve(*, request: RightsRequest, by: User, actor: audit.Actor) -> RightsRequest:
    """Carry out a request for rights; a reset is then to be sent. Neither who requested it nor the person may."""
    if by.pk in (request.requested_by_id, request.person_id) or not by.is_superuser:
        raise SecondPersonNeeded
    try:
        with use_case():
            decided = _decide(request, RightsRequest.State.DONE, by, actor)
            if decided.kind == RightsRequest.Kind.RIGHTS:
                _give(decided, actor)
            else:
                check_may_reset(decided.person)
            return decided
    except DatabaseError as fault:
        if getattr(fault.__cause__, "sqlstate", "") == "CD008":  # a person lost a right in the meantime
            raise SecondPersonNeeded from fault
        raise


@use_case()
def reject(*, request: RightsRequest, by: User, reason: str, actor: audit.Actor) -> RightsRequest:
    """Reject a request, or withdraw one's own."""
    return _decide(request, RightsRequest.State.REJECTED, by, actor, why=reason)


def _decide(
    request: RightsRequest, state: RightsRequest.State, by: User, actor: audit.Actor, **detail: str
) -> RightsRequest:
    """Of two decisions at the same time, the second waits for the first and finds no pending row."""
    pending = RightsRequest.objects.filter(pk=request.pk, state=RightsRequest.State.PENDING)
    if not pending.update(state=state, decided_by=by, decided_at=Now()):
        raise RequestDecided
    decided = RightsRequest.objects.select_related("person").get(pk=request.pk)
    _record("rights.request_decided", decided, actor, **detail)
    return decided


def _give(request: RightsRequest, actor: audit.Actor) -> None:
    person = User.locked(request.person_id)
    person.is_active, person.is_staff, person.is_superuser = request.is_active, request.is_staff, request.is_superuser
    if request.email and request.email != person.email:
        person.email, person.email_changed_at = request.email, timezone.now()
        audit.record("email.changed", actor=actor, subject=f"user:{person.pk}")
    person.save(update_fields=["is_active", "is_staff", "is_superuser", "email", "email_changed_at"])
    person.groups.set(Group.objects.filter(pk__in=request.groups))
    person.user_permissions.set(Permission.objects.filter(pk__in=request.permissions))
    _record("rights.changed", request, actor)


def _record(action: str, request: RightsRequest, actor: audit.Actor, **detail: str) -> None:
    audit.record(
        action, actor=actor, subject=f"user:{request.person_id}", request=str(request.pk), kind=request.kind,
        state=request.state, is_active=request.is_active, is_staff=request.is_staff, is_superuser=request.is_superuser,
        groups=request.groups, permissions=request.permissions, has_new_email=bool(request.email), note=request.reason,
        **detail,
    )  # fmt: skip


# --- people's credentials


@part
def start_cooling(*, user: User, what: str, actor: audit.Actor) -> None:
    """Start the cooling time after a change of a sign-in factor other than the password, for example "second factor".

    Every change of a factor calls this. For passwords the database does it, at every change.
    """
    User.objects.filter(pk=user.pk).update(credentials_changed_at=timezone.now())
    audit.record("credentials.changed", actor=actor, subject=f"user:{user.pk}", what=what)
