"""Wallets on a double-entry ledger. The database enforces its rules (wallets/sql, wallets/migrations).

Every transfer debits one wallet and credits another by the same amount. The entries of a wallet are chained by version,
and its balance is the balance after its last entry: no code writes a balance directly.
"""

from decimal import Decimal

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from core import fields, money

CURRENCY = r"^[A-Z]{3}$"


class WalletQuerySet(models.QuerySet["Wallet"]):
    def people(self) -> "WalletQuerySet":
        return self.filter(kind=Wallet.Kind.PERSON)

    def lock(self) -> "WalletQuerySet":
        return self.select_for_update(no_key=True)


class Wallet(models.Model):
    """A person's money in one currency, or one of the house accounts.

    `version` grows by one with each entry. `held` is reserved by pending holds: available = balance − held.
    """

    class Kind(models.TextChoices):
        PERSON = "PERSON", "person"
        CASH_IN = "CASH_IN", "house: cash in"
        CASH_OUT = "CASH_OUT", "house: cash out"
        FEES = "FEES", "house: fees"
        RECEIVABLE = "RECEIVABLE", "house: receivable"
        ADJUSTMENTS = "ADJUSTMENTS", "house: adjustments"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="wallets", null=True)
    currency = models.CharField(max_length=3)
    kind = models.CharField(max_length=11, choices=Kind, default=Kind.PERSON)
    shard = models.PositiveSmallIntegerField(
        default=0, help_text="House accounts have many rows, so that transfers do not wait for one."
    )
    balance = fields.amount(default=Decimal(0))
    held = fields.amount(default=Decimal(0), help_text="Reserved by pending holds.")
    version = models.PositiveBigIntegerField(default=0)
    frozen_at = models.DateTimeField(null=True, help_text="No money can leave a frozen wallet.")
    created_at = models.DateTimeField(db_default=Now())

    objects = WalletQuerySet.as_manager()

    class Meta:
        db_table = "wallets"
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "currency"], condition=Q(kind="PERSON"), name="wallet_is_the_only_one_in_its_currency"
            ),
            models.UniqueConstraint(
                fields=["kind", "currency", "shard"], condition=~Q(kind="PERSON"), name="house_account_is_unique"
            ),
            models.CheckConstraint(
                condition=Q(kind="PERSON", owner__isnull=False)
                | Q(kind__in=["CASH_IN", "CASH_OUT", "FEES", "RECEIVABLE", "ADJUSTMENTS"], owner__isnull=True, held=0),
                name="wallet_is_a_persons_or_the_houses",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["CASH_IN", "RECEIVABLE", "ADJUSTMENTS"]) | Q(balance__gte=F("held")),
                name="wallet_is_not_overdrawn",
            ),
            models.CheckConstraint(condition=Q(held__gte=0), name="wallet_held_is_not_negative"),
            models.CheckConstraint(condition=Q(currency__regex=CURRENCY), name="wallet_currency_is_well_formed"),
        ]

    def __str__(self) -> str:
        owner = self.owner.get_username() if self.owner else f"{self.get_kind_display()} {self.shard}"
        return f"{owner} {self.currency}"

    @property
    def available(self) -> Decimal:
        available: Decimal = self.balance - self.held
        return available

    @property
    def is_frozen(self) -> bool:
        return self.frozen_at is not None


class TransferKind(models.TextChoices):
    """The reason of a transfer."""

    DEPOSIT = "DEPOSIT", "deposit"
    WITHDRAWAL = "WITHDRAWAL", "withdrawal"
    TRANSFER = "TRANSFER", "transfer"
    FEE_PERFORMANCE = "FEE_PERFORMANCE", "performance fee"
    FEE_SUBSCRIPTION = "FEE_SUBSCRIPTION", "subscription fee"
    ACCRUAL = "ACCRUAL", "fee accrual"
    PAYOUT = "PAYOUT", "provider's share of a fee"
    ADJUSTMENT = "ADJUSTMENT", "adjustment"
    REVERSAL = "REVERSAL", "reversal"


class LedgerRequest(models.Model):
    """A request under an idempotency key, with its outcome. Kept for ever, refusals too."""

    pk = models.CompositePrimaryKey("scope", "idempotency_key")
    scope = models.CharField(max_length=80)
    idempotency_key = models.CharField(max_length=200)
    fingerprint = models.BinaryField()
    outcome = models.JSONField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "ledger_requests"


