"""Transfers, holds and halts of the ledger in the admin."""

import uuid
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import SafeString

from audit.actors import actor_of
from core import formatting
from core.confirmed_actions import ConfirmedAction, change_url, link, wrapped_text
from core.errors import DomainError
from wallets import services
from wallets.admin.base import LedgerAdmin, check_not_own_wallet, owner_name, state_chip
from wallets.admin.confirmed_actions import REVERSE
from wallets.models import LedgerHalt, LedgerTransfer, WalletHold


@admin.register(LedgerTransfer)
class LedgerTransferAdmin(LedgerAdmin):
    change_form_template = "admin/wallets/transfer.html"
    list_display = ["at", "kind_", "source", "target", "amount_", "currency", "note_"]
    list_filter = ["kind", "at", "currency"]
    list_select_related = ["debit__owner", "credit__owner"]
    search_fields = ["note", "debit__owner__username", "credit__owner__username"]
    search_help_text = "Note or owner; or a whole transfer id"
    ordering = ["-at", "-id"]
    actions = ["reverse"]
    confirmation_columns = ["kind_", "source", "target", "amount_", "currency_", "note_"]
    fields = ["ref", "kind_", "amount_", "currency", "note", "at", "key", "claim_", "request_", "reverses_", "undone"]
    readonly_fields = ["ref", "kind_", "amount_", "key", "claim_", "request_", "reverses_", "undone"]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[LedgerTransfer], search_term: str
    ) -> tuple[QuerySet[LedgerTransfer], bool]:
        try:
            return queryset.filter(pk=uuid.UUID(search_term)), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="transfer id")
    def ref(self, transfer: LedgerTransfer) -> SafeString:
        return formatting.ref(transfer.pk)

    @admin.display(description="kind", ordering="kind")
    def kind_(self, transfer: LedgerTransfer) -> SafeString:
        return formatting.chip(transfer.get_kind_display(), "bad" if transfer.reverses_id else "")

    @admin.display(description="from", ordering="debit__owner__username")
    def source(self, transfer: LedgerTransfer) -> str:
        return owner_name(transfer.debit)

    @admin.display(description="to", ordering="credit__owner__username")
    def target(self, transfer: LedgerTransfer) -> str:
        return owner_name(transfer.credit)

    @admin.display(description="amount", ordering="amount")
    def amount_(self, transfer: LedgerTransfer) -> SafeString:
        return formatting.amount(transfer.amount)

    @admin.display(description="currency")
    def currency_(self, transfer: LedgerTransfer) -> str:
        return transfer.currency

    @admin.display(description="note")
    def note_(self, transfer: LedgerTransfer) -> SafeString:
        return wrapped_text(transfer.note)

    @admin.display(description="idempotency key")
    def key(self, transfer: LedgerTransfer) -> SafeString:
        return formatting.ref(f"{transfer.scope} {transfer.idempotency_key}")

    @admin.display(description="fee")
    def claim_(self, transfer: LedgerTransfer) -> SafeString | str:
        claim = transfer.claim
        return link(claim.agreement, f"{claim}, {claim.agreement}") if claim else "–"

    @admin.display(description="request")
    def request_(self, transfer: LedgerTransfer) -> SafeString | str:
        return link(getattr(transfer, "request", None))

    @admin.display(description="reverses")
    def reverses_(self, transfer: LedgerTransfer) -> SafeString | str:
        return link(transfer.reverses)

    @admin.display(description="reversed by")
    def undone(self, transfer: LedgerTransfer) -> SafeString | str:
        return link(getattr(transfer, "reversed_by", None))

    def offered_actions(self, transfer: LedgerTransfer) -> Sequence[ConfirmedAction]:
        is_final = transfer.reverses_id or transfer.claim_id or hasattr(transfer, "reversed_by")
        return () if is_final else (REVERSE,)

    def page_context(self, request: HttpRequest, transfer: LedgerTransfer) -> dict[str, Any]:
        return {"sides": transfer.entries.select_related("wallet__owner").order_by("side")}

    @admin.action(description="Reverse the transfer", permissions=["move"])
    def reverse(self, request: HttpRequest, chosen: QuerySet[LedgerTransfer]) -> HttpResponse | None:
        transfer = self.single(request, chosen.select_related("debit__owner", "credit__owner"))
        if transfer is None:
            return None
        form = REVERSE.bound_form(request)
        try:
            check_not_own_wallet(request, transfer.debit, transfer.credit)
            if not form.is_valid():
                return self.ask_confirmation(request, REVERSE, [transfer], form)
            services.reverse(
                transfer_id=transfer.pk, note=form.cleaned_data["reason"],
                idempotency_key=str(form.cleaned_data["key"]), actor=actor_of(request),
            )  # fmt: skip
        except DomainError as refusal:
            self.show_refusal(request, refusal)
        else:
            self.message_user(request, f"Reversed: {transfer}.")
        return redirect(change_url(transfer))


