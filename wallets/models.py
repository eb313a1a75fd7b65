"""Wallets and fees, on a double-entry ledger. The database enforces its rules (wallets/sql, wallets/migrations).

Every transfer debits one wallet and credits another by the same amount. The entries of a wallet are chained by version,
and its balance is the balance after its last entry: no code writes a balance directly.
"""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from core import fields, money
from strategies.models import Strategy, Subscription

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


# --- fees


class FeeTerms(models.Model):
    """The fees of a strategy. Terms never change: new ones are added, and bind each subscriber who accepts them."""

    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="fee_terms")
    performance_bps = models.PositiveIntegerField(
        "performance fee, bps", default=2000, help_text="Of new profit above the high-water mark: 2000 is 20 %."
    )
    subscription_fee = fields.amount(default=Decimal(0), help_text="Per calendar month; part of a month by the day.")
    platform_bps = models.PositiveIntegerField("platform's share, bps", default=2500, help_text="Of each fee.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "fee_terms"
        verbose_name_plural = "fee terms"
        constraints = [
            models.CheckConstraint(
                condition=Q(performance_bps__lte=5000, platform_bps__lte=10_000, subscription_fee__gte=0),
                name="fee_terms_are_within_bounds",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.strategy}: {self.percent:f} % and {money.plain(self.subscription_fee)} a month"

    @property
    def percent(self) -> Decimal:
        return Decimal(self.performance_bps).scaleb(-2).normalize()

    @property
    def is_free(self) -> bool:
        return not self.performance_bps and not self.subscription_fee

    def costs_more_than(self, other: "FeeTerms | None") -> bool:
        """Whether either fee is higher than under the other terms. None: no fees."""
        rate, monthly = (other.performance_bps, other.subscription_fee) if other else (0, Decimal(0))
        return self.performance_bps > rate or self.subscription_fee > monthly


class FeeAcceptance(models.Model):
    """A subscriber accepted these terms for all accounts in this currency. The database accepts the latest terms only.

    Never changed and never deleted: fees are charged because of this row.
    """

    subscriber = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="fee_acceptances")
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="fee_acceptances")
    currency = models.CharField(max_length=3)
    terms = models.ForeignKey(FeeTerms, models.PROTECT, related_name="acceptances")
    accepted_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "fee_acceptances"
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber", "strategy", "currency", "terms"], name="fee_terms_are_accepted_once"
            ),
            models.CheckConstraint(condition=Q(currency__regex=CURRENCY), name="fee_acceptance_has_a_currency"),
        ]

    def __str__(self) -> str:
        return f"{self.subscriber} accepted {self.terms} in {self.currency}"


class FeeNoticeQuerySet(models.QuerySet["FeeNotice"]):
    def open(self) -> "FeeNoticeQuerySet":
        return self.filter(closed_at=None)

    def lock(self) -> "FeeNoticeQuerySet":
        """In the order of their ids, so that no two transactions wait for each other."""
        return self.select_for_update(no_key=True, of=("self",)).order_by("pk")


class FeeNotice(models.Model):
    """New terms, shown to somebody who follows already. What was agreed before holds until they are accepted.

    Where they cost more and nobody accepts them until `ends_at`, the subscription ends. The row is the queue.
    """

    class Outcome(models.TextChoices):
        ACCEPTED = "ACCEPTED", "accepted"
        STOPPED = "STOPPED", "not accepted: the subscription was ended"
        LAPSED = "LAPSED", "needs no answer any more"

    subscription = models.ForeignKey(Subscription, models.PROTECT, related_name="fee_notices")
    terms = models.ForeignKey(FeeTerms, models.PROTECT, related_name="notices")
    given_at = models.DateTimeField()
    ends_at = models.DateTimeField(
        null=True, help_text="Empty: the terms cost no more than the present ones, and no subscription ends."
    )
    declined_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=8, choices=Outcome, blank=True, default="")

    objects = FeeNoticeQuerySet.as_manager()

    class Meta:
        db_table = "fee_notices"
        constraints = [
            models.UniqueConstraint(
                fields=["subscription"], condition=Q(closed_at=None), name="fee_notice_is_the_only_open_one"
            ),
            models.CheckConstraint(
                condition=Q(closed_at=None, outcome="")
                | Q(closed_at__isnull=False, outcome__in=["ACCEPTED", "STOPPED", "LAPSED"]),
                name="fee_notice_is_closed_whole",
            ),
            models.CheckConstraint(
                condition=Q(ends_at=None) | Q(ends_at__gt=F("given_at")), name="fee_notice_gives_time"
            ),
            models.CheckConstraint(
                condition=~Q(outcome="STOPPED") | Q(ends_at__isnull=False, closed_at__gte=F("ends_at")),
                name="fee_notice_stops_nothing_before_its_end",
            ),
        ]
        indexes = [models.Index(fields=["ends_at"], condition=Q(closed_at=None), name="fee_notices_end_idx")]

    def __str__(self) -> str:
        return f"{self.terms} to {self.subscription}"


