"""Staff's closes and corrections in the admin. Each has a page that says what will happen at the brokers."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.actors import actor_of
from core import confirmed_actions, formatting, money
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin, ReasonForm, caller
from core.errors import DomainError
from strategies.models import Subscription
from trades.models import ActiveTrade, Copier, OrderedClose, Reason, Trade, TradeHistory, TradeRequest
from trades.services import overdue_closes, staff

MAX_FORCE_CLOSES = 50  # each runs in a transaction of its own, within one HTTP request


def _amount(label: str, **options: Any) -> forms.DecimalField:
    widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "aria-label": label})
    return forms.DecimalField(
        label=label, max_digits=money.DIGITS, decimal_places=money.PLACES, widget=widget, **options
    )


class ForceCloseForm(forms.Form):
    """The close of one trade by staff. A copy needs no price: its copier reports the broker's."""

    trade_id = forms.UUIDField(widget=forms.HiddenInput)
    close_price = _amount("Close price", required=False)


ForceCloseForms = forms.formset_factory(ForceCloseForm, extra=0, max_num=MAX_FORCE_CLOSES, validate_max=True)


class NoteForm(forms.Form):
    note = forms.CharField(
        label="Reason", max_length=500, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Recorded in the audit log with your name.",
    )  # fmt: skip


class CorrectionForm(forms.Form):
    close_price = _amount("Close price")
    profit = forms.DecimalField(
        max_digits=money.DIGITS, decimal_places=money.PLACES, label="Profit of the whole trade",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
        help_text="Partial closes included, in the account's currency.",
    )  # fmt: skip
    reason = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Shown beside the trade to its owner, and recorded with your name.",
    )  # fmt: skip


FORCE_CLOSE = ConfirmedAction("force_close", "Force close", "", NoteForm, grave=True)
SETTLE = ConfirmedAction(
    "settle", "Record as closed",
    "For a copy that its owner has closed at the broker while no copier reports it. The desk records the provider's "
    "close price, and the profit that follows from it. Nothing is sent to a broker.",
    NoteForm, grave=True,
)  # fmt: skip
CORRECT = ConfirmedAction(
    "correct", "Correct the figures",
    "The first figures stay. The new ones stand beside them once a colleague has approved them, and count for the fees "
    "of the next settlement.",
    CorrectionForm, grave=True,
)  # fmt: skip
APPROVE = ConfirmedAction("approve", "Approve", "It takes effect at once and cannot be undone.", forms.Form, grave=True)
REJECT = ConfirmedAction("reject", "Reject", "Nothing changes.", ReasonForm)


@dataclass(frozen=True, slots=True)
class Followers:
    """The copiers that receive the close of a provider's trade: how many are online, and who is not."""

    online: int
    offline: Sequence[str]


def followers_of(trade: ActiveTrade) -> Followers:
    """By the open copies of the trade."""
    accounts = dict(ActiveTrade.objects.filter(master_trade=trade.pk).values_list("account_id", "account__name"))
    online = set(
        Copier.objects.filter(account__in=accounts, leased_until__gt=timezone.now()).values_list(
            "account_id", flat=True
        )
    )
    return Followers(len(online), sorted(name for account, name in accounts.items() if account not in online))


@dataclass(frozen=True, slots=True)
class CopierState:
    """Whether the copier of one copy can carry out its close."""

    is_online: bool
    follows: bool
    is_ordered: bool


def copier_of(copy: ActiveTrade) -> CopierState:
    online = Copier.objects.filter(account=copy.account_id, leased_until__gt=timezone.now()).exists()
    live = Subscription.objects.live().filter(account=copy.account_id, strategy=copy.strategy_id).exists()
    return CopierState(online, live, OrderedClose.objects.filter(copy=copy.pk).exists())


