"""Requests that move money, the destinations of withdrawals, and the limits of what one person moves alone."""

import uuid
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from core import fields, money
from wallets.models.ledger import LedgerTransfer, Wallet, WalletHold


class DestinationQuerySet(models.QuerySet["Destination"]):
    def lock(self) -> "DestinationQuerySet":
        return self.select_for_update(no_key=True)

    def present(self) -> "DestinationQuerySet":
        return self.filter(removed_at=None)

    def confirmed(self) -> "DestinationQuerySet":
        """Those to which money may leave now."""
        return self.present().filter(usable_at__lte=Now())


class Destination(models.Model):
    """Where a customer's withdrawals go. It never changes: to change it, add another. Confirmed by its cooling time."""

    class Kind(models.TextChoices):
        BANK = "BANK", "bank account"
        CRYPTO = "CRYPTO", "crypto address"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="destinations")
    ref = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=64)
    kind = models.CharField(max_length=6, choices=Kind)
    masked = models.CharField(max_length=32, help_text="The details with most of their characters left out.")
    sealed_details = fields.SealedField(binding=lambda row: row.BINDING.format(ref=row.ref))
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    usable_at = models.DateTimeField(
        "confirmed at", db_default=Now(), editable=False, help_text="The end of its cooling time; the database sets it."
    )
    removed_at = models.DateTimeField(null=True, editable=False)

    objects = DestinationQuerySet.as_manager()

    BINDING: ClassVar[str] = "destination|{ref}"

    class Meta:
        db_table = "withdrawal_destinations"
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "name"], condition=Q(removed_at=None), name="destination_name_is_the_owners_only_one"
            ),
            models.CheckConstraint(condition=Q(kind__in=["BANK", "CRYPTO"]), name="destination_kind_is_known"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.masked})"

    def is_confirmed(self, now: datetime) -> bool:
        return self.removed_at is None and self.usable_at <= now


class MoneyRequestQuerySet(models.QuerySet["MoneyRequest"]):
    def lock(self) -> "MoneyRequestQuerySet":
        return self.select_for_update(no_key=True, of=("self",))


class MoneyRequest(models.Model):
    """A deposit or adjustment by staff, or a withdrawal. Above a limit a second person approves or rejects it."""

    class Kind(models.TextChoices):
        DEPOSIT = "DEPOSIT", "deposit"
        WITHDRAWAL = "WITHDRAWAL", "withdrawal"
        ADJUSTMENT = "ADJUSTMENT", "adjustment"

    class State(models.TextChoices):
        PENDING = "PENDING", "awaiting approval"
        DONE = "DONE", "done"
        REJECTED = "REJECTED", "rejected"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    wallet = models.ForeignKey(Wallet, models.PROTECT, related_name="requests")
    amount = fields.amount(help_text="A negative adjustment debits the wallet.")
    reason = models.CharField(max_length=500)
    idempotency_key = models.CharField(max_length=64)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    needs_second = models.BooleanField(help_text="Above a limit, or to the requester's own wallet.")
    second_reason = models.CharField(
        max_length=200, db_default="", editable=False, help_text="Why a second person decides, as the database found."
    )
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    destination = models.ForeignKey(
        Destination, models.PROTECT, related_name="requests", null=True, help_text="Of a withdrawal; none before 0.2.0."
    )
    hold = models.OneToOneField(WalletHold, models.PROTECT, related_name="request", null=True)
    transfer = models.OneToOneField(LedgerTransfer, models.PROTECT, related_name="request", null=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", null=True)
    decided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    objects = MoneyRequestQuerySet.as_manager()

    class Meta:
        db_table = "money_requests"
        constraints = [
            models.UniqueConstraint(fields=["wallet", "idempotency_key"], name="money_is_asked_for_once"),
            models.CheckConstraint(
                condition=Q(kind="ADJUSTMENT") & ~Q(amount=0) | Q(kind__in=["DEPOSIT", "WITHDRAWAL"], amount__gt=0),
                name="money_request_amount_fits_its_kind",
            ),
            models.CheckConstraint(
                condition=Q(state="PENDING", decided_by__isnull=True, transfer__isnull=True)
                | Q(state="REJECTED", decided_by__isnull=False, transfer__isnull=True)
                | Q(state="DONE", decided_by__isnull=False, transfer__isnull=False),
                name="money_request_is_decided_whole",
            ),
            models.CheckConstraint(
                condition=~Q(state="DONE", needs_second=True, decided_by=F("requested_by")),
                name="money_request_above_the_limit_has_two_people",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {money.plain(self.amount)}"


class MoneySetting(models.Model):
    """The limits by which the database decides. `manage.py migrate` writes them from the settings (wallets.limits)."""

    pk = models.CompositePrimaryKey("name", "currency")
    name = models.CharField(max_length=40)
    currency = models.CharField(max_length=3, blank=True, help_text="Empty: every currency that has no row of its own.")
    value = fields.amount()

    class Meta:
        db_table = "money_settings"

    def __str__(self) -> str:
        return f"{self.name} {self.currency}"


class MoneyMover(models.Model):
    """Somebody who moved money without a second person, or whose money was moved. Its row is the lock of the sums."""

    person = models.OneToOneField(settings.AUTH_USER_MODEL, models.PROTECT, primary_key=True, related_name="+")
    movements = models.PositiveBigIntegerField()

    class Meta:
        db_table = "money_movers"

    def __str__(self) -> str:
        return str(self.person_id)