class FeeAgreementQuerySet(models.QuerySet["FeeAgreement"]):
    def lock(self) -> "FeeAgreementQuerySet":
        return self.select_for_update(no_key=True, of=("self",))


class FeeAgreement(models.Model):
    """What one subscriber pays for one strategy. It outlives subscriptions: the high-water mark survives a break.

    Terms bind through their acceptance, which keys tie to these very terms. Where `acceptance` is empty nothing is
    charged: such agreements were made by the desk, before 0.2.0.

    `due_at` is the end of the open period. The row is the queue: the sweep settles the agreements that are due.
    """

    subscriber = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="fee_agreements")
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="fee_agreements")
    currency = models.CharField(max_length=3)
    terms = models.ForeignKey(FeeTerms, models.PROTECT, related_name="+", help_text="The terms of the open period.")
    next_terms = models.ForeignKey(
        FeeTerms, models.PROTECT, related_name="+", help_text="The terms from the next period on."
    )
    acceptance = models.ForeignKey(
        FeeAcceptance, models.PROTECT, related_name="+", null=True, help_text="Of the terms of the open period."
    )
    next_acceptance = models.ForeignKey(
        FeeAcceptance, models.PROTECT, related_name="+", null=True, help_text="Of the terms from the next period on."
    )
    started_at = models.DateTimeField()
    due_at = models.DateTimeField(db_index=True)
    postponed = models.CharField(
        max_length=200, blank=True, help_text="Why a period that has ended is not settled yet."
    )

    objects = FeeAgreementQuerySet.as_manager()

    class Meta:
        db_table = "fee_agreements"
        constraints = [
            models.UniqueConstraint(fields=["subscriber", "strategy", "currency"], name="fee_agreement_is_for_ever"),
        ]

    def __str__(self) -> str:
        return f"{self.subscriber} for {self.strategy}"

    @property
    def binding_terms(self) -> FeeTerms | None:
        """The terms of the open period; None where they were not accepted: nothing is charged."""
        return self.terms if self.acceptance_id else None

    @property
    def next_binding_terms(self) -> FeeTerms | None:
        return self.next_terms if self.next_acceptance_id else None

    @property
    def rate_bps(self) -> int:
        """The performance fee of the open period."""
        return self.terms.performance_bps if self.acceptance_id else 0