@admin.register(WalletHold)
class WalletHoldAdmin(LedgerAdmin):
    list_display = ["created_at", "state_", "whose", "purpose_", "amount_", "posted_", "currency", "expires_at"]
    list_filter = ["state", "created_at", "expires_at"]
    list_select_related = ["wallet__owner"]
    search_fields = ["wallet__owner__username", "purpose"]
    search_help_text = "Owner or purpose"
    ordering = ["-created_at", "-id"]
    fields = [
        "ref", "state_", "wallet_", "purpose", "amount_", "posted_", "created_at", "expires_at", "resolved_at",
        "transfer_", "request_",
    ]  # fmt: skip
    readonly_fields = ["ref", "state_", "wallet_", "amount_", "posted_", "transfer_", "request_"]

    @admin.display(description="hold id")
    def ref(self, hold: WalletHold) -> SafeString:
        return formatting.ref(hold.pk)

    @admin.display(description="state", ordering="state")
    def state_(self, hold: WalletHold) -> SafeString:
        return state_chip(hold)

    @admin.display(description="owner", ordering="wallet__owner__username")
    def whose(self, hold: WalletHold) -> str:
        return owner_name(hold.wallet)

    @admin.display(description="wallet")
    def wallet_(self, hold: WalletHold) -> SafeString | str:
        return link(hold.wallet)

    @admin.display(description="amount", ordering="amount")
    def amount_(self, hold: WalletHold) -> SafeString:
        return formatting.amount(hold.amount)

    @admin.display(description="purpose", ordering="purpose")
    def purpose_(self, hold: WalletHold) -> SafeString:
        return wrapped_text(hold.purpose)

    @admin.display(description="posted", ordering="posted")
    def posted_(self, hold: WalletHold) -> SafeString:
        return formatting.amount(hold.posted)

    @admin.display(description="currency")
    def currency(self, hold: WalletHold) -> str:
        return hold.wallet.currency

    @admin.display(description="transfer")
    def transfer_(self, hold: WalletHold) -> SafeString | str:
        return link(hold.transfer)

    @admin.display(description="request")
    def request_(self, hold: WalletHold) -> SafeString | str:
        return link(getattr(hold, "request", None))


@admin.register(LedgerHalt)
class LedgerHaltAdmin(LedgerAdmin):
    list_display = ["at", "state", "why_", "ended_at"]
    ordering = ["-id"]
    fields = ["at", "state", "why", "ended_at"]
    readonly_fields = ["state"]

    @admin.display(description="state", ordering="ended_at")
    def state(self, halt: LedgerHalt) -> SafeString:
        return formatting.chip("ended") if halt.ended_at else formatting.chip("halted", "bad")

    @admin.display(description="reason")
    def why_(self, halt: LedgerHalt) -> SafeString:
        return wrapped_text(halt.why)
