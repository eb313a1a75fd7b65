"""The hot table, the cold table, and the permanent identity row that keeps a trade in exactly one of them.

The database's keys and triggers enforce this; they are in the migrations. Functions in trades/sql do all writing.
"""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import TradingAccount
from core.fields import amount
from market.symbols import SYMBOL
from strategies.models import Strategy, Subscription
from trades.alarm_kinds import ADVICE, Advice
from trades.reasons import SkipReason
from trades.staff_models import OrderedClose as OrderedClose
from trades.staff_models import TradeCorrection as TradeCorrection
from trades.staff_models import TradeRequest as TradeRequest

TICKET = r"^[1-9][0-9]{0,18}$"


class Side(models.TextChoices):
    BUY = "BUY"
    SELL = "SELL"


class Reason(models.TextChoices):
    TP = "TP", "take profit"
    SL = "SL", "stop loss"
    MANUAL = "MANUAL", "manual"
    STOP_OUT = "STOP_OUT", "stop-out"
    RECONCILED = "RECONCILED", "found closed"
    STAFF = "STAFF", "by staff"


class Trade(models.Model):
    """A trade's identity: one row for ever. CLOSED is terminal; the database refuses any change of it."""

    class State(models.TextChoices):
        OPEN = "OPEN"
        CLOSED = "CLOSED"

    id = models.UUIDField(primary_key=True, editable=False)
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+", db_index=False)
    ticket_id = models.CharField(max_length=19)
    state = models.CharField(max_length=6, choices=State, default=State.OPEN)
    opening = models.BinaryField(null=True, help_text="Digest of the open as first reported. A tombstone has none.")

    class Meta:
        db_table = "trades"
        constraints = [
            models.UniqueConstraint(fields=["account", "ticket_id"], name="trade_is_unique_on_its_account"),
            models.CheckConstraint(condition=models.Q(state__in=["OPEN", "CLOSED"]), name="trade_state_is_known"),
            models.CheckConstraint(condition=models.Q(ticket_id__regex=TICKET), name="trade_ticket_is_well_formed"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Position(models.Model):
    """The columns that the hot and the cold table share."""

    # The composite foreign key to the identity row (in a migration's SQL) covers the account too.
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+", db_constraint=False, db_index=False)
    strategy: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        Strategy, models.PROTECT, related_name="+", db_index=False
    )
    ticket_id = models.CharField("ticket", max_length=19)
    master_ticket = models.CharField("provider's ticket", max_length=19)
    master_trade = models.UUIDField(
        null=True, help_text="The provider's trade that this trade copies. A provider's own trade has none."
    )
    seq = models.PositiveBigIntegerField(help_text="The number of the trade's latest event in its stream.")

    class Meta:
        abstract = True

    @property
    def is_copy(self) -> bool:
        return self.master_trade is not None


class ActiveTrade(Position):
    """An open trade. The only table that execution reads."""

    trade = models.OneToOneField(Trade, models.PROTECT, primary_key=True, related_name="active", db_constraint=False)
    symbol = models.CharField(max_length=32)
    type = models.CharField(max_length=4, choices=Side)
    volume = amount(help_text="Lots still open.")
    opened_volume = amount()
    open_price = amount()
    sl = amount("stop loss", null=True)
    opened_sl = amount("stop loss when opened", null=True)
    first_sl = amount(
        "first stop loss", null=True,
        help_text="Of a trade that was opened without one, if it came within five seconds. It never changes.",
    )  # fmt: skip
    tp = amount("take profit", null=True)
    status = models.CharField(max_length=4, default="OPEN")
    comment = models.CharField(max_length=128, blank=True)
    analysis = models.JSONField(null=True)
    reported_ms = models.BigIntegerField(
        null=True, db_column="told_ms", help_text="The provider's clock at the latest modification, in milliseconds."
    )
    opened_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "active_trades"
        constraints = [
            models.CheckConstraint(condition=models.Q(status="OPEN"), name="active_trade_status_is_open"),
            models.CheckConstraint(condition=models.Q(type__in=["BUY", "SELL"]), name="active_trade_type_is_known"),
            models.CheckConstraint(
                condition=models.Q(volume__gt=0, volume__lte=models.F("opened_volume")),
                name="active_trade_volume_is_positive_and_never_grows",
            ),
            models.CheckConstraint(
                condition=models.Q(sl__isnull=True) | models.Q(sl__gt=0), name="active_trade_sl_is_positive"
            ),
            models.CheckConstraint(
                condition=models.Q(tp__isnull=True) | models.Q(tp__gt=0), name="active_trade_tp_is_positive"
            ),
            models.CheckConstraint(condition=models.Q(symbol__regex=SYMBOL), name="active_trade_symbol_is_well_formed"),
        ]

    def __str__(self) -> str:
        return f"{self.ticket_id} {self.type} {self.symbol}"


class TradeReduction(models.Model):
    """A partial close. Each deal is recorded once and never changes."""

    trade = models.ForeignKey(Trade, models.PROTECT, related_name="reductions")
    deal_id = models.CharField(max_length=64)
    volume = amount(help_text="Lots that this deal closed.")
    remaining = amount(help_text="Lots that remained open afterwards.")
    close_price = amount()
    profit = amount()
    closed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "trade_reductions"
        constraints = [
            models.UniqueConstraint(fields=["trade", "deal_id"], name="trade_reduction_deal_is_told_once"),
            models.CheckConstraint(
                condition=models.Q(volume__gt=0, remaining__gte=0),
                name="trade_reduction_amounts_are_positive",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.trade_id} deal {self.deal_id}"


class TradeHistory(Position):
    """A closed trade, for reporting. A row is written once, and bots cannot read it."""

    class Kind(models.TextChoices):
        TRADE = "TRADE", "trade"
        TOMBSTONE = "TOMBSTONE", "tombstone"

    trade = models.OneToOneField(Trade, models.PROTECT, primary_key=True, related_name="history", db_constraint=False)
    strategy: "models.ForeignKey[Any, Any]" = models.ForeignKey(
        Strategy, models.PROTECT, related_name="+", null=True, db_index=False
    )
    kind = models.CharField(max_length=9, choices=Kind, default=Kind.TRADE)
    symbol = models.CharField(max_length=32, null=True)
    type = models.CharField(max_length=4, choices=Side, null=True)
    volume = amount(null=True, help_text="Lots opened.")
    closed_volume = amount(null=True, help_text="Lots closed by the final close.")
    open_price = amount(null=True)
    close_price = amount()
    sl = amount("stop loss", null=True)
    opened_sl = amount("stop loss when opened", null=True)
    first_sl = amount("first stop loss", null=True)
    tp = amount("take profit", null=True)
    profit = amount(null=True, help_text="Of the whole trade, partial closes included.")
    closing_profit = amount(null=True, help_text="Of the final close alone, as reported.")
    reason = models.CharField(max_length=10, choices=Reason)
    comment = models.CharField(max_length=128, blank=True)
    analysis = models.JSONField(null=True)
    opened_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(db_default=Now())
    status = models.CharField(max_length=6, default="CLOSED")

    class Meta:
        db_table = "trade_history"
        verbose_name = "closed trade"
        verbose_name_plural = "trade history"
        indexes = [
            models.Index(fields=["account", "-closed_at", "-trade"], name="history_account_closed_idx"),
            models.Index(fields=["strategy", "-closed_at", "-trade"], name="history_strategy_closed_idx"),
            models.Index(fields=["-closed_at", "-trade"], name="history_closed_idx"),
            models.Index(
                fields=["symbol", "trade"],
                condition=models.Q(master_trade=None, kind="TRADE"),
                name="history_masters_symbol_idx",
            ),
            models.Index(
                fields=["account", "master_trade"],
                condition=models.Q(master_trade__isnull=False),
                name="history_copies_idx",
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(status="CLOSED"), name="trade_history_status_is_closed"),
            models.CheckConstraint(condition=models.Q(reason__in=Reason.values), name="trade_history_reason_is_known"),
            models.CheckConstraint(
                condition=models.Q(
                    kind="TRADE",
                    symbol__isnull=False,
                    type__isnull=False,
                    volume__isnull=False,
                    closed_volume__isnull=False,
                    open_price__isnull=False,
                    profit__isnull=False,
                    closing_profit__isnull=False,
                    opened_at__isnull=False,
                )
                | models.Q(kind="TOMBSTONE", symbol__isnull=True, profit__isnull=True),
                name="trade_history_tells_all_but_of_a_tombstone",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.ticket_id} {self.type or 'tombstone'} {self.symbol or ''}"

    # The figures that count. They need the annotations of corrections.with_corrections().

    @property
    def is_corrected(self: Any) -> bool:
        return self.corrected_profit is not None

    @property
    def counted_close_price(self: Any) -> Decimal:
        price: Decimal = self.close_price if self.corrected_close_price is None else self.corrected_close_price
        return price

    @property
    def counted_profit(self: Any) -> Decimal | None:
        profit: Decimal | None = self.profit if self.corrected_profit is None else self.corrected_profit
        return profit


class CopyOrder(models.Model):
    """The result of one order at a copier's broker, as the copier reported it."""

    class Status(models.TextChoices):
        PENDING = "pending"
        EXECUTED = "executed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+")
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="+")
    seq = models.PositiveBigIntegerField()
    master_ticket = models.CharField("provider's ticket", max_length=19)
    symbol = models.CharField(max_length=32, blank=True)
    type = models.CharField(max_length=4, blank=True)
    status = models.CharField(max_length=9, choices=Status)
    requested_price = amount()
    executed_price = amount(null=True)
    volume = amount()
    latency_ms = models.PositiveIntegerField(null=True)
    failed_reason = models.CharField(max_length=256, blank=True)
    slippage_points = amount(null=True)
    slippage_bps = amount(null=True)
    master_trade = models.UUIDField(null=True)
    ticket_id = models.CharField("ticket", max_length=19, blank=True, db_default="")
    heard_at = models.DateTimeField(null=True, help_text="When the copier received the trade, by the desk's clock.")
    sent_at = models.DateTimeField(null=True, help_text="When the copier sent the order.")
    filled_at = models.DateTimeField(null=True, help_text="When the broker answered.")
    reported_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "copy_orders"
        indexes = [
            models.Index(fields=["account", "master_trade"], name="copy_order_account_trade_idx"),
            models.Index(
                fields=["account", "reported_at"],
                condition=models.Q(status="failed"),
                name="copy_order_failed_idx",
            ),
            models.Index(
                fields=["strategy", "-id"], condition=models.Q(status="executed"), name="copy_order_executed_idx"
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=["pending", "executed", "failed", "cancelled"]),
                name="copy_order_status_is_known",
            ),
            models.CheckConstraint(
                condition=~models.Q(status="executed") | models.Q(executed_price__isnull=False),
                name="copy_order_executed_has_a_price",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} {self.master_ticket} {self.status}"


class CopySkip(models.Model):
    """A provider's trade that a subscription did not copy, and the reason. The first reported reason stays."""

    subscription = models.ForeignKey(Subscription, models.PROTECT, related_name="skips", db_index=False)
    strategy: "models.ForeignKey[Any, Any]" = models.ForeignKey(Strategy, models.PROTECT, related_name="+")
    master_trade = models.UUIDField()
    reason = models.CharField(max_length=18, choices=SkipReason)
    detail = models.CharField(max_length=256, blank=True)
    reported_at = models.DateTimeField(db_default=Now(), db_column="told_at")

    class Meta:
        db_table = "copy_skips"
        verbose_name = "trade not copied"
        verbose_name_plural = "trades not copied"
        constraints = [
            models.UniqueConstraint(fields=["subscription", "master_trade"], name="copy_skip_is_told_once"),
            models.CheckConstraint(condition=models.Q(reason__in=SkipReason.values), name="copy_skip_reason_is_known"),
        ]

    def __str__(self) -> str:
        return f"{self.subscription_id} {self.reason}"


class Copier(models.Model):
    """The copier of a trading account, by its last report. One instance at a time holds the lease."""

    account = models.OneToOneField(TradingAccount, models.PROTECT, primary_key=True, related_name="copier")
    instance = models.CharField(max_length=64)
    takeover_number = models.PositiveBigIntegerField(
        db_column="fence", help_text="Grows by one each time that an instance takes over."
    )
    heartbeat_at = models.DateTimeField(db_column="beat_at")
    leased_until = models.DateTimeField()
    may_open_at = models.DateTimeField(help_text="When the lease of the previous instance has certainly ended.")
    reported = models.JSONField(
        default=list,
        db_column="told",
        help_text="For each subscription: the copier's state, and whether it is in sync.",
    )

    class Meta:
        db_table = "copiers"

    def __str__(self) -> str:
        return f"{self.account_id} {self.instance}"


class OverdueCloseQuerySet(models.QuerySet["OverdueClose"]):
    def pending(self) -> "OverdueCloseQuerySet":
        """The oldest first, each annotated with its `age` by the database's clock."""
        return (
            self.filter(closed_at=None)
            .annotate(age=models.ExpressionWrapper(Now() - models.F("since"), models.DurationField()))
            .order_by("since", "pk")
        )

    def lock_pending(self) -> "OverdueCloseQuerySet":
        """Lock the pending rows that no other process is working on."""
        return self.pending().select_for_update(skip_locked=True, of=("self",))


class OverdueClose(models.Model):
    """A copy that is still open although its provider's trade is closed. Its close ends it."""

    copy = models.OneToOneField(
        Trade, models.PROTECT, primary_key=True, related_name="overdue_close", db_constraint=False
    )
    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+")
    strategy: "models.ForeignKey[Any, Any]" = models.ForeignKey(Strategy, models.PROTECT, related_name="+")
    master_trade = models.UUIDField()
    symbol = models.CharField(max_length=32)
    volume = amount(help_text="Lots that were still open.")
    since = models.DateTimeField("overdue since", help_text="When the provider's trade was closed.")
    level = models.PositiveSmallIntegerField(
        default=0, help_text="How often it has been escalated: after 30 s, 5 min and 1 h."
    )
    closed_at = models.DateTimeField(null=True, db_column="paid_at")

    objects = OverdueCloseQuerySet.as_manager()

    class Meta:
        db_table = "close_debts"
        indexes = [
            models.Index(fields=["since"], condition=models.Q(closed_at=None), name="close_debt_unpaid_idx"),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} has {self.volume} {self.symbol} still open"


class BotAlarmQuerySet(models.QuerySet["BotAlarm"]):
    def present(self) -> "BotAlarmQuerySet":
        """The alarms that their bots still report, the oldest first."""
        return self.filter(cleared_at=None).select_related("account", "strategy").order_by("raised_at", "pk")


class BotAlarm(models.Model):
    """A condition that a bot cannot mend by itself, as the bot reported it. An alarm of a silent bot stays.

    The desk's own alarms (`OF_DESK`) are about what a bot reported.
    """

    OF_DESK = "desk"

    account = models.ForeignKey(TradingAccount, models.PROTECT, related_name="+", db_index=False)
    bot = models.CharField(max_length=8, help_text="The kind of the key that reports it: its own alarms are one set.")
    kind = models.CharField(max_length=20)  # of AlarmKind; without choices, which would be in each migration
    ticket_id = models.CharField("ticket", max_length=19, blank=True, db_default="")
    strategy = models.ForeignKey(Strategy, models.PROTECT, related_name="+", null=True)
    master_trade = models.UUIDField(null=True, db_index=True, help_text="The provider's trade that it is about.")
    trade = models.UUIDField(null=True, db_index=True, help_text="The account's own trade with this ticket.")
    detail = models.CharField(max_length=300, blank=True, db_default="")
    raised_at = models.DateTimeField(db_default=Now())
    reported_at = models.DateTimeField(db_default=Now(), help_text="When the bot last reported that it is present.")
    cleared_at = models.DateTimeField(null=True)
    times = models.PositiveIntegerField(db_default=1, help_text="How often it was raised.")
    is_logged = models.BooleanField(db_default=False, help_text="Whether the audit log shows it as raised.")
    logged_at = models.DateTimeField(null=True)

    objects = BotAlarmQuerySet.as_manager()

    class Meta:
        db_table = "bot_alarms"
        verbose_name = "alarm of a bot"
        verbose_name_plural = "alarms of bots"
        indexes = [
            models.Index(fields=["raised_at"], condition=models.Q(cleared_at=None), name="bot_alarm_present_idx"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "bot", "kind", "ticket_id", "strategy", "master_trade"],
                name="bot_alarm_is_one_row",
                nulls_distinct=False,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.ticket_id}".strip()

    @property
    def title(self) -> str:
        return self.advice.title

    @property
    def is_silent(self) -> bool:
        """Whether the bot has stopped to report: it does so once a minute while the alarm is present."""
        return (
            self.bot != self.OF_DESK
            and self.cleared_at is None
            and timezone.now() - self.reported_at > timedelta(minutes=5)
        )

    @property
    def advice(self) -> Advice:
        return ADVICE.get(self.kind, Advice(self.kind, "", "Read the bot's log."))
