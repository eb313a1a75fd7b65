"""People, their trading accounts, and the keys of their bots."""

import secrets
import uuid
from decimal import Decimal
from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Now

from accounts import networks
from core.fields import SealedField, amount


class UserQuerySet(models.QuerySet["User"]):
    def lock(self) -> "UserQuerySet":
        """Lock users while a score is calculated. New references to the rows are not blocked."""
        return self.select_for_update(no_key=True)


class User(AbstractUser):
    """A person. Users are deactivated, never deleted: money and trades refer to them."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email_changed_at = models.DateTimeField(
        "e-mail changed at", null=True, editable=False, help_text="No password is reset by mail within a day of it."
    )
    credentials_changed_at = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When a password or another factor was last changed. The database sets it for passwords.",
    )

    class Meta(AbstractUser.Meta):
        db_table = "users"

    @classmethod
    def locked(cls, pk: uuid.UUID) -> "User":
        """Return the user, locked until the transaction ends. (A manager of its own would need a migration.)"""
        return UserQuerySet(cls).lock().get(pk=pk)

    @property
    def is_privileged(self) -> bool:
        """Whether the account has, or could again have, rights in the back office."""
        return self.is_staff or self.is_superuser


class RightsRequest(models.Model):
    """Rights that a person gets, or a password of staff that is reset: one colleague requests it, another approves.

    `groups` and `permissions` are ids. The rights are those that the person has afterwards, all of them.
    """

    class Kind(models.TextChoices):
        RIGHTS = "RIGHTS", "rights"
        RESET = "RESET", "password reset"

    class State(models.TextChoices):
        PENDING = "PENDING", "awaiting approval"
        DONE = "DONE", "done"
        REJECTED = "REJECTED", "rejected"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=8, choices=Kind)
    person = models.ForeignKey(User, models.PROTECT, related_name="rights_requests")
    is_active = models.BooleanField("active")
    is_staff = models.BooleanField("staff")
    is_superuser = models.BooleanField("superuser")
    email = models.EmailField("e-mail address", blank=True)
    groups = ArrayField(models.IntegerField(), default=list)
    permissions = ArrayField(models.IntegerField(), default=list)
    reason = models.CharField(max_length=500)
    requested_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    decided_by = models.ForeignKey(User, models.PROTECT, related_name="+", null=True)
    decided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "rights_requests"
        verbose_name = "request for rights"
        verbose_name_plural = "requests for rights"
        constraints = [
            models.UniqueConstraint(
                fields=["person", "kind"],
                condition=models.Q(state="PENDING"),
                name="rights_request_is_the_only_pending",
            ),
            models.CheckConstraint(
                condition=models.Q(state="PENDING", decided_by__isnull=True, decided_at__isnull=True)
                | models.Q(state__in=["DONE", "REJECTED"], decided_by__isnull=False, decided_at__isnull=False),
                name="rights_request_is_decided_whole",
            ),
            models.CheckConstraint(
                condition=~models.Q(requested_by=models.F("person"))
                & ~models.Q(state="DONE", decided_by=models.F("person"))
                & ~models.Q(state="DONE", decided_by=models.F("requested_by")),
                name="rights_request_has_three_people",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.person}"


class TradingAccount(models.Model):
    """An account at a broker. Where the broker's server is reset (as for demos), a new generation is a new row.

    `currency` is what staff registered: amounts of the account are read in it. `reported_…` is what the bot finds at
    the broker. Where both name a currency and the two differ, the account's amounts are not used.
    """

    class Kind(models.TextChoices):
        HEDGING = "hedging", "hedging"
        NETTING = "netting", "netting: one position for each symbol"
        FIFO = "fifo", "FIFO: the oldest position closes first"

    name = models.SlugField(max_length=64, unique=True)
    owner = models.ForeignKey(User, models.PROTECT, related_name="trading_accounts")
    broker = models.TextField()
    server = models.TextField()
    login = models.TextField()
    currency = models.CharField(
        max_length=3, default="USD", blank=True, validators=[RegexValidator(r"^[A-Z]{3}$")],
        help_text="Amounts of the account are in it. A cent account has a currency of its own (USC). "
        "Empty: the first that its bot reports.",
    )  # fmt: skip
    generation = models.PositiveIntegerField(default=1)
    copy_seq = models.PositiveBigIntegerField(
        default=0, editable=False, help_text="The number of changes of copies on this account."
    )
    balance = amount(null=True, editable=False, help_text="As last reported by its bot.")
    equity = amount(null=True, editable=False, help_text="Balance and floating P/L, as last reported by its bot.")
    reported_at = models.DateTimeField(
        null=True, editable=False, db_column="told_at", help_text="When its bot last reported."
    )
    max_open_trades = models.PositiveIntegerField(
        default=10_000,
        db_default=10_000,
        help_text="The most trades, copies aside, that may be open. Closes are never refused.",
    )
    kind = models.CharField(max_length=8, choices=Kind, blank=True, default="", db_default="", editable=False)
    reported_currency = models.CharField(max_length=16, blank=True, default="", db_default="", editable=False)
    reported_login = models.CharField(max_length=64, blank=True, default="", db_default="", editable=False)
    reported_server = models.CharField(max_length=128, blank=True, default="", db_default="", editable=False)
    changes = models.PositiveIntegerField(
        default=0, db_default=0, editable=False,
        help_text="Changes that its bot reported since `changes_since`. The audit log shows the first of them.",
    )  # fmt: skip
    changes_since = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "trading_accounts"
        constraints = [
            models.UniqueConstraint(
                fields=["broker", "server", "login", "generation"], name="trading_account_is_at_the_broker_once"
            ),
            models.CheckConstraint(
                condition=models.Q(kind__in=["", "hedging", "netting", "fifo"]), name="trading_account_kind_is_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def currency_differs(self) -> bool:
        """Whether the bot reports another currency than the registered one."""
        return self.reported_currency not in ("", self.currency)

    @property
    def usable_equity(self) -> Decimal | None:
        """The last reported equity; None if it is unknown or in another currency than the registered one."""
        return None if self.currency_differs else self.equity


class AccountSymbol(models.Model):
    """A broker's conditions for one symbol, by the account's own name of it, as its bot reports them."""

    pk = models.CompositePrimaryKey("account_id", "symbol")
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="symbols", db_index=False)
    symbol = models.CharField(max_length=32)
    contract_size = amount(help_text="Units in one lot.")
    volume_min = amount("smallest volume", null=True)
    volume_step = amount(null=True)
    volume_max = amount("largest volume", null=True)
    changed_at = models.DateTimeField(help_text="When the contract size was first reported, or last changed.")
    updated_at = models.DateTimeField(help_text="When the symbol was last reported.")

    class Meta:
        db_table = "account_symbols"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(contract_size__gt=0), name="account_symbol_contract_size_is_positive"
            )
        ]

    def __str__(self) -> str:
        return f"{self.symbol} on {self.account_id}"


def new_key_id() -> str:
    return f"ck_{secrets.token_hex(8)}"


def check_networks(value: list[str]) -> None:
    try:
        networks.parse(value)
    except ValueError as fault:
        raise ValidationError(str(fault)) from fault


class BotKeyQuerySet(models.QuerySet["BotKey"]):
    def lock(self) -> "BotKeyQuerySet":
        """Take the lock that signed_call takes first: no request of the key runs meanwhile."""
        return self.select_for_update(no_key=True)


class BotKey(models.Model):
    """A bot's credential: one kind, one trading account. No kind can read history."""

    class Kind(models.TextChoices):
        MASTER = "master", "master (provider's bot)"
        COPIER = "copier", "copier (subscriber's bot)"
        READONLY = "readonly", "read-only"

    key_id = models.CharField(max_length=19, unique=True, default=new_key_id, editable=False)
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="bot_keys")
    kind = models.CharField(max_length=8, choices=Kind)
    label = models.CharField(max_length=64, blank=True)
    allowed_networks = ArrayField(
        models.CharField(max_length=49),
        default=list,
        blank=True,
        validators=[check_networks],
        help_text="Networks from which the bot may call, as CIDR, separated by commas, at most 50. Empty: any.",
    )
    rate_per_minute = models.PositiveIntegerField(
        null=True, blank=True, help_text="Requests a minute. Empty: no limit for this key."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = BotKeyQuerySet.as_manager()

    class Meta:
        db_table = "bot_keys"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(kind__in=["master", "copier", "readonly"]), name="bot_key_kind_is_known"
            ),
            models.CheckConstraint(
                condition=models.Q(key_id__regex=r"^ck_[0-9a-f]{16}$"), name="bot_key_id_is_well_formed"
            ),
        ]

    def __str__(self) -> str:
        return self.key_id


