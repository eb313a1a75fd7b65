"""Strategies, subscriptions, and the terms under which a subscription copies."""

import secrets
from datetime import timedelta
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from accounts.models import AccountSymbol, TradingAccount, User
from core.fields import SealedField, amount


class Strategy(models.Model):
    """What a provider publishes from one trading account, as a stream of consecutively numbered events."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "active"
        CLOSE_ONLY = "CLOSE_ONLY", "close-only: opens are refused, closes always pass"

    class FrozenFor(models.TextChoices):
        HAND = "HAND", "by staff"
        TRUST = "TRUST", "by the provider's trust score"

    name = models.SlugField(max_length=64, unique=True)
    title = models.CharField(max_length=120, blank=True)
    owner = models.ForeignKey(User, models.PROTECT, related_name="strategies")
    account = models.OneToOneField(TradingAccount, models.PROTECT, related_name="strategy")
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE, editable=False)
    frozen_for = models.CharField(
        max_length=8, choices=FrozenFor, blank=True, default="", db_default="", editable=False
    )
    takes_subscribers = models.BooleanField(default=True, db_default=True, editable=False)
    last_seq = models.PositiveBigIntegerField(
        default=0, editable=False, help_text="The number of the stream's latest event, assigned in its transaction."
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "strategies"
        verbose_name_plural = "strategies"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=["ACTIVE", "CLOSE_ONLY"]), name="strategy_status_is_known"
            ),
            models.CheckConstraint(
                condition=models.Q(status="CLOSE_ONLY") & ~models.Q(frozen_for="")
                | models.Q(status="ACTIVE", frozen_for=""),
                name="strategy_is_frozen_for_something",
            ),
        ]

    def __str__(self) -> str:
        return self.name


def new_sub_id() -> str:
    return f"s-{secrets.token_hex(6)}"


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    def live(self) -> "SubscriptionQuerySet":
        """Subscriptions that still receive the stream. Paused ones do, because they must see closes."""
        return self.exclude(status=Subscription.Status.ENDED)

    def lock(self) -> "SubscriptionQuerySet":
        """Lock against concurrent changes, so that new terms or secrets are derived from the latest ones."""
        return self.select_for_update(no_key=True, of=("self",))


class Subscription(models.Model):
    """A trading account's subscription to a strategy, whose trades it copies."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "active"
        PAUSED = "PAUSED", "paused: nothing new is opened, closes pass"
        ENDED = "ENDED", "ended"

    class PausedFor(models.TextChoices):
        HAND = "HAND", "by staff"
        OWNER = "OWNER", "by the subscriber"
        TERMS = "TERMS", "until its fees are accepted"
        UNPAID = "UNPAID", "for an unpaid fee"
        TRUST = "TRUST", "by the bot's trust score"
        DRAWDOWN = "DRAWDOWN", "by the drawdown stop"

    sub_id = models.CharField(max_length=64, unique=True, default=new_sub_id, editable=False)
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="subscriptions")
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="subscriptions")
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE, editable=False)
    paused_for = models.CharField(
        max_length=8, choices=PausedFor, blank=True, default="", db_default="", editable=False
    )
    sealed_packet_secret = SealedField(binding=lambda row: row.binding(row.packet_generation))
    packet_generation = models.PositiveIntegerField("signal secret generation", default=1, editable=False)
    sealed_next_secret = SealedField(null=True, binding=lambda row: row.binding(row.next_generation))
    next_generation = models.PositiveIntegerField("next signal secret generation", null=True, editable=False)
    next_secret_at = models.DateTimeField(
        null=True, editable=False, help_text="When the next secret comes into use even if its bot has not confirmed it."
    )
    peak_equity = amount(
        null=True, editable=False, help_text="The account's highest equity since copying last started or resumed."
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = SubscriptionQuerySet.as_manager()

    BINDING: ClassVar[str] = "packet|{sub_id}|{generation}"

    class Meta:
        db_table = "subscriptions"
        constraints = [
            models.UniqueConstraint(fields=["strategy", "account"], name="subscription_is_unique"),
            models.CheckConstraint(
                condition=models.Q(status__in=["ACTIVE", "PAUSED", "ENDED"]), name="subscription_status_is_known"
            ),
            models.CheckConstraint(
                condition=models.Q(status="PAUSED") & ~models.Q(paused_for="")
                | ~models.Q(status="PAUSED") & models.Q(paused_for=""),
                name="subscription_is_paused_for_something",
            ),
            models.CheckConstraint(
                condition=models.Q(sealed_next_secret=None, next_generation=None, next_secret_at=None)
                | models.Q(
                    sealed_next_secret__isnull=False,
                    next_generation__gt=models.F("packet_generation"),
                    next_secret_at__isnull=False,
                ),
                name="subscription_next_secret_is_whole",
            ),
            models.CheckConstraint(
                condition=models.Q(sub_id__regex=r"^[A-Za-z0-9-]{1,64}$"), name="subscription_id_is_well_formed"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} follows {self.strategy}"

    def binding(self, generation: int) -> str:
        """The associated data that binds a sealed packet secret to this row and a generation."""
        return self.BINDING.format(sub_id=self.sub_id, generation=generation)


class TermsQuerySet(models.QuerySet["Terms"]):
    def latest_of_each(self) -> "TermsQuerySet":
        """The latest terms of every live subscription."""
        last = Terms.objects.filter(subscription=models.OuterRef("pk")).order_by("-pk").values("pk")[:1]
        live = Subscription.objects.live().annotate(last=models.Subquery(last)).values("last")
        return self.filter(pk__in=live).select_related("subscription__account", "subscription__strategy__account")

    def with_changing_facts(self) -> "TermsQuerySet":
        """Terms whose stored facts may be outdated: those that depend on equity, and others where a contract size of
        one of the accounts changed since they were made.
        """
        follows = models.Q(account=models.OuterRef("subscription__account"))
        leads = models.Q(account=models.OuterRef("subscription__strategy__account"))
        made_at = models.OuterRef("made_at") - timedelta(minutes=1)  # a report may have been committed meanwhile
        changed = AccountSymbol.objects.filter(follows | leads, changed_at__gt=made_at)
        by_equity = models.Q(mode__in=[Terms.Mode.EQUITY, Terms.Mode.RISK])
        return self.filter(by_equity | models.Q(models.Exists(changed), mode=Terms.Mode.MULTIPLIER))

    def of_account(self, account_id: int) -> "TermsQuerySet":
        """The terms of this account's subscriptions, and of the subscriptions to its strategy."""
        follows, leads = (
            models.Q(subscription__account=account_id),
            models.Q(subscription__strategy__account=account_id),
        )
        return self.filter(follows | leads)


class Terms(models.Model):
    """How a subscription copies the trades that are opened from `since` on. Rows are added and never changed.

    So the plan of a copy does not depend on the time at which it is calculated: it follows from the trade and from the
    terms that were in force when the trade was opened.
    """

    class Mode(models.TextChoices):
        MULTIPLIER = "MULTIPLIER", "the provider's lots times a multiplier"
        FIXED = "FIXED", "the same lots each time"
        EQUITY = "EQUITY", "in proportion to both accounts' equity"
        RISK = "RISK", "so that a hit stop loss costs a share of the equity"

    subscription = models.ForeignKey(Subscription, models.PROTECT, related_name="terms", editable=False)
    since = models.DateTimeField(editable=False)
    mode = models.CharField(max_length=10, choices=Mode, default=Mode.MULTIPLIER)
    multiplier = amount(
        default=1, help_text="Lots for each lot of the provider's; by equity: a factor on the proportion."
    )
    fixed_lots = amount(null=True, blank=True)
    risk_pct = amount("risk, %", null=True, blank=True, help_text="Share of the equity that is lost at the stop loss.")
    risk_default_stop_bps = amount(
        "default stop, bps", null=True, blank=True,
        help_text="Distance from the open price that sizes a trade opened without a stop loss. Empty: the copy waits "
        "some seconds for the first stop loss.",
    )  # fmt: skip
    min_volume = amount("smallest volume", null=True, blank=True, help_text="In lots.")
    max_volume = amount(
        "largest volume",
        null=True,
        blank=True,
        help_text="In lots. Larger copies are reduced to it. Empty: 100, or what the other settings ask for.",
    )
    raises_to_min = models.BooleanField(
        "raise to the smallest",
        default=False,
        help_text="Open smaller copies with the smallest volume. Otherwise they are not opened.",
    )
    reverse = models.BooleanField(
        default=False, help_text="Buy when the provider sells, with stop loss and take profit exchanged."
    )
    symbols = ArrayField(
        models.CharField(max_length=32), default=list, blank=True,
        help_text="The only symbols to copy, separated by commas, as the provider spells them. Empty: all.",
    )  # fmt: skip
    symbol_map = models.JSONField(
        default=dict, blank=True, help_text='The provider\'s symbols and yours: {"XAUUSD": "GOLD"}.'
    )
    symbol_factors = models.JSONField(
        default=dict, db_default=models.Value({}, models.JSONField()), blank=True,
        help_text='Factors on the lots by the provider\'s symbol, on top of all else: {"US30": "0.5"}.',
    )  # fmt: skip
    max_open_trades = models.PositiveIntegerField(null=True, blank=True)
    max_slippage_bps = amount(
        "largest slippage, bps",
        null=True,
        blank=True,
        help_text="Do not open a copy if the price is worse than the provider's by more than this.",
    )
    max_drawdown_pct = amount(
        "drawdown stop, %",
        null=True,
        blank=True,
        help_text="Stop copying when the equity has fallen this far below its highest.",
    )
    closes_on_drawdown = models.BooleanField(
        "close all at the stop",
        default=False,
        help_text="Close all copies at the drawdown stop. Otherwise open copies keep following the provider.",
    )
    equity = amount(null=True, editable=False, help_text="The copier's equity when these terms were made.")
    master_equity = amount("provider's equity", null=True, editable=False)
    facts = models.JSONField(
        default=dict, db_default=models.Value({}, models.JSONField()), editable=False,
        help_text="Currencies, rates and contract sizes when these terms were made.",
    )  # fmt: skip
    made_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = TermsQuerySet.as_manager()

    class Meta:
        db_table = "subscription_terms"
        verbose_name = verbose_name_plural = "terms"
        indexes = [
            models.Index(fields=["subscription", "-id"], name="terms_subscription_idx"),
            models.Index(fields=["subscription", "since", "id"], name="terms_since_idx"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(mode="MULTIPLIER")
                | models.Q(mode="EQUITY", max_volume__isnull=False)
                | models.Q(mode="FIXED", fixed_lots__isnull=False)
                | models.Q(mode="RISK", risk_pct__isnull=False, reverse=False, max_volume__isnull=False),
                name="terms_have_what_their_mode_needs",
            ),
            models.CheckConstraint(
                condition=models.Q(multiplier__gt=0)
                & (models.Q(fixed_lots=None) | models.Q(fixed_lots__gt=0))
                & (models.Q(risk_pct=None) | models.Q(risk_pct__gt=0, risk_pct__lte=100))
                & (models.Q(min_volume=None) | models.Q(min_volume__gt=0))
                & (models.Q(max_volume=None) | models.Q(max_volume__gt=0))
                & (models.Q(max_slippage_bps=None) | models.Q(max_slippage_bps__gte=0))
                & (models.Q(max_drawdown_pct=None) | models.Q(max_drawdown_pct__gt=0, max_drawdown_pct__lt=100)),
                name="terms_are_within_reason",
            ),
            models.CheckConstraint(
                condition=models.Q(risk_default_stop_bps=None)
                | models.Q(risk_default_stop_bps__gt=0, risk_default_stop_bps__lt=10_000),
                name="terms_default_stop_is_within_the_price",
            ),
            models.CheckConstraint(
                condition=models.Q(min_volume=None)
                | models.Q(max_volume=None)
                | models.Q(min_volume__lte=models.F("max_volume")),
                name="terms_smallest_is_not_above_largest",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subscription_id}, {self.get_mode_display()}"