class ForceClose(ConfirmedActionsAdmin):
    """The actions on open trades."""

    actions = ("force_close", "settle")

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trades.change_activetrade")

    def offered_actions(self, trade: ActiveTrade) -> Sequence[ConfirmedAction]:
        is_overdue = trade.is_copy and overdue_closes.overdue().filter(pk=trade.pk).exists()
        return (FORCE_CLOSE, SETTLE) if is_overdue else (FORCE_CLOSE,)

    @admin.action(description="Force close the selected trades", permissions=["close"])
    def force_close(self, request: HttpRequest, chosen: QuerySet[ActiveTrade]) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            trades = list(chosen.select_related("strategy", "account")[: MAX_FORCE_CLOSES + 1])
            if not 0 < len(trades) <= MAX_FORCE_CLOSES:
                fault = f"Choose at most {MAX_FORCE_CLOSES} trades." if trades else "These trades are already closed."
                self.message_user(request, fault, messages.ERROR)
                return None
            initial = [{"trade_id": trade.pk, "close_price": _proposed_price(trade)} for trade in trades]
            return self._ask_prices(request, ForceCloseForms(initial=initial), NoteForm())
        closes, note = ForceCloseForms(request.POST), NoteForm(request.POST)
        is_valid = closes.is_valid() and note.is_valid()
        if "calculate" in request.POST or not is_valid:
            return self._ask_prices(request, closes, NoteForm(initial=request.POST) if closes.is_valid() else note)
        for close in closes.cleaned_data:
            self._force_close(request, close, note.cleaned_data["note"])
        return None

    def _ask_prices(self, request: HttpRequest, closes: Any, note: NoteForm) -> HttpResponse:
        rows = [_row(form) for form in closes if "trade_id" not in form.errors]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Force close",
            "formset": closes,
            "masters": [row for row in rows if row["trade"] and not row["trade"].is_copy],
            "copies": [row for row in rows if row["trade"] and row["trade"].is_copy],
            "gone": [row for row in rows if not row["trade"]],
            "rows": [(row["form"], row["trade"]) for row in rows],
            "note": note,
            "now": timezone.now(),
        }
        return TemplateResponse(request, "admin/force_close.html", context)

    def _force_close(self, request: HttpRequest, close: dict[str, Any], note: str) -> None:
        trade_id, more = close["trade_id"], {"by": caller(request), "actor": actor_of(request), "note": note}
        trade = ActiveTrade.objects.filter(pk=trade_id).first()
        try:
            if trade is not None and trade.is_copy:
                staff.order_close(copy_id=trade_id, **more)
                says = f"The close of ticket {trade.ticket_id} is ordered. It stays open until its copier reports it."
            elif trade is not None and close["close_price"] is None:
                self.message_user(request, f"Ticket {trade.ticket_id}: enter a close price.", messages.ERROR)
                return
            else:
                price = close["close_price"] or Decimal(0)
                done = staff.close(trade_id=trade_id, close_price=price, now=timezone.now(), **more)
                says = _close_in_words(done, trade)
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=f"Trade {trade_id}")
        else:
            self.message_user(request, says)

    @admin.action(description="Record an overdue copy as closed", permissions=["close"])
    def settle(self, request: HttpRequest, chosen: QuerySet[ActiveTrade]) -> HttpResponse | None:
        copy = self.single(request, chosen.select_related("strategy", "account"))
        if copy is None:
            return None
        form = SETTLE.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, SETTLE, [copy], form)
        try:
            settled = overdue_closes.settle(
                copy_id=copy.pk, told_price=None, reason=Reason.STAFF, note=form.cleaned_data["note"],
                actor=actor_of(request), now=timezone.now(),
            )  # fmt: skip
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=f"Ticket {copy.ticket_id}")
        else:
            price = money.plain(settled.close_price, formatting.PRICE)
            self.message_user(request, f"Ticket {copy.ticket_id} is recorded as closed at {price}.")
        return None


def _proposed_price(trade: ActiveTrade) -> str:
    if trade.is_copy:
        return ""
    price = staff.proposal(trade, None, now=timezone.now()).close_price
    return "" if price is None else money.plain(price)


def _row(form: Any) -> dict[str, Any]:
    """A trade on the confirmation page, with what its close is worth and what happens at the brokers."""
    trade = ActiveTrade.objects.select_related("strategy", "account").filter(pk=_uuid(form)).first()
    row: dict[str, Any] = {"form": form, "trade": trade}
    if trade is None:
        return row
    if trade.is_copy:
        return row | {"copier": copier_of(trade)}
    return row | {"followers": followers_of(trade), "proposal": staff.proposal(trade, _price(form), now=timezone.now())}


def _uuid(form: Any) -> uuid.UUID | None:
    value = form["trade_id"].value()
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError:
        return None


def _price(form: Any) -> Decimal | None:
    if not form.is_bound:
        return None
    price: Decimal | None = getattr(form, "cleaned_data", {}).get("close_price")
    return price


def _close_in_words(done: Any, trade: Any) -> str:
    if isinstance(done, TradeRequest):
        return f"Ticket {trade.ticket_id} is not closed yet. A colleague has to approve: {done.why_second}."
    closed = done["trade"]
    profit = money.grouped(Decimal(closed["closing_profit"]))
    price = money.plain(Decimal(closed["close_price"]), formatting.PRICE)
    return f"Ticket {closed['ticket_id']} is closed. At {price} the profit is {profit}."


class Correct(ConfirmedActionsAdmin):
    """The actions on closed trades."""

    actions = ("correct",)

    def has_correct_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trades.change_tradehistory")

    def offered_actions(self, closed: TradeHistory) -> Sequence[ConfirmedAction]:
        return (CORRECT,) if closed.kind == TradeHistory.Kind.TRADE else ()

    @admin.action(description="Correct the figures of one trade", permissions=["correct"])
    def correct(self, request: HttpRequest, chosen: QuerySet[TradeHistory]) -> HttpResponse | None:
        closed = self.single(request, chosen.select_related("strategy", "account"))
        if closed is None:
            return None
        form: forms.Form = CORRECT.bound_form(request)
        if not form.is_bound and closed.profit is not None:
            form = CorrectionForm(
                initial={
                    "close_price": money.plain(closed.counted_close_price),
                    "profit": money.plain(closed.counted_profit),
                }
            )
        if not form.is_valid():
            return self.ask_confirmation(request, CORRECT, [closed], form)
        try:
            staff.request_correction(
                trade_id=closed.pk, by=caller(request), actor=actor_of(request), **form.cleaned_data
            )
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=f"Ticket {closed.ticket_id}")
        else:
            self.message_user(request, f"Ticket {closed.ticket_id}: a colleague has to approve the correction.")
        return None


