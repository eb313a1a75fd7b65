"""Staff's view of trades. Nothing can be edited here; what staff do is in `staff_admin`."""

import uuid
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit import services as audit
from audit.actors import actor_of
from audit.admin import with_user_names
from audit.models import AuditLog
from core import formatting, limiting, money
from core.admin import ReadOnlyAdmin
from trades import copying_admin as copying_admin
from trades import corrections, history
from trades.models import (
    ActiveTrade,
    BotAlarm,
    OrderedClose,
    Position,
    TradeCorrection,
    TradeHistory,
    TradeReduction,
    TradeRequest,
)
from trades.staff_admin import Correct, ForceClose

MAX_ALARMS = 50


class TradePage(ReadOnlyAdmin):
    """What the lists and pages of open and of closed trades share. A page also shows the trade's audit log."""

    change_form_template = "admin/trade.html"
    list_select_related = ["strategy", "account"]
    list_per_page = 50
    search_fields = ["ticket_id", "symbol", "account__name"]
    search_help_text = "Ticket, symbol or account, or a full trade id"

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        try:
            return queryset.filter(pk=uuid.UUID(search_term)), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        facts = AuditLog.objects.filter(subject=f"trade:{obj.pk}").exclude(action="history.viewed").order_by("id")[:200]
        reductions = TradeReduction.objects.filter(trade_id=obj.pk).order_by("id")
        about = Q(trade=obj.pk) | Q(master_trade=obj.pk)
        return {
            "timeline": with_user_names(facts),
            "reductions": reductions,
            "corrections": TradeCorrection.objects.filter(trade=obj.pk)
            .select_related("requested_by", "approved_by")
            .order_by("-pk"),
            "pending": TradeRequest.objects.filter(trade=obj.pk, state=TradeRequest.State.PENDING),
            "ordered_close": OrderedClose.objects.filter(copy=obj.pk).select_related("ordered_by").first(),
            "alarms": BotAlarm.objects.present().filter(about)[:MAX_ALARMS],
        }

    @admin.display(description="trade id")
    def ref(self, trade: Any) -> SafeString:
        return formatting.ref(trade.pk)

    @admin.display(description="copy of trade")
    def provider_trade(self, trade: Position) -> SafeString | str:
        return formatting.ref(trade.master_trade) if trade.is_copy else "–"

    @admin.display(description="ticket")
    def ticket_id_(self, trade: Any) -> str:
        return str(trade.ticket_id)

    @admin.display(description="symbol")
    def symbol_(self, trade: Any) -> str:
        return str(trade.symbol)

    @admin.display(description="account")
    def account_(self, trade: Any) -> str:
        return str(trade.account)

    @admin.display(description="side", ordering="type")
    def side(self, trade: Any) -> SafeString:
        return formatting.side(trade.type)

    @admin.display(description="volume", ordering="volume")
    def lots(self, trade: Any) -> SafeString:
        return formatting.amount(trade.volume)

    @admin.display(description="open price", ordering="open_price")
    def open_price_(self, trade: Any) -> SafeString:
        return formatting.number(trade.open_price, formatting.PRICE)

    @admin.display(description="SL", ordering="sl")
    def sl_(self, trade: Any) -> SafeString:
        return formatting.number(trade.sl, formatting.PRICE)

    @admin.display(description="TP", ordering="tp")
    def tp_(self, trade: Any) -> SafeString:
        return formatting.number(trade.tp, formatting.PRICE)


IDENTITY: dict[str, Any] = {
    "fields": ["ref", "ticket_id", "strategy", "account", "provider_trade", "master_ticket", "seq"]
}
REPORTED: dict[str, Any] = {"fields": ["comment", "analysis"]}


