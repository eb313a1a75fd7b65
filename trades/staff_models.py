"""What staff do to trades: order the close of a copy, ask a colleague, correct a closed trade's figures."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from accounts.models import TradingAccount
from core.fields import amount
from strategies.models import Strategy


class OrderedClose(models.Model):
    """Staff's order that a copy be closed. From then on the copier's target for it is zero; the copier reports the
    close with the broker's price. Until then the copy is open, and its close is overdue."""

    copy = models.OneToOneField(
        "trades.Trade", models.PROTECT, primary_key=True, related_name="ordered_close", db_constraint=False
    )
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+")
    master_trade = models.UUIDField(db_index=True)
    note = models.CharField(max_length=500)
    ordered_by: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+"
    )
    ordered_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "ordered_closes"

    def __str__(self) -> str:
        return str(self.copy_id)


class TradeRequest(models.Model):
    """A close or a correction by staff that a second person approves or rejects."""

    class Kind(models.TextChoices):
        CLOSE = "CLOSE", "force close"
        CORRECTION = "CORRECTION", "correction"

    class State(models.TextChoices):
        PENDING = "PENDING", "awaiting approval"
        DONE = "DONE", "done"
        REJECTED = "REJECTED", "rejected"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    trade: "models.ForeignKey[Any, Any]" = models.ForeignKey("trades.Trade", models.PROTECT, related_name="requests")
    close_price = amount()
    profit = amount(help_text="Of the final close, or of the whole trade in a correction.")
    reason = models.CharField(max_length=500)
    why_second = models.CharField("why a second person", max_length=200)
    requested_by: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+"
    )
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    decided_by: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", null=True
    )
    decided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "trade_requests"
        verbose_name = "request on a trade"
        verbose_name_plural = "requests on trades"
        constraints = [
            models.UniqueConstraint(
                fields=["trade", "kind"], condition=models.Q(state="PENDING"), name="trade_request_is_the_only_pending"
            ),
            models.CheckConstraint(
                condition=models.Q(state="PENDING", decided_by__isnull=True, decided_at__isnull=True)
                | models.Q(state__in=["DONE", "REJECTED"], decided_by__isnull=False, decided_at__isnull=False),
                name="trade_request_is_decided_whole",
            ),
            models.CheckConstraint(
                condition=~models.Q(state="DONE", decided_by=models.F("requested_by")),
                name="trade_request_has_two_people",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.trade_id}"


class TradeCorrection(models.Model):
    """New figures of a closed trade, beside the first ones. Two people made it; the latest one counts."""

    trade: "models.ForeignKey[Any, Any]" = models.ForeignKey("trades.Trade", models.PROTECT, related_name="corrections")
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+")
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="+", null=True)
    close_price = amount()
    profit = amount(help_text="Of the whole trade, partial closes included.")
    profit_before = amount(help_text="What counted until now.")
    reason = models.CharField(max_length=500)
    requested_by: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+"
    )
    approved_by: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+"
    )
    corrected_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        db_table = "trade_corrections"
        verbose_name = "correction of a trade"
        verbose_name_plural = "corrections of trades"
        constraints = [
            models.CheckConstraint(
                condition=~models.Q(requested_by=models.F("approved_by")), name="trade_correction_has_two_people"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.trade_id}: {self.profit}"

    @staticmethod
    def latest_of(trade_ids: Any) -> dict[Any, "TradeCorrection"]:
        """The correction that counts, by trade."""
        rows = TradeCorrection.objects.filter(trade_id__in=trade_ids).order_by("pk")
        return {row.trade_id: row for row in rows}
