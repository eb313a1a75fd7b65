"""Requests for money in the admin, and the decisions on them."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from audit.actors import actor_of
from core import formatting
from core.confirmed_actions import ConfirmedAction, caller, link, wrapped_text
from core.errors import DomainError
from wallets import services
from wallets.admin.base import LedgerAdmin, describe_request, owner_name, state_chip
from wallets.admin.confirmed_actions import APPROVE, REJECT
from wallets.models import MoneyRequest

MAX_DECISIONS = 50  # in one HTTP request; each is a transaction of its own


@admin.register(MoneyRequest)
class MoneyRequestAdmin(LedgerAdmin):
    list_display = [
        "created_at",
        "state_",
        "whose",
        "kind",
        "amount_",
        "currency",
        "reason_",
        "why_two",
        "by",
    ]
    list_filter = ["state", "kind", "needs_second", "created_at"]
    list_select_related = ["wallet__owner", "requested_by", "decided_by", "destination"]
    search_fields = ["wallet__owner__username", "requested_by__username", "reason"]
    search_help_text = "Owner, requester or reason"
    ordering: ClassVar[Any] = [
        Case(When(state=MoneyRequest.State.PENDING, then=Value(0)), default=Value(1)), "-created_at"
    ]  # fmt: skip
    actions = ["approve", "reject"]
    confirmation_columns = [
        "whose",
        "kind_",
        "amount_",
        "currency",
        "available_",
        "destination_",
        "reason_",
        "why_two",
        "by",
    ]
    fields = [
        "state_", "wallet_", "kind", "amount_", "destination_", "reason", "why_two", "by", "created_at", "decided",
        "decided_at", "transfer_", "hold_",
    ]  # fmt: skip
    readonly_fields = ["state_", "wallet_", "amount_", "destination_", "why_two", "by", "decided", "transfer_", "hold_"]

    @admin.display(description="state", ordering="state")
    def state_(self, row: MoneyRequest) -> SafeString:
        return state_chip(row)

    @admin.display(description="owner", ordering="wallet__owner__username")
    def whose(self, row: MoneyRequest) -> str:
        return owner_name(row.wallet)

    @admin.display(description="wallet")
    def wallet_(self, row: MoneyRequest) -> SafeString | str:
        return link(row.wallet)

    @admin.display(description="kind")
    def kind_(self, row: MoneyRequest) -> str:
        return row.get_kind_display()

    @admin.display(description="amount", ordering="amount")
    def amount_(self, row: MoneyRequest) -> SafeString:
        is_debit = row.kind == MoneyRequest.Kind.WITHDRAWAL
        return formatting.signed(-row.amount if is_debit else row.amount)

    @admin.display(description="currency")
    def currency(self, row: MoneyRequest) -> str:
        return row.wallet.currency

    @admin.display(description="available now")
    def available_(self, row: MoneyRequest) -> SafeString:
        return formatting.amount(row.wallet.available)

    @admin.display(description="reason")
    def reason_(self, row: MoneyRequest) -> SafeString:
        return wrapped_text(row.reason)

    @admin.display(description="destination")
    def destination_(self, row: MoneyRequest) -> SafeString | str:
        return link(row.destination)

    @admin.display(description="second person", ordering="needs_second")
    def why_two(self, row: MoneyRequest) -> str:
        return (row.second_reason or "needed") if row.needs_second else "–"

    @admin.display(description="requested by", ordering="requested_by__username")
    def by(self, row: MoneyRequest) -> str:
        return row.requested_by.get_username()

    @admin.display(description="decided by", ordering="decided_by__username")
    def decided(self, row: MoneyRequest) -> str:
        return row.decided_by.get_username() if row.decided_by else "–"

    @admin.display(description="transfer")
    def transfer_(self, row: MoneyRequest) -> SafeString | str:
        return link(row.transfer)

    @admin.display(description="hold")
    def hold_(self, row: MoneyRequest) -> SafeString | str:
        return link(row.hold)

    def offered_actions(self, row: MoneyRequest) -> Sequence[ConfirmedAction]:
        return (APPROVE, REJECT) if row.state == MoneyRequest.State.PENDING else ()

    @admin.action(description="Approve: the money moves at once", permissions=["decide"])
    def approve(self, request: HttpRequest, chosen: QuerySet[MoneyRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, APPROVE, services.approve)

    @admin.action(description="Reject", permissions=["decide"])
    def reject(self, request: HttpRequest, chosen: QuerySet[MoneyRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, REJECT, services.reject)

    def _decide(
        self,
        request: HttpRequest,
        chosen: QuerySet[MoneyRequest],
        action: ConfirmedAction,
        verb: Callable[..., MoneyRequest],
    ) -> HttpResponse | None:
        rows = list(
            chosen.select_related("wallet__owner", "requested_by", "destination").order_by("created_at")[:MAX_DECISIONS]
        )
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, rows, form)
        for row in rows:
            self._decide_one(request, row, verb, **form.cleaned_data)
        return None

    def _decide_one(
        self, request: HttpRequest, row: MoneyRequest, verb: Callable[..., MoneyRequest], **answers: Any
    ) -> None:
        try:
            decided = verb(request=row, by=caller(request), actor=actor_of(request), **answers)
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=describe_request(row))
        else:
            self.message_user(request, f"{describe_request(row)}: {decided.get_state_display()}.")