class Settlement(models.Model):
    """A settled period: the high-water mark before and after, and the fee. A chain, so no period is settled twice."""

    class Rule(models.IntegerChoices):
        REPORTED = 1, "by the profits that bots reported"  # before 0.2.0
        CALCULATED = 2, "by the provider's trades and the terms"

    pk = models.CompositePrimaryKey("agreement_id", "period_no")
    agreement = models.ForeignKey(FeeAgreement, models.PROTECT, related_name="settlements", db_index=False)
    period_no = models.PositiveIntegerField()
    prev_no = models.PositiveIntegerField(null=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    closed_result = fields.amount(help_text="Realised P/L of all closes since the agreement began.")
    floating_result = fields.amount(help_text="Floating P/L of the positions open at the end of the period.")
    cumulative_pnl = fields.amount(db_column="base", help_text="Realised plus floating: the cumulative net P/L.")
    high_water_mark_before = fields.amount(null=True, db_column="mark_before")
    mark_corrected = fields.amount(
        null=True,
        help_text="The mark before as corrections of trades lowered it, where they did.",
    )
    high_water_mark = fields.amount(db_column="mark", help_text="The highest cumulative P/L so far.")
    rate_bps = models.PositiveIntegerField()
    fee = fields.amount()
    trades = models.PositiveIntegerField(default=0, help_text="The number of trades in the cumulative P/L.")
    mark_prices = models.JSONField(
        default=list, db_column="marks", help_text="By reports: the prices at which open positions were valued."
    )
    rule = models.PositiveSmallIntegerField(choices=Rule, default=Rule.CALCULATED, db_default=Rule.REPORTED)
    lines = models.JSONField(
        default=list, db_default=models.Value([], models.JSONField()),
        help_text="What each trade counts that no earlier settlement counted, with its prices.",
    )  # fmt: skip
    corrections = models.JSONField(default=list, help_text="The corrections of trades that it takes into account.")
    settled_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "settlements"

    def __str__(self) -> str:
        return f"{self.agreement_id}/{self.period_no}"

    @property
    def mark_that_counts(self) -> Decimal:
        """The high-water mark above which the period was charged."""
        mark: Decimal | None = self.mark_corrected if self.mark_corrected is not None else self.high_water_mark_before
        return mark or Decimal(0)


class FeeRefundQuerySet(models.QuerySet["FeeRefund"]):
    def lock(self) -> "FeeRefundQuerySet":
        return self.select_for_update(no_key=True, of=("self",))


class FeeRefund(models.Model):
    """Fees given back by a settlement, because trades were corrected; the provider's share is recovered in parts."""

    agreement = models.ForeignKey(FeeAgreement, models.PROTECT, related_name="refunds", db_index=False)
    period_no = models.PositiveIntegerField(help_text="Of the settlement that gave it back.")
    payee = models.ForeignKey(Wallet, models.PROTECT, related_name="+")
    payer = models.ForeignKey(Wallet, models.PROTECT, related_name="+")
    amount = fields.amount()
    provider_share = fields.amount()
    recovered = fields.amount(default=Decimal(0), help_text="Of the provider's share.")
    created_at = models.DateTimeField(db_default=Now())

    objects = FeeRefundQuerySet.as_manager()

    class Meta:
        db_table = "fee_refunds"
        constraints = [
            models.UniqueConstraint(fields=["agreement", "period_no"], name="fee_refund_is_one_a_settlement"),
            models.CheckConstraint(
                condition=Q(
                    amount__gt=0, provider_share__gte=0, provider_share__lte=F("amount"), recovered__gte=0,
                    recovered__lte=F("provider_share"),
                ),
                name="fee_refund_amounts_are_within_it",
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{money.plain(self.amount)} of {self.agreement_id}/{self.period_no}"


class FeeClaim(models.Model):
    """A fee that is owed: accrued once, collected in one or more parts, then paid out to the provider."""

    class Kind(models.TextChoices):
        PERFORMANCE = "FEE_PERFORMANCE", "performance fee"
        SUBSCRIPTION = "FEE_SUBSCRIPTION", "subscription fee"

    agreement = models.ForeignKey(FeeAgreement, models.PROTECT, related_name="claims", db_index=False)
    kind = models.CharField(max_length=16, choices=Kind)
    period_no = models.PositiveIntegerField(help_text="Of a subscription fee: year and month, as in 202611.")
    payer = models.ForeignKey(Wallet, models.PROTECT, related_name="+")
    payee = models.ForeignKey(Wallet, models.PROTECT, related_name="+")
    amount = fields.amount()
    provider_share = fields.amount()
    collected = fields.amount(default=Decimal(0))
    detail = models.JSONField(default=dict, help_text="How the fee was calculated.")
    created_at = models.DateTimeField(db_default=Now())
    collected_at = models.DateTimeField(null=True)
    paid_out_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "fee_claims"
        constraints = [
            models.UniqueConstraint(fields=["agreement", "kind", "period_no"], name="fee_is_claimed_once_a_period"),
            models.CheckConstraint(
                condition=Q(amount__gt=0, provider_share__gte=0, provider_share__lte=F("amount"))
                & Q(collected__gte=0, collected__lte=F("amount")),
                name="fee_claim_amounts_are_within_it",
            ),
            models.CheckConstraint(
                condition=Q(collected_at__isnull=True, collected__lt=F("amount"), paid_out_at__isnull=True)
                | Q(collected_at__isnull=False, collected=F("amount")),
                name="fee_claim_is_collected_before_it_is_paid_out",
            ),
        ]
        indexes = [
            models.Index(fields=["payer"], condition=Q(collected_at__isnull=True), name="fee_claims_owed_idx"),
            models.Index(
                fields=["collected_at"],
                condition=Q(collected_at__isnull=False, paid_out_at__isnull=True),
                name="fee_claims_payable_idx",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.agreement_id}/{self.period_no}"

    @property
    def description(self) -> str:
        name = self.agreement.strategy.name
        if self.kind == FeeClaim.Kind.SUBSCRIPTION:
            return f"{name}, {self.period_no // 100}-{self.period_no % 100:02}"
        return f"{name}, period {self.period_no}"

    @property
    def owed(self) -> Decimal:
        owed: Decimal = self.amount - self.collected
        return owed


class LedgerHalt(models.Model):
    """A halt of the ledger after a failed check of the books. Until its end is set, no money moves."""

    at = models.DateTimeField(db_default=Now())
    why = models.TextField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ledger_halts"

    def __str__(self) -> str:
        return self.why