class BotKeyGenerationQuerySet(models.QuerySet["BotKeyGeneration"]):
    def lock(self) -> "BotKeyGenerationQuerySet":
        return self.select_for_update(no_key=True)


class BotKeyGeneration(models.Model):
    """One secret of a key, with the highest sequence number used. It outlasts a rotation for the overlap."""

    key = models.ForeignKey(BotKey, models.PROTECT, related_name="generations")
    generation = models.PositiveIntegerField()
    sealed_secret = SealedField(binding=lambda row: row.BINDING.format(key=row.key.key_id, generation=row.generation))
    last_seq = models.PositiveBigIntegerField(default=0, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)
    retires_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = BotKeyGenerationQuerySet.as_manager()

    BINDING: ClassVar[str] = "bot_key|{key}|{generation}"

    class Meta:
        db_table = "bot_key_generations"
        constraints = [
            models.UniqueConstraint(fields=["key", "generation"], name="bot_key_generation_is_unique"),
            models.CheckConstraint(
                condition=models.Q(generation__gte=1, generation__lte=999_999), name="bot_key_generation_is_in_range"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key.key_id}.{self.generation}"


class SignedResult(models.Model):
    """The outcome of a signed request under its Idempotency-Key, so that a repeat gets the same response.

    Only signed_call writes it, while it holds the lock on the key's row: a foreign key would check the row once more.
    """

    pk = models.CompositePrimaryKey("key_id", "idempotency_key")
    key = models.ForeignKey(BotKey, models.PROTECT, related_name="+", db_index=False, db_constraint=False)
    idempotency_key = models.CharField(max_length=64)
    fingerprint = models.BinaryField()
    outcome = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "signed_results"