@admin.register(TradeRequest)
class TradeRequestAdmin(ConfirmedActionsAdmin):
    """Closes and corrections that await a second person, pending ones first."""

    list_display = ["created_at", "state_", "kind", "ticket", "close_price_", "profit_", "reason_", "by", "decided"]
    list_filter = ["state", "kind", "created_at"]
    list_select_related = ["trade__account", "requested_by", "decided_by"]
    search_fields = ["trade__ticket_id", "trade__account__name", "requested_by__username", "reason"]
    search_help_text = "Ticket, account, requester or reason"
    ordering: ClassVar[Any] = [
        Case(When(state=TradeRequest.State.PENDING, then=Value(0)), default=Value(1)), "-created_at"
    ]  # fmt: skip
    actions = ("approve", "reject")
    confirmation_columns: ClassVar[Sequence[str]] = [
        "kind_", "ticket", "account", "close_price_", "profit_", "reason_", "why", "by",
    ]  # fmt: skip
    fields = [
        "state_", "kind", "ticket", "account", "ref", "close_price_", "profit_", "reason", "why_second", "by",
        "created_at", "decided", "decided_at",
    ]  # fmt: skip
    readonly_fields = ["state_", "ticket", "account", "ref", "close_price_", "profit_", "by", "decided"]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trades.change_traderequest")

    def offered_actions(self, row: TradeRequest) -> Sequence[ConfirmedAction]:
        return (APPROVE, REJECT) if row.state == TradeRequest.State.PENDING else ()

    @admin.display(description="state", ordering="state")
    def state_(self, row: TradeRequest) -> SafeString:
        return formatting.chip(row.get_state_display(), {"DONE": "good", "PENDING": "wait"}.get(row.state, "bad"))

    @admin.display(description="kind")
    def kind_(self, row: TradeRequest) -> str:
        return row.get_kind_display()

    @admin.display(description="ticket")
    def ticket(self, row: TradeRequest) -> str:
        return str(row.trade.ticket_id)

    @admin.display(description="account")
    def account(self, row: TradeRequest) -> str:
        return str(row.trade.account)

    @admin.display(description="trade")
    def ref(self, row: TradeRequest) -> SafeString:
        home = "activetrade" if row.trade.state == Trade.State.OPEN else "tradehistory"
        page = reverse(f"admin:trades_{home}_change", args=[row.trade_id])
        return format_html('<a href="{}">{}</a>', page, formatting.ref(row.trade_id))

    @admin.display(description="close price")
    def close_price_(self, row: TradeRequest) -> SafeString:
        return formatting.number(row.close_price, formatting.PRICE)

    @admin.display(description="profit")
    def profit_(self, row: TradeRequest) -> SafeString:
        return formatting.signed(row.profit)

    @admin.display(description="reason")
    def reason_(self, row: TradeRequest) -> SafeString:
        return confirmed_actions.wrapped_text(row.reason)

    @admin.display(description="why two people")
    def why(self, row: TradeRequest) -> SafeString:
        return confirmed_actions.wrapped_text(row.why_second)

    @admin.display(description="requested by", ordering="requested_by__username")
    def by(self, row: TradeRequest) -> str:
        return str(row.requested_by.get_username())

    @admin.display(description="decided by", ordering="decided_by__username")
    def decided(self, row: TradeRequest) -> str:
        return row.decided_by.get_username() if row.decided_by else "–"

    @admin.action(description="Approve: it takes effect at once", permissions=["decide"])
    def approve(self, request: HttpRequest, chosen: QuerySet[TradeRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, APPROVE, staff.approve)

    @admin.action(description="Reject", permissions=["decide"])
    def reject(self, request: HttpRequest, chosen: QuerySet[TradeRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, REJECT, staff.reject)

    def _decide(
        self, request: HttpRequest, chosen: QuerySet[TradeRequest], action: ConfirmedAction, verb: Callable[..., Any]
    ) -> HttpResponse | None:
        row = self.single(request, chosen.select_related("trade__account", "requested_by"))
        if row is None:
            return None
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, [row], form)
        subject = f"{row.get_kind_display().capitalize()} of ticket {row.trade.ticket_id}"
        try:
            verb(request=row, by=caller(request), actor=actor_of(request), **form.cleaned_data)
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=subject)
        else:
            self.message_user(request, f"{subject}: {action.title.lower()}{'d' if action is APPROVE else 'ed'}.")
        return None
