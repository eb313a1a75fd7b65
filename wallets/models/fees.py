"""Fees: terms, who accepted them, what each subscriber pays, settled periods, claims and refunds."""

from decimal import Decimal

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from core import fields, money
from strategies.models import Strategy, Subscription
from wallets.models.ledger import CURRENCY, Wallet


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
