"""Who publishes, and who copies."""

import secrets
from typing import ClassVar

from django.db import models
from django.db.models.functions import Now

from accounts.models import TradingAccount, User


class Strategy(models.Model):
    """What a provider publishes from one trading account, as a stream of consecutively numbered events."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "active"
        CLOSE_ONLY = "CLOSE_ONLY", "close-only: opens are refused, closes always pass"

    class FrozenFor(models.TextChoices):
        HAND = "HAND", "by hand"
        TRUST = "TRUST", "for its flow"

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
        default=0, editable=False, help_text="The stream's latest number, given out in the transaction of its event."
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
        """Those who still see the stream: a paused one must see its closes."""
        return self.exclude(status=Subscription.Status.ENDED)


class Subscription(models.Model):
    """A trading account that copies a strategy."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "active"
        PAUSED = "PAUSED", "paused: nothing new is opened, closes pass"
        ENDED = "ENDED", "ended"

    class PausedFor(models.TextChoices):
        HAND = "HAND", "by hand"
        UNPAID = "UNPAID", "for an unpaid fee"
        TRUST = "TRUST", "for its bot's behaviour"

    sub_id = models.CharField(max_length=64, unique=True, default=new_sub_id, editable=False)
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="subscriptions")
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="subscriptions")
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE, editable=False)
    paused_for = models.CharField(
        max_length=8, choices=PausedFor, blank=True, default="", db_default="", editable=False
    )
    multiplier = models.DecimalField(
        max_digits=20, decimal_places=8, default=1, help_text="The copy's volume for each lot of the master's."
    )
    sealed_packet_secret = models.BinaryField(editable=False)
    packet_generation = models.PositiveIntegerField(default=1, editable=False)
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
            models.CheckConstraint(condition=models.Q(multiplier__gt=0), name="subscription_multiplier_is_positive"),
            models.CheckConstraint(
                condition=models.Q(sub_id__regex=r"^[A-Za-z0-9-]{1,64}$"), name="subscription_id_is_well_formed"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} follows {self.strategy}"
