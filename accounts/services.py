"""Creates, rotates and revokes bots' keys. A secret is returned once, here, and stored only encrypted."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Max
from django.utils import timezone

from accounts.models import BotKey, BotKeyGeneration, TradingAccount, User
from audit import services as audit
from core import crypto
from core.errors import DomainError
from core.transactions import part, use_case

OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=7)
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
