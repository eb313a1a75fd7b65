"""Money that was asked for, and who decides."""

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
from wallets.admin.base import LedgerAdmin, describe_request, state_chip, whose
from wallets.admin.confirmed_actions import APPROVE, REJECT
from wallets.models import MoneyRequest

DECIDED_AT_ONCE = 50  # each is a transaction of its own, within one request


@admin.register(MoneyRequest)
class MoneyRequestAdmin(LedgerAdmin):
    list_display = ["created_at", "state_", "whose", "kind", "amount_", "currency", "reason_", "by", "decided"]
    list_filter = ["state", "kind", "needs_second", "created_at"]
    list_select_related = ["wallet__owner", "requested_by", "decided_by"]
    search_fields = ["wallet__owner__username", "requested_by__username", "reason"]
    search_help_text = "Owner, who asked, or reason"
    ordering: ClassVar[Any] = [
        Case(When(state=MoneyRequest.State.PENDING, then=Value(0)), default=Value(1)), "-created_at"
    ]  # fmt: skip
    actions = ["approve", "reject"]
    confirmation_columns = ["whose", "kind_", "amount_", "currency", "available_", "reason_", "by"]
    fields = [
        "state_", "wallet_", "kind", "amount_", "reason", "limit", "by", "created_at", "decided", "decided_at",
        "transfer_", "hold_",
    ]  # fmt: skip
    readonly_fields = ["state_", "wallet_", "amount_", "limit", "by", "decided", "transfer_", "hold_"]

    @admin.display(description="state", ordering="state")
    def state_(self, asked: MoneyRequest) -> SafeString:
        return state_chip(asked)

    @admin.display(description="whose", ordering="wallet__owner__username")
    def whose(self, asked: MoneyRequest) -> str:
        return whose(asked.wallet)

    @admin.display(description="wallet")
    def wallet_(self, asked: MoneyRequest) -> SafeString | str:
        return link(asked.wallet)

    @admin.display(description="kind")
    def kind_(self, asked: MoneyRequest) -> str:
        return asked.get_kind_display()

    @admin.display(description="amount", ordering="amount")
    def amount_(self, asked: MoneyRequest) -> SafeString:
        takes = asked.kind == MoneyRequest.Kind.WITHDRAWAL
        return formatting.signed(-asked.amount if takes else asked.amount)

    @admin.display(description="currency")
    def currency(self, asked: MoneyRequest) -> str:
        return asked.wallet.currency

    @admin.display(description="available now")
    def available_(self, asked: MoneyRequest) -> SafeString:
        return formatting.number(asked.wallet.available, formatting.MONEY)

    @admin.display(description="reason")
    def reason_(self, asked: MoneyRequest) -> SafeString:
        return wrapped_text(asked.reason)

    @admin.display(description="above the limit")
    def limit(self, asked: MoneyRequest) -> str:
        return "yes: two people" if asked.needs_second else "no"

    @admin.display(description="asked by", ordering="requested_by__username")
    def by(self, asked: MoneyRequest) -> str:
        return asked.requested_by.get_username()

    @admin.display(description="decided by", ordering="decided_by__username")
    def decided(self, asked: MoneyRequest) -> str:
        return asked.decided_by.get_username() if asked.decided_by else "–"

    @admin.display(description="transfer")
    def transfer_(self, asked: MoneyRequest) -> SafeString | str:
        return link(asked.transfer)

    @admin.display(description="hold")
    def hold_(self, asked: MoneyRequest) -> SafeString | str:
        return link(asked.hold)

    def offered_actions(self, asked: MoneyRequest) -> Sequence[ConfirmedAction]:
        return (APPROVE, REJECT) if asked.state == MoneyRequest.State.PENDING else ()

    @admin.action(description="Approve: the money moves", permissions=["decide"])
    def approve(self, request: HttpRequest, chosen: QuerySet[MoneyRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, APPROVE, services.approve)

    @admin.action(description="Reject, for a reason", permissions=["decide"])
    def reject(self, request: HttpRequest, chosen: QuerySet[MoneyRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, REJECT, services.reject)

    def _decide(
        self,
        request: HttpRequest,
        chosen: QuerySet[MoneyRequest],
        step: ConfirmedAction,
        verb: Callable[..., MoneyRequest],
    ) -> HttpResponse | None:
        asked = list(chosen.select_related("wallet__owner", "requested_by").order_by("created_at")[:DECIDED_AT_ONCE])
        form = step.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, step, asked, form)
        for one in asked:
            self._decide_one(request, one, verb, **form.cleaned_data)
        return None

    def _decide_one(
        self, request: HttpRequest, asked: MoneyRequest, verb: Callable[..., MoneyRequest], **told: Any
    ) -> None:
        try:
            decided = verb(request=asked, by=caller(request), actor=actor_of(request), **told)
        except DomainError as no:
            self.show_refusal(request, no, of=describe_request(asked))
        else:
            self.message_user(request, f"{describe_request(asked)}: {decided.get_state_display()}.")