@admin.register(ActiveTrade)
class ActiveTradeAdmin(ForceClose, TradePage):
    change_form_template = "admin/trade.html"
    confirmation_columns = ["ticket_id_", "symbol_", "side", "lots", "account_"]
    list_display = [
        "ticket_id", "opened_at", "symbol", "side", "lots", "open_price_", "sl_", "tp_", "strategy", "account",
    ]  # fmt: skip
    list_filter = ["opened_at", "type", "symbol", "strategy", "account"]
    ordering = ["-opened_at", "-trade"]
    readonly_fields = ["ref", "provider_trade", "side", "lots", "opened_lots", "open_price_", "sl_", "tp_"]
    fieldsets: ClassVar[Any] = [
        (None, IDENTITY),
        ("Position", {"fields": ["symbol", "side", "lots", "opened_lots", "open_price_", "sl_", "tp_", "opened_at"]}),
        ("Reported by the bot", REPORTED),
    ]

    @admin.display(description="opened volume")
    def opened_lots(self, trade: ActiveTrade) -> SafeString:
        return formatting.amount(trade.opened_volume)


@admin.register(TradeHistory)
class TradeHistoryAdmin(Correct, TradePage):
    change_form_template = "admin/trade.html"
    confirmation_columns = ["ticket_id_", "symbol_", "side", "lots", "account_", "close_price_", "profit_"]
    list_display = [
        "ticket_id", "closed_at", "symbol", "side", "lots", "open_price_", "close_price_", "profit_", "reason",
        "strategy", "account",
    ]  # fmt: skip
    list_filter = ["closed_at", "reason", "type", "kind", "symbol", "strategy", "account"]
    search_fields = [*TradePage.search_fields, "comment"]
    search_help_text = "Ticket, symbol, account or comment, or a full trade id"
    date_hierarchy = "closed_at"
    ordering = ["-closed_at", "-trade"]
    change_list_template = "admin/history_list.html"
    readonly_fields = [
        "ref", "provider_trade", "side", "lots", "closed_lots", "open_price_", "close_price_", "sl_", "tp_", "profit_",
        "closing_profit_", "first_figures",
    ]  # fmt: skip
    fieldsets: ClassVar[Any] = [
        (None, {"fields": ["kind", *IDENTITY["fields"]]}),
        ("Position", {"fields": ["symbol", "side", "lots", "open_price_", "sl_", "tp_", "opened_at"]}),
        (
            "Close",
            {
                "fields": [
                    "closed_lots",
                    "close_price_",
                    "closing_profit_",
                    "profit_",
                    "first_figures",
                    "reason",
                    "closed_at",
                ]
            },
        ),
        ("Reported by the bot", REPORTED),
    ]

    @admin.display(description="volume of the final close")
    def closed_lots(self, closed: TradeHistory) -> SafeString:
        return formatting.amount(closed.closed_volume)

    @admin.display(description="close price", ordering=corrections.CLOSE_PRICE)
    def close_price_(self, closed: TradeHistory) -> SafeString:
        return formatting.number(closed.counted_close_price, formatting.PRICE)

    @admin.display(description="profit", ordering=corrections.PROFIT)
    def profit_(self, closed: TradeHistory) -> SafeString:
        return formatting.signed(closed.counted_profit, "corrected" if closed.is_corrected else "")

    @admin.display(description="first figures")
    def first_figures(self, closed: TradeHistory) -> SafeString | str:
        """Of a corrected trade, as they were reported."""
        if not closed.is_corrected:
            return "–"
        return format_html("{} at {}", formatting.signed(closed.profit), money.plain(closed.close_price, 5))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return corrections.with_corrections(super().get_queryset(request))

    @admin.display(description="profit of the final close")
    def closing_profit_(self, closed: TradeHistory) -> SafeString:
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
            return HttpResponseForbidden("You may not see the trade history.")
        try:
            rows = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return HttpResponseBadRequest("A filter is invalid. Choose the filters of the list again.")
        try:
            limiting.spend("export", str(request.user.pk))
        except limiting.RateLimited as refusal:
            return HttpResponse(refusal.message, status=429, content_type="text/plain; charset=utf-8")
        audit.record("history.exported", actor=actor_of(request), filters=request.GET.urlencode()[:500])
        return history.csv_response(rows.select_related("strategy", "account"))
