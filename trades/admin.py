"""Staff's view of the hot and the cold table. Neither can be edited here; a force close goes through its verb."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from audit import services as audit
from audit.models import AuditLog
from audit.people import actor_of
from core import admin as shown
from core.admin import ReadOnly
from core.errors import DomainError
from trades import history, services
from trades.models import ActiveTrade, CopyOrder, TradeHistory, TradeReduction


class ForceCloseForm(forms.Form):
    """One trade's close by staff's hand."""

    trade_id = forms.UUIDField(widget=forms.HiddenInput)
    close_price = forms.DecimalField(max_digits=20, decimal_places=8, min_value=Decimal("0.00000001"))
    profit = forms.DecimalField(max_digits=20, decimal_places=8)


ForceCloseForms = forms.formset_factory(ForceCloseForm, extra=0)


class NoteForm(forms.Form):
    note = forms.CharField(
        label="Reason", max_length=500, widget=forms.Textarea(attrs={"rows": 2, "cols": 60}),
        help_text="In words; it stays in the audit log with your name.",
    )  # fmt: skip


class TradePage(ReadOnly):
    """A trade's page tells what happened to it."""

    change_form_template = "admin/trade.html"

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        more = {
            "timeline": AuditLog.objects.filter(subject=f"trade:{object_id}").order_by("id")[:200],
            "reductions": TradeReduction.objects.filter(trade_id=object_id).order_by("id"),
        }
        kwargs["extra_context"] = {**(kwargs.get("extra_context") or {}), **more}
        return super().change_view(request, object_id, *args, **kwargs)


@admin.register(ActiveTrade)
class ActiveTradeAdmin(TradePage):
    list_display = ["ticket_id", "strategy", "symbol", "side", "lots", "opened_for", "sl_", "tp_", "opened_at"]
    list_filter = ["strategy", "symbol", "type", "opened_at"]
    list_select_related = ["strategy", "account"]
    search_fields = ["ticket_id", "symbol", "trade__id", "account__name"]
    search_help_text = "Ticket, symbol, trade id or account"
    ordering = ["-opened_at"]
    list_per_page = 50
    actions = ["force_close"]

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trades.change_activetrade")

    @admin.display(description="side", ordering="type")
    def side(self, trade: ActiveTrade) -> SafeString:
        return shown.side(trade.type)

    @admin.display(description="volume", ordering="volume")
    def lots(self, trade: ActiveTrade) -> SafeString | str:
        return shown.number(trade.volume)

    @admin.display(description="open price")
    def opened_for(self, trade: ActiveTrade) -> SafeString | str:
        return shown.number(trade.open_price)

    @admin.display(description="SL")
    def sl_(self, trade: ActiveTrade) -> SafeString | str:
        return shown.number(trade.sl)

    @admin.display(description="TP")
    def tp_(self, trade: ActiveTrade) -> SafeString | str:
        return shown.number(trade.tp)

    @admin.action(description="Force close: moves to history, at a price and for a reason", permissions=["close"])
    def force_close(self, request: HttpRequest, chosen: QuerySet[ActiveTrade]) -> HttpResponse | None:
        trades = {trade.pk: trade for trade in chosen.select_related("strategy", "account")}
        sent = request.POST if "confirmed" in request.POST else None
        forms_ = ForceCloseForms(sent, initial=[{"trade_id": pk} for pk in trades])
        note = NoteForm(sent)
        if sent is None or not (forms_.is_valid() and note.is_valid()):
            context = {
                **self.admin_site.each_context(request),
                "opts": self.model._meta,
                "title": "Force close",
                "formset": forms_,
                "rows": list(zip(forms_, trades.values(), strict=False)),
                "note": note,
            }
            return TemplateResponse(request, "admin/force_close.html", context)
        for form in forms_:
            if form.cleaned_data["trade_id"] in trades:
                self._close_one(request, form.cleaned_data, note.cleaned_data["note"])
        return None

    def _close_one(self, request: HttpRequest, told: dict[str, Any], note: str) -> None:
        try:
            outcome = services.force_close(
                trade_id=told["trade_id"], close_price=told["close_price"], profit=told["profit"], note=note,
                actor=actor_of(request),
            )  # fmt: skip
        except DomainError as no:
            self.message_user(request, f"{told['trade_id']}: {no.says} ({no.code})", messages.ERROR)
        else:
            self.message_user(request, f"Ticket {outcome['trade']['ticket_id']} is closed.")


@admin.register(TradeHistory)
class TradeHistoryAdmin(TradePage):
    list_display = [
        "ticket_id", "strategy", "symbol", "side", "lots", "opened_for", "closed_for", "result", "reason", "closed_at",
    ]  # fmt: skip
    list_filter = ["closed_at", "reason", "kind", "type", "symbol", "strategy", "account"]
    list_select_related = ["strategy", "account"]
    search_fields = ["ticket_id", "symbol", "trade__id", "account__name", "comment"]
    search_help_text = "Ticket, symbol, trade id, account or comment"
    date_hierarchy = "closed_at"
    ordering = ["-closed_at", "-trade"]
    list_per_page = 50
    change_list_template = "admin/history_list.html"

    @admin.display(description="side", ordering="type")
    def side(self, closed: TradeHistory) -> SafeString:
        return shown.side(closed.type)

    @admin.display(description="volume", ordering="volume")
    def lots(self, closed: TradeHistory) -> SafeString | str:
        return shown.number(closed.volume)

    @admin.display(description="open price")
    def opened_for(self, closed: TradeHistory) -> SafeString | str:
        return shown.number(closed.open_price)

    @admin.display(description="close price")
    def closed_for(self, closed: TradeHistory) -> SafeString | str:
        return shown.number(closed.close_price)

    @admin.display(description="profit", ordering="profit")
    def result(self, closed: TradeHistory) -> SafeString | str:
        return shown.signed(closed.profit)

    def get_urls(self) -> list[URLPattern]:
        export = path("export.csv", self.admin_site.admin_view(self.export), name="trades_tradehistory_export")
        return [export, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        if self.has_view_permission(request):
            audit.record("history.viewed", actor=actor_of(request), filters=request.GET.urlencode()[:500])
        return super().changelist_view(request, extra_context)

    def export(self, request: HttpRequest) -> HttpResponseBase:
        """The rows of the current filter, streamed as CSV."""
        if not self.has_view_permission(request):
            return HttpResponseForbidden("You may not see history.")
        audit.record("history.exported", actor=actor_of(request), filters=request.GET.urlencode()[:500])
        rows = self.get_changelist_instance(request).get_queryset(request)
        return history.csv_response(rows.select_related("strategy", "account"))


@admin.register(CopyOrder)
class CopyOrderAdmin(ReadOnly):
    list_display = [
        "reported_at", "account", "strategy", "master_ticket", "status", "requested_price", "executed_price",
        "slippage_points", "slippage_bps", "latency_ms", "failed_reason",
    ]  # fmt: skip
    list_filter = ["status", "strategy", "reported_at"]
    list_select_related = ["strategy", "account"]
    search_fields = ["master_ticket", "account__name"]
    ordering = ["-id"]
