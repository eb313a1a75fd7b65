"""Staff's view of copying: orders, skipped trades, copiers, overdue closes, alarms. Nothing can be edited here."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core import confirmed_actions, formatting, uuid7
from core.admin import ReadOnlyAdmin
from trades import copy_statistics, receipts
from trades.alarm_kinds import ADVICE
from trades.models import BotAlarm, Copier, CopyOrder, CopySkip, OverdueClose


@admin.register(CopyOrder)
class CopyOrderAdmin(ReadOnlyAdmin):
    """Latency and slippage of the filtered orders are shown above the list."""

    change_list_template = "admin/orders_list.html"
    list_display = [
        "reported_at", "account", "strategy", "status_", "bps", "latency", "desk_ms", "copier_ms", "broker_ms",
        "requested_price_", "executed_price_", "master_ticket", "failed_reason",
    ]  # fmt: skip
    list_filter = ["reported_at", "status", "strategy", "account"]
    list_select_related = ["strategy", "account"]
    search_fields = ["master_ticket", "account__name"]
    search_help_text = "The provider's ticket, or account"
    ordering = ["-id"]
    list_per_page = 50
    fields = [
        "account", "strategy", "seq", "master_ticket", "ticket_id", "status_", "symbol", "type", "volume",
        "requested_price_", "executed_price_", "points", "bps", "latency", "desk_ms", "copier_ms", "broker_ms",
        "failed_reason", "heard_at", "sent_at", "filled_at", "reported_at",
    ]  # fmt: skip
    readonly_fields = [
        "status_",
        "requested_price_",
        "executed_price_",
        "points",
        "bps",
        "latency",
        "desk_ms",
        "copier_ms",
        "broker_ms",
    ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and response.context_data and "cl" in response.context_data:
            response.context_data["execution"] = copy_statistics.execution(response.context_data["cl"].queryset)
        return response

    @admin.display(description="status", ordering="status")
    def status_(self, order: CopyOrder) -> SafeString:
        good, bad = CopyOrder.Status.EXECUTED, CopyOrder.Status.FAILED
        return formatting.chip(order.status, {good: "good", bad: "bad"}.get(CopyOrder.Status(order.status), ""))

    @admin.display(description="requested price", ordering="requested_price")
    def requested_price_(self, order: CopyOrder) -> SafeString:
        return formatting.number(order.requested_price, formatting.PRICE)

    @admin.display(description="filled price", ordering="executed_price")
    def executed_price_(self, order: CopyOrder) -> SafeString:
        return formatting.number(order.executed_price, formatting.PRICE)

    @admin.display(description="slippage, points", ordering="slippage_points")
    def points(self, order: CopyOrder) -> SafeString:
        return formatting.number(order.slippage_points)

    @admin.display(description="slippage, bps", ordering="slippage_bps")
    def bps(self, order: CopyOrder) -> SafeString:
        return formatting.number(None if order.slippage_bps is None else round(order.slippage_bps, 2), 2)

    @admin.display(description="latency, ms", ordering="latency_ms")
    def latency(self, order: CopyOrder) -> SafeString:
        return _ms(order.latency_ms)

    @admin.display(description="desk, ms")
    def desk_ms(self, order: CopyOrder) -> SafeString:
        return _ms(receipts.ms(uuid7.time_of(order.master_trade) if order.master_trade else None, order.heard_at))

    @admin.display(description="copier, ms")
    def copier_ms(self, order: CopyOrder) -> SafeString:
        return _ms(receipts.ms(order.heard_at, order.sent_at))

    @admin.display(description="broker, ms")
    def broker_ms(self, order: CopyOrder) -> SafeString:
        return _ms(receipts.ms(order.sent_at, order.filled_at))


def _ms(length: int | None) -> SafeString:
    return formatting.number(None if length is None else Decimal(length))


@admin.register(CopySkip)
class CopySkipAdmin(ReadOnlyAdmin):
    """Trades that a subscription did not copy, with the reason that was reported first."""

    list_display = ["reported_at", "account", "strategy", "reason_", "detail", "ref"]
    list_filter = ["reported_at", "reason", "strategy"]
    list_select_related = ["subscription__account", "strategy"]
    search_fields = ["subscription__sub_id", "subscription__account__name"]
    search_help_text = "Subscription id or account, or the full id of a provider's trade"
    ordering = ["-id"]
    list_per_page = 50
    fields = ["subscription", "strategy", "reason_", "detail", "ref", "reported_at"]
    readonly_fields = ["reason_", "ref"]

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        try:
            return queryset.filter(master_trade=uuid.UUID(search_term)), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="account", ordering="subscription__account__name")
    def account(self, skip: CopySkip) -> str:
        return skip.subscription.account.name

    @admin.display(description="reason", ordering="reason")
    def reason_(self, skip: CopySkip) -> SafeString:
        return confirmed_actions.wrapped_text(skip.get_reason_display())

    @admin.display(description="provider's trade")
    def ref(self, skip: CopySkip) -> SafeString:
        return formatting.ref(skip.master_trade)


class OnlineFilter(admin.SimpleListFilter):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("online", "online"), ("offline", "offline")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Copier]) -> QuerySet[Copier]:
        if self.value() not in ("online", "offline"):
            return queryset
        is_online = Q(leased_until__gt=timezone.now())
        return queryset.filter(is_online if self.value() == "online" else ~is_online)


@admin.register(Copier)
class CopierAdmin(ReadOnlyAdmin):
    """The copier of each account: online or not, in sync or not."""

    list_display = ["account", "online", "last_contact", "sync", "takeover_number", "instance"]
    list_filter = [OnlineFilter]
    list_select_related = ["account"]
    search_fields = ["account__name", "instance"]
    search_help_text = "Account or instance"
    ordering = ["-heartbeat_at"]
    list_per_page = 50
    fields = ["account", "online", "sync", "instance", "takeover_number", "last_contact", "leased_until", "may_open_at"]
    readonly_fields = ["online", "sync", "last_contact"]

    @admin.display(description="state", ordering="leased_until")
    def online(self, copier: Copier) -> SafeString:
        return (
            formatting.chip("online", "good")
            if copier.leased_until > timezone.now()
            else formatting.chip("offline", "bad")
        )

    @admin.display(description="last contact", ordering="heartbeat_at")
    def last_contact(self, copier: Copier) -> datetime:
        return copier.heartbeat_at

    @admin.display(description="open copies")
    def sync(self, copier: Copier) -> SafeString:
        rows = (_sync(report) for report in copier.reported)
        return format_html_join("", '<div class="sync">{} {}</div>', rows) or confirmed_actions.wrapped_text("")


_SYNC = {"in_sync": ("in sync", "good"), "behind": ("behind", "wait"), "differs": ("out of sync", "bad")}
_STOPPED = {"HOLD": "waiting", "HALT": "halted"}
_DIFFERENCE = {"orphans": "to close", "missing": "missing", "volume": "with a wrong volume"}


def _sync(report: dict[str, Any]) -> tuple[SafeString, str]:
    label, kind = _SYNC.get(report.get("sync", ""), ("unknown", ""))
    if report.get("standing") in _STOPPED:
        label, kind = _STOPPED[report["standing"]], "bad"
    differences = ", ".join(f"{report[name]} {text}" for name, text in _DIFFERENCE.items() if report.get(name))
    return formatting.chip(label, kind), f"{report.get('strategy', '')}{': ' if differences else ''}{differences}"


class OverdueFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("overdue", "overdue"), ("closed", "closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OverdueClose]) -> QuerySet[OverdueClose]:
        return queryset.filter(closed_at__isnull=self.value() == "overdue") if self.value() else queryset


@admin.register(OverdueClose)
class OverdueCloseAdmin(ReadOnlyAdmin):
    """Copies still open after the provider closed, the oldest first, then those closed late."""

    list_display = ["since", "state", "age", "account", "strategy", "symbol", "lots", "closed_at"]
    list_filter = [OverdueFilter, "level", "strategy"]
    list_select_related = ["account", "strategy"]
    search_fields = ["account__name", "symbol"]
    search_help_text = "Account or symbol"
    ordering = [F("closed_at").desc(nulls_first=True), "since"]
    list_per_page = 50
    fields = ["state", "age", "account", "strategy", "symbol", "lots", "ref", "provider_trade", "since", "closed_at"]
    readonly_fields = ["state", "age", "lots", "ref", "provider_trade"]

    @admin.display(description="state", ordering="level")
    def state(self, overdue_close: OverdueClose) -> SafeString:
        if overdue_close.closed_at is not None:
            return formatting.chip("closed", "good")
        labels = ("overdue", "overdue over 30 s", "overdue over 5 min", "overdue over 1 h")
        return formatting.chip(labels[min(overdue_close.level, 3)], "bad" if overdue_close.level else "wait")

    @admin.display(description="age")
    def age(self, overdue_close: OverdueClose) -> SafeString:
        seconds = int(((overdue_close.closed_at or timezone.now()) - overdue_close.since).total_seconds())
        return format_html('<span class="number">{}</span>', timedelta(seconds=max(0, seconds)))

    @admin.display(description="volume", ordering="volume")
    def lots(self, overdue_close: OverdueClose) -> SafeString:
        return formatting.amount(overdue_close.volume)

    @admin.display(description="copy")
    def ref(self, overdue_close: OverdueClose) -> SafeString:
        return formatting.ref(overdue_close.copy_id)

    @admin.display(description="provider's trade")
    def provider_trade(self, overdue_close: OverdueClose) -> SafeString:
        return formatting.ref(overdue_close.master_trade)


class PresentFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("present", "present"), ("cleared", "cleared")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BotAlarm]) -> QuerySet[BotAlarm]:
        return queryset.filter(cleared_at__isnull=self.value() == "present") if self.value() else queryset


class AlarmKindFilter(admin.SimpleListFilter):
    title, parameter_name = "alarm", "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [(str(kind), advice.title) for kind, advice in ADVICE.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BotAlarm]) -> QuerySet[BotAlarm]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(BotAlarm)
class BotAlarmAdmin(ReadOnlyAdmin):
    """What bots cannot mend by themselves: present alarms first, the oldest at the top."""

    list_display = ["raised_at", "state", "kind_", "ticket_id", "account", "bot", "strategy", "detail_"]
    list_filter = [PresentFilter, AlarmKindFilter, "bot", "raised_at", "account", "strategy"]
    list_select_related = ["account", "strategy"]
    search_fields = ["ticket_id", "account__name", "detail"]
    search_help_text = "Ticket, account or detail, or a full trade id"
    ordering = [F("cleared_at").desc(nulls_first=True), "raised_at"]
    list_per_page = 50
    fields = [
        "state", "kind_", "meaning", "way_out", "account", "bot", "strategy", "ticket_id", "detail_", "trade_",
        "provider_trade", "raised_at", "last_report", "cleared_at", "times",
    ]  # fmt: skip
    readonly_fields = ["state", "kind_", "meaning", "way_out", "detail_", "trade_", "provider_trade", "last_report"]

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        try:
            trade = uuid.UUID(search_term)
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(Q(trade=trade) | Q(master_trade=trade)), False

    @admin.display(description="state", ordering="cleared_at")
    def state(self, alarm: BotAlarm) -> SafeString:
        if alarm.cleared_at:
            return formatting.chip("cleared", "good")
        return formatting.chip("bot silent", "wait") if alarm.is_silent else formatting.chip("present", "bad")

    @admin.display(description="alarm", ordering="kind")
    def kind_(self, alarm: BotAlarm) -> SafeString:
        return confirmed_actions.wrapped_text(alarm.title)

    @admin.display(description="detail")
    def detail_(self, alarm: BotAlarm) -> SafeString:
        return confirmed_actions.wrapped_text(alarm.detail)

    @admin.display(description="meaning")
    def meaning(self, alarm: BotAlarm) -> str:
        return alarm.advice.meaning

    @admin.display(description="what to do")
    def way_out(self, alarm: BotAlarm) -> str:
        return alarm.advice.way_out

    @admin.display(description="last reported", ordering="reported_at")
    def last_report(self, alarm: BotAlarm) -> datetime:
        return alarm.reported_at

    @admin.display(description="trade")
    def trade_(self, alarm: BotAlarm) -> SafeString | str:
        return formatting.ref(alarm.trade) if alarm.trade else "–"

    @admin.display(description="provider's trade")
    def provider_trade(self, alarm: BotAlarm) -> SafeString | str:
        return formatting.ref(alarm.master_trade) if alarm.master_trade else "–"
