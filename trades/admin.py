"""Staff's view of the hot and the cold table. Neither can be edited here; a force close goes through its verb."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from audit import services as audit
from audit.actors import actor_of
from audit.admin import named
from audit.models import AuditLog
from core import confirmed_actions, formatting, money, uuid7
from core.admin import ReadOnlyAdmin
from core.errors import DomainError
from trades import copy_statistics, history, receipts, services
from trades.models import ActiveTrade, Copier, CopyOrder, CopySkip, OverdueClose, Position, TradeHistory, TradeReduction

CLOSED_AT_ONCE = 50  # each is a transaction of its own, within one request


class ForceCloseForm(forms.Form):
    """One trade's close by staff's hand."""

    trade_id = forms.UUIDField(widget=forms.HiddenInput)
    close_price = forms.DecimalField(
        max_digits=money.DIGITS, decimal_places=money.PLACES, min_value=money.UNIT,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "aria-label": "Close price"}),
    )  # fmt: skip
    profit = forms.DecimalField(
        max_digits=money.DIGITS, decimal_places=money.PLACES,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "aria-label": "Profit"}),
    )  # fmt: skip


ForceCloseForms = forms.formset_factory(ForceCloseForm, extra=0, max_num=CLOSED_AT_ONCE, validate_max=True)


class NoteForm(forms.Form):
    note = forms.CharField(
        label="Reason", max_length=500, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="In words. It stays in the audit log, with your name.",
    )  # fmt: skip


class TradePage(ReadOnlyAdmin):
    """A trade as its list and its page show it; the page also tells what happened to it."""

    change_form_template = "admin/trade.html"
    list_select_related = ["strategy", "account"]
    list_per_page = 50
    search_fields = ["ticket_id", "symbol", "account__name"]
    search_help_text = "Ticket, symbol or account; or a whole trade id"

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        try:
            return queryset.filter(pk=uuid.UUID(search_term)), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        told = AuditLog.objects.filter(subject=f"trade:{obj.pk}").exclude(action="history.viewed").order_by("id")[:200]
        reductions = TradeReduction.objects.filter(trade_id=obj.pk).order_by("id")
        return {"timeline": named(told), "reductions": reductions}

    @admin.display(description="trade id")
    def ref(self, trade: Any) -> SafeString:
        return formatting.ref(trade.pk)

    @admin.display(description="copies trade")
    def copied(self, trade: Position) -> SafeString | str:
        return formatting.ref(trade.master_trade) if trade.is_copy else "–"

    @admin.display(description="side", ordering="type")
    def side(self, trade: Any) -> SafeString:
        return formatting.side(trade.type)

    @admin.display(description="volume", ordering="volume")
    def lots(self, trade: Any) -> SafeString:
        return formatting.number(trade.volume, formatting.LOTS)

    @admin.display(description="open price", ordering="open_price")
    def opened_for(self, trade: Any) -> SafeString:
        return formatting.number(trade.open_price, formatting.PRICE)

    @admin.display(description="SL", ordering="sl")
    def sl_(self, trade: Any) -> SafeString:
        return formatting.number(trade.sl, formatting.PRICE)

    @admin.display(description="TP", ordering="tp")
    def tp_(self, trade: Any) -> SafeString:
        return formatting.number(trade.tp, formatting.PRICE)


WHOSE: dict[str, Any] = {"fields": ["ref", "ticket_id", "strategy", "account", "copied", "master_ticket", "seq"]}
TOLD: dict[str, Any] = {"fields": ["comment", "analysis"]}


@admin.register(ActiveTrade)
class ActiveTradeAdmin(TradePage):
    list_display = [
        "ticket_id", "opened_at", "symbol", "side", "lots", "opened_for", "sl_", "tp_", "strategy", "account",
    ]  # fmt: skip
    list_filter = ["opened_at", "type", "symbol", "strategy", "account"]
    ordering = ["-opened_at", "-trade"]
    actions = ["force_close"]
    readonly_fields = ["ref", "copied", "side", "lots", "opened_lots", "opened_for", "sl_", "tp_"]
    fieldsets: ClassVar[Any] = [
        (None, WHOSE),
        ("Position", {"fields": ["symbol", "side", "lots", "opened_lots", "opened_for", "sl_", "tp_", "opened_at"]}),
        ("As told", TOLD),
    ]

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trades.change_activetrade")

    @admin.display(description="opened volume")
    def opened_lots(self, trade: ActiveTrade) -> SafeString:
        return formatting.number(trade.opened_volume, formatting.LOTS)

    @admin.action(description="Force close: moves to history, at a price and for a reason", permissions=["close"])
    def force_close(self, request: HttpRequest, chosen: QuerySet[ActiveTrade]) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            trades = list(chosen.select_related("strategy", "account")[: CLOSED_AT_ONCE + 1])
            if not 0 < len(trades) <= CLOSED_AT_ONCE:
                no = f"Close at most {CLOSED_AT_ONCE} at once." if trades else "These are closed already."
                self.message_user(request, no, messages.ERROR)
                return None
            return self._ask(request, ForceCloseForms(initial=[{"trade_id": trade.pk} for trade in trades]), NoteForm())
        closes, note = ForceCloseForms(request.POST), NoteForm(request.POST)
        if not (closes.is_valid() and note.is_valid()):
            return self._ask(request, closes, note)
        for told in closes.cleaned_data:
            self._close_one(request, told, note.cleaned_data["note"])
        return None

    def _ask(self, request: HttpRequest, closes: Any, note: NoteForm) -> HttpResponse:
        """The page that asks at which price, with which profit and why."""
        ids = {form: form["trade_id"].value() for form in closes if "trade_id" not in form.errors}
        trades = {
            str(trade.pk): trade
            for trade in ActiveTrade.objects.filter(pk__in=ids.values()).select_related("strategy", "account")
        }
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Force close",
            "formset": closes,
            "rows": [(form, trades.get(str(trade_id))) for form, trade_id in ids.items()],
            "note": note,
            "LOTS": formatting.LOTS,
        }
        return TemplateResponse(request, "admin/force_close.html", context)

    def _close_one(self, request: HttpRequest, told: dict[str, Any], note: str) -> None:
        try:
            outcome = services.force_close(
                trade_id=told["trade_id"], close_price=told["close_price"], profit=told["profit"], note=note,
                actor=actor_of(request),
            )  # fmt: skip
        except DomainError as no:
            self.message_user(request, f"Trade {told['trade_id']}: {no.message} ({no.code})", messages.ERROR)
        else:
            self.message_user(request, f"Ticket {outcome['trade']['ticket_id']} is closed.")


@admin.register(TradeHistory)
class TradeHistoryAdmin(TradePage):
    list_display = [
        "ticket_id", "closed_at", "symbol", "side", "lots", "opened_for", "closed_for", "result", "reason", "strategy",
        "account",
    ]  # fmt: skip
    list_filter = ["closed_at", "reason", "type", "kind", "symbol", "strategy", "account"]
    search_fields = [*TradePage.search_fields, "comment"]
    search_help_text = "Ticket, symbol, account or comment; or a whole trade id"
    date_hierarchy = "closed_at"
    ordering = ["-closed_at", "-trade"]
    change_list_template = "admin/history_list.html"
    readonly_fields = [
        "ref", "copied", "side", "lots", "closed_lots", "opened_for", "closed_for", "sl_", "tp_", "result",
        "last_result",
    ]  # fmt: skip
    fieldsets: ClassVar[Any] = [
        (None, {"fields": ["kind", *WHOSE["fields"]]}),
        ("Position", {"fields": ["symbol", "side", "lots", "opened_for", "sl_", "tp_", "opened_at"]}),
        ("Close", {"fields": ["closed_lots", "closed_for", "last_result", "result", "reason", "closed_at"]}),
        ("As told", TOLD),
    ]

    @admin.display(description="volume closed last")
    def closed_lots(self, closed: TradeHistory) -> SafeString:
        return formatting.number(closed.closed_volume, formatting.LOTS)

    @admin.display(description="close price", ordering="close_price")
    def closed_for(self, closed: TradeHistory) -> SafeString:
        return formatting.number(closed.close_price, formatting.PRICE)

    @admin.display(description="profit", ordering="profit")
    def result(self, closed: TradeHistory) -> SafeString:
        return formatting.signed(closed.profit)

    @admin.display(description="profit of the final close")
    def last_result(self, closed: TradeHistory) -> SafeString:
        return formatting.signed(closed.closing_profit)

    def get_urls(self) -> list[URLPattern]:
        export = path("export.csv", self.admin_site.admin_view(self.export), name="trades_tradehistory_export")
        return [export, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if self.has_view_permission(request):
            audit.record("history.viewed", actor=actor_of(request), filters=request.GET.urlencode()[:500])
        return super().changelist_view(request, extra_context)

    def render_change_form(
        self, request: HttpRequest, context: Any, add: bool = False, change: bool = False, form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:  # fmt: skip
        audit.record("history.viewed", actor=actor_of(request), subject=f"trade:{obj.pk}")
        return super().render_change_form(request, context, add, change, form_url, obj)

    def export(self, request: HttpRequest) -> HttpResponseBase:
        """The rows of the current filter, streamed as CSV."""
        if not self.has_view_permission(request):
            return HttpResponseForbidden("You may not see history.")
        try:
            rows = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return HttpResponseBadRequest("This filter cannot be read.")
        audit.record("history.exported", actor=actor_of(request), filters=request.GET.urlencode()[:500])
        return history.csv_response(rows.select_related("strategy", "account"))


@admin.register(CopyOrder)
class CopyOrderAdmin(ReadOnlyAdmin):
    """Above the list: how fast and how much worse, of what the filter leaves."""

    change_list_template = "admin/orders_list.html"
    list_display = [
        "reported_at", "account", "strategy", "outcome", "bps", "latency", "desk_ms", "copier_ms", "broker_ms",
        "asked_for", "done_for", "master_ticket", "failed_reason",
    ]  # fmt: skip
    list_filter = ["reported_at", "status", "strategy", "account"]
    list_select_related = ["strategy", "account"]
    search_fields = ["master_ticket", "account__name"]
    search_help_text = "The master's ticket, or account"
    ordering = ["-id"]
    list_per_page = 50
    fields = [
        "account", "strategy", "seq", "master_ticket", "ticket_id", "outcome", "symbol", "type", "volume", "asked_for",
        "done_for", "points", "bps", "latency", "desk_ms", "copier_ms", "broker_ms", "failed_reason", "heard_at",
        "sent_at", "filled_at", "reported_at",
    ]  # fmt: skip
    readonly_fields = [
        "outcome",
        "asked_for",
        "done_for",
        "points",
        "bps",
        "latency",
        "desk_ms",
        "copier_ms",
        "broker_ms",
    ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        answer = super().changelist_view(request, extra_context)
        if isinstance(answer, TemplateResponse) and answer.context_data and "cl" in answer.context_data:
            answer.context_data["execution"] = copy_statistics.execution(answer.context_data["cl"].queryset)
        return answer

    @admin.display(description="status", ordering="status")
    def outcome(self, order: CopyOrder) -> SafeString:
        good, bad = CopyOrder.Status.EXECUTED, CopyOrder.Status.FAILED
        return formatting.chip(order.status, {good: "good", bad: "bad"}.get(CopyOrder.Status(order.status), ""))

    @admin.display(description="asked for", ordering="requested_price")
    def asked_for(self, order: CopyOrder) -> SafeString:
        return formatting.number(order.requested_price, formatting.PRICE)

    @admin.display(description="done for", ordering="executed_price")
    def done_for(self, order: CopyOrder) -> SafeString:
        return formatting.number(order.executed_price, formatting.PRICE)

    @admin.display(description="slippage, points", ordering="slippage_points")
    def points(self, order: CopyOrder) -> SafeString:
        return formatting.number(order.slippage_points)

    @admin.display(description="slippage, bps", ordering="slippage_bps")
    def bps(self, order: CopyOrder) -> SafeString:
        return formatting.number(None if order.slippage_bps is None else round(order.slippage_bps, 2), 2)

    @admin.display(description="sent after, ms", ordering="latency_ms")
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
    """What was not copied, and why, as it was told first."""

    list_display = ["reported_at", "whose", "strategy", "why_not", "detail", "ref"]
    list_filter = ["reported_at", "reason", "strategy"]
    list_select_related = ["subscription__account", "strategy"]
    search_fields = ["subscription__sub_id", "subscription__account__name"]
    search_help_text = "Subscription id or account; or the whole id of a master's trade"
    ordering = ["-id"]
    list_per_page = 50
    fields = ["subscription", "strategy", "why_not", "detail", "ref", "reported_at"]
    readonly_fields = ["why_not", "ref"]

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        try:
            return queryset.filter(master_trade=uuid.UUID(search_term)), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="account", ordering="subscription__account__name")
    def whose(self, skip: CopySkip) -> str:
        return skip.subscription.account.name

    @admin.display(description="reason", ordering="reason")
    def why_not(self, skip: CopySkip) -> SafeString:
        return confirmed_actions.wrapped_text(skip.get_reason_display())

    @admin.display(description="master's trade")
    def ref(self, skip: CopySkip) -> SafeString:
        return formatting.ref(skip.master_trade)


class OnlineFilter(admin.SimpleListFilter):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("online", "online"), ("offline", "offline")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Copier]) -> QuerySet[Copier]:
        if self.value() not in ("online", "offline"):
            return queryset
        beyond = Q(leased_until__gt=timezone.now())
        return queryset.filter(beyond if self.value() == "online" else ~beyond)


@admin.register(Copier)
class CopierAdmin(ReadOnlyAdmin):
    """Who copies for which account, whether it is there, and whether it holds what it must."""

    list_display = ["account", "online", "heartbeat_at", "sync", "takeover_number", "instance"]
    list_filter = [OnlineFilter]
    list_select_related = ["account"]
    search_fields = ["account__name", "instance"]
    search_help_text = "Account or instance"
    ordering = ["-heartbeat_at"]
    list_per_page = 50
    fields = ["account", "online", "sync", "instance", "takeover_number", "heartbeat_at", "leased_until", "may_open_at"]
    readonly_fields = ["online", "sync"]

    @admin.display(description="state", ordering="leased_until")
    def online(self, copier: Copier) -> SafeString:
        return (
            formatting.chip("online", "good")
            if copier.leased_until > timezone.now()
            else formatting.chip("offline", "bad")
        )

    @admin.display(description="copies")
    def sync(self, copier: Copier) -> SafeString:
        rows = (_sync(told) for told in copier.reported)
        return format_html_join("", '<div class="sync">{} {}</div>', rows) or confirmed_actions.wrapped_text("")


_SYNC = {"in_sync": ("in sync", "good"), "behind": ("behind", "wait"), "differs": ("differs", "bad")}
_DIFFERENCE = {"orphans": "to close", "missing": "missing", "volume": "of another volume"}


def _sync(told: dict[str, Any]) -> tuple[SafeString, str]:
    word, kind = _SYNC.get(told.get("sync", ""), ("unknown", ""))
    if told.get("standing") in ("HOLD", "HALT"):
        word, kind = told["standing"].lower(), "bad"
    found = ", ".join(f"{told[name]} {what}" for name, what in _DIFFERENCE.items() if told.get(name))
    return formatting.chip(word, kind), f"{told.get('strategy', '')}{': ' if found else ''}{found}"


class PendingFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("owed", "owed"), ("paid", "paid")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OverdueClose]) -> QuerySet[OverdueClose]:
        return queryset.filter(closed_at__isnull=self.value() == "owed") if self.value() else queryset


@admin.register(OverdueClose)
class OverdueCloseAdmin(ReadOnlyAdmin):
    """Closes that copiers owe, the oldest first, and those that were paid."""

    list_display = ["since", "state", "age", "account", "strategy", "symbol", "lots", "closed_at"]
    list_filter = [PendingFilter, "level", "strategy"]
    list_select_related = ["account", "strategy"]
    search_fields = ["account__name", "symbol"]
    search_help_text = "Account or symbol"
    ordering = [F("closed_at").desc(nulls_first=True), "since"]
    list_per_page = 50
    fields = ["state", "age", "account", "strategy", "symbol", "lots", "ref", "copied", "since", "closed_at"]
    readonly_fields = ["state", "age", "lots", "ref", "copied"]

    @admin.display(description="state", ordering="level")
    def state(self, overdue_close: OverdueClose) -> SafeString:
        if overdue_close.closed_at is not None:
            return formatting.chip("paid", "good")
        names = ("owed", "owed over 30 s", "owed over 5 min", "owed over 1 h")
        return formatting.chip(names[min(overdue_close.level, 3)], "bad" if overdue_close.level else "wait")

    @admin.display(description="age")
    def age(self, overdue_close: OverdueClose) -> SafeString:
        seconds = int(((overdue_close.closed_at or timezone.now()) - overdue_close.since).total_seconds())
        return format_html('<span class="number">{}</span>', timedelta(seconds=max(0, seconds)))

    @admin.display(description="volume", ordering="volume")
    def lots(self, overdue_close: OverdueClose) -> SafeString:
        return formatting.number(overdue_close.volume, formatting.LOTS)

    @admin.display(description="copy")
    def ref(self, overdue_close: OverdueClose) -> SafeString:
        return formatting.ref(overdue_close.copy_id)

    @admin.display(description="master's trade")
    def copied(self, overdue_close: OverdueClose) -> SafeString:
        return formatting.ref(overdue_close.master_trade)