class LedgerTransfer(models.Model):
    """A movement of money from one wallet to another."""

    id = models.UUIDField(primary_key=True, editable=False)
    kind = models.CharField(max_length=16, choices=TransferKind)
    currency = models.CharField(max_length=3)
    debit = models.ForeignKey(Wallet, models.PROTECT, related_name="+", help_text="The wallet whose balance falls.")
    credit = models.ForeignKey(Wallet, models.PROTECT, related_name="+", help_text="The wallet whose balance rises.")
    amount = fields.amount()
    note = models.CharField(max_length=500, blank=True)
    scope = models.CharField(max_length=80)
    idempotency_key = models.CharField(max_length=200)
    claim = models.ForeignKey("FeeClaim", models.PROTECT, related_name="transfers", null=True, db_index=False)
    reverses = models.OneToOneField("self", models.PROTECT, related_name="reversed_by", null=True)
    moved_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", null=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "ledger_transfers"
        constraints = [
            models.UniqueConstraint(fields=["scope", "idempotency_key"], name="transfer_is_asked_for_once"),
            models.UniqueConstraint(fields=["claim"], condition=Q(kind="ACCRUAL"), name="claim_is_accrued_once"),
            models.UniqueConstraint(fields=["claim"], condition=Q(kind="PAYOUT"), name="claim_is_paid_out_once"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_amount_is_positive"),
            models.CheckConstraint(condition=~Q(debit=F("credit")), name="transfer_is_between_two_wallets"),
            models.CheckConstraint(condition=Q(kind__in=list(TransferKind.values)), name="transfer_kind_is_known"),
            models.CheckConstraint(
                condition=Q(kind="REVERSAL") | Q(reverses__isnull=True), name="transfer_that_reverses_is_a_reversal"
            ),
        ]
        indexes = [
            models.Index(fields=["-at", "-id"], name="ledger_transfers_at_idx"),
            models.Index(fields=["claim"], condition=Q(claim__isnull=False), name="ledger_transfers_claim_idx"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {money.plain(self.amount)} {self.currency}"


class LedgerEntry(models.Model):
    """One side of a transfer, chained by version to the wallet's entry before."""

    pk = models.CompositePrimaryKey("wallet_id", "version")
    wallet = models.ForeignKey(Wallet, models.PROTECT, related_name="entries", db_index=False, db_constraint=False)
    version = models.PositiveBigIntegerField()
    prev_version = models.PositiveBigIntegerField(null=True)
    prev_balance = fields.amount(null=True)
    transfer = models.ForeignKey(
        LedgerTransfer, models.PROTECT, related_name="entries", null=True, db_index=False, db_constraint=False
    )
    side = models.SmallIntegerField(help_text="1 credits, −1 debits.")
    amount = fields.amount()
    balance_after = fields.amount()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "ledger_entries"
        verbose_name_plural = "ledger entries"

    def __str__(self) -> str:
        return f"{self.wallet_id} v{self.version}"

    @property
    def change(self) -> Decimal:
        signed: Decimal = self.side * self.amount
        return signed


class WalletHold(models.Model):
    """Money reserved for one purpose. A hold is posted, voided or expires, once."""

    class State(models.TextChoices):
        PENDING = "PENDING", "pending"
        POSTED = "POSTED", "posted"
        VOIDED = "VOIDED", "voided"
        EXPIRED = "EXPIRED", "expired"

    id = models.UUIDField(primary_key=True, editable=False)
    wallet = models.ForeignKey(Wallet, models.PROTECT, related_name="holds")
    amount = fields.amount()
    purpose = models.CharField(max_length=80)
    state = models.CharField(max_length=7, choices=State, default=State.PENDING)
    transfer = models.OneToOneField(LedgerTransfer, models.PROTECT, related_name="hold", null=True)
    posted = fields.amount(null=True, help_text="The amount spent; the rest was released.")
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "wallet_holds"
        constraints = [
            models.UniqueConstraint(
                fields=["wallet", "purpose"], condition=Q(state="PENDING"), name="hold_is_the_only_one_of_its_purpose"
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="hold_amount_is_positive"),
            models.CheckConstraint(
                condition=Q(state="PENDING", transfer__isnull=True, posted__isnull=True, resolved_at__isnull=True)
                | Q(
                    state="POSTED", transfer__isnull=False, posted__isnull=False, posted__gt=0,
                    posted__lte=F("amount"), resolved_at__isnull=False,
                )
                | Q(
                    state__in=["VOIDED", "EXPIRED"], transfer__isnull=True, posted__isnull=True,
                    resolved_at__isnull=False,
                ),
                name="hold_is_resolved_whole",
            ),
        ]  # fmt: skip
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(state="PENDING"), name="wallet_holds_expiry_idx"),
        ]

    def __str__(self) -> str:
        return f"{self.purpose} {self.state.lower()}"


class LedgerHalt(models.Model):
    """A halt of the ledger after a failed check of the books. Until its end is set, no money moves."""

    at = models.DateTimeField(db_default=Now())
    why = models.TextField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ledger_halts"

    def __str__(self) -> str:
        return self.why
