"""Wallets in the admin, and the actions that staff have on them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import SafeString

from audit.actors import actor_of
from audit.admin import with_user_names
from audit.models import AuditLog
from core import formatting
from core.confirmed_actions import ConfirmedAction, caller, change_url
from core.errors import DomainError
from wallets import services
from wallets.admin.base import ROWS, LedgerAdmin, check_not_own_wallet, describe_request
from wallets.admin.confirmed_actions import (
    ADJUST,
    DEPOSIT,
    FREEZE,
    UNFREEZE,
    WITHDRAW,
    WithdrawForm,
    resubmitted_form,
)
from wallets.models import Destination, LedgerEntry, MoneyRequest, Wallet, WalletHold

TIMELINE_ACTIONS = ["wallet.frozen", "wallet.unfrozen", "money.requested", "money.rejected", "money.refused"]


class FrozenFilter(admin.SimpleListFilter):
    title = parameter_name = "frozen"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Wallet]) -> QuerySet[Wallet]:
        return queryset.filter(frozen_at__isnull=self.value() == "no") if self.value() else queryset


@admin.register(Wallet)
class WalletAdmin(LedgerAdmin):
    change_form_template = "admin/wallets/wallet.html"
    list_display = ["whose", "kind_", "currency", "balance_", "held_", "available_", "version_", "frozen"]
    list_filter = ["kind", "currency", FrozenFilter]
    list_select_related = ["owner"]
    search_fields = ["owner__username"]
    search_help_text = "The owner's user name"
    ordering = ["owner__username", "id"]
    actions = ["deposit", "withdraw", "adjust", "freeze", "unfreeze"]
    confirmation_columns = ["whose", "currency_", "balance_", "held_", "available_", "frozen"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["version", "created_at", "shard" if obj and obj.owner is None else "frozen_at"]

    @admin.display(description="owner", ordering="owner__username")
    def whose(self, wallet: Wallet) -> str:
        return wallet.owner.get_username() if wallet.owner else f"house {wallet.shard}"

    @admin.display(description="kind", ordering="kind")
    def kind_(self, wallet: Wallet) -> SafeString:
        return kind_chip(wallet)

    @admin.display(description="currency")
    def currency_(self, wallet: Wallet) -> str:
        return wallet.currency

    @admin.display(description="balance", ordering="balance")
    def balance_(self, wallet: Wallet) -> SafeString:
        return formatting.amount(wallet.balance)

    @admin.display(description="held", ordering="held")
    def held_(self, wallet: Wallet) -> SafeString:
        return formatting.amount(wallet.held)

    @admin.display(description="available", ordering=F("balance") - F("held"))
    def available_(self, wallet: Wallet) -> SafeString:
        return formatting.amount(wallet.available)

    @admin.display(description="version", ordering="version")
    def version_(self, wallet: Wallet) -> SafeString:
        return formatting.number(Decimal(wallet.version))

    @admin.display(description="state", ordering="frozen_at")
    def frozen(self, wallet: Wallet) -> SafeString | str:
        if wallet.owner is None:
            return "–"
        return formatting.chip("frozen", "bad") if wallet.is_frozen else formatting.chip("open", "good")

    def offered_actions(self, wallet: Wallet) -> Sequence[ConfirmedAction]:
        if wallet.owner is None:
            return ()
        return DEPOSIT, WITHDRAW, ADJUST, UNFREEZE if wallet.is_frozen else FREEZE

    def page_context(self, request: HttpRequest, wallet: Wallet) -> dict[str, Any]:
        entries = LedgerEntry.objects.filter(wallet=wallet).select_related("transfer").order_by("-version")
        before = request.GET.get("before", "")
        if before.isdecimal() and len(before) < 19:  # the digits of the largest version
            entries = entries.filter(version__lt=int(before))
        page = list(entries[: ROWS + 1])
        audit_rows = AuditLog.objects.filter(subject=f"wallet:{wallet.pk}", action__in=TIMELINE_ACTIONS).order_by("-id")
        return {
            "wallet": wallet,
            "kind_chip": kind_chip(wallet),
            "entries": page[:ROWS],
            "older": page[ROWS - 1].version if len(page) > ROWS else None,
            "is_newest": not before,
            "holds": wallet.holds.filter(state=WalletHold.State.PENDING).order_by("created_at")[:ROWS],
            "requests": wallet.requests.filter(state=MoneyRequest.State.PENDING)
            .select_related("requested_by")
            .order_by("created_at")[:ROWS],
            "timeline": with_user_names(audit_rows[:5]),
        }

    @admin.action(description="Deposit: credit money received", permissions=["move"])
    def deposit(self, request: HttpRequest, chosen: QuerySet[Wallet]) -> HttpResponse | None:
        return self._move(request, chosen, DEPOSIT, MoneyRequest.Kind.DEPOSIT)

    @admin.action(description="Withdraw: debit money paid out", permissions=["move"])
    def withdraw(self, request: HttpRequest, chosen: QuerySet[Wallet]) -> HttpResponse | None:
        return self._move(request, chosen, WITHDRAW, MoneyRequest.Kind.WITHDRAWAL)

    @admin.action(description="Adjust: correct the balance", permissions=["move"])
    def adjust(self, request: HttpRequest, chosen: QuerySet[Wallet]) -> HttpResponse | None:
        return self._move(request, chosen, ADJUST, MoneyRequest.Kind.ADJUSTMENT)

    @admin.action(description="Freeze: block debits", permissions=["move"])
    def freeze(self, request: HttpRequest, chosen: QuerySet[Wallet]) -> HttpResponse | None:
        return self._with_reason(request, chosen, FREEZE, services.freeze)

    @admin.action(description="Unfreeze", permissions=["move"])
    def unfreeze(self, request: HttpRequest, chosen: QuerySet[Wallet]) -> HttpResponse | None:
        return self._with_reason(request, chosen, UNFREEZE, services.unfreeze)

    def _move(
        self, request: HttpRequest, chosen: QuerySet[Wallet], action: ConfirmedAction, kind: MoneyRequest.Kind
    ) -> HttpResponse | None:
        def request_money(wallet: Wallet, answers: dict[str, Any]) -> str:
            row = services.request_money(
                wallet=wallet, kind=kind, amount=answers["amount"], reason=answers["reason"],
                idempotency_key=str(answers["key"]), by=caller(request), actor=actor_of(request),
                destination=answers.get("destination"),
            )  # fmt: skip
            return f"{describe_request(row)}: {row.get_state_display()}."

        return self._confirm_and_do(request, chosen, action, request_money)

    def _with_reason(
        self, request: HttpRequest, chosen: QuerySet[Wallet], action: ConfirmedAction, verb: Callable[..., None]
    ) -> HttpResponse | None:
        def call(wallet: Wallet, answers: dict[str, Any]) -> str:
            verb(wallet=wallet, reason=answers["reason"], actor=actor_of(request))
            return f"{action.title}: done for {wallet}."

        return self._confirm_and_do(request, chosen, action, call)

    def _confirm_and_do(
        self,
        request: HttpRequest,
        chosen: QuerySet[Wallet],
        action: ConfirmedAction,
        do: Callable[[Wallet, dict[str, Any]], str],
    ) -> HttpResponse | None:
        wallet = self.single(request, chosen.select_related("owner"))
        if wallet is None:
            return None
        if wallet.owner is None:
            self.message_user(request, "Choose a person's wallet: house accounts move only with them.", messages.ERROR)
            return None
        if action is WITHDRAW:
            confirmed = Destination.objects.confirmed().filter(owner=wallet.owner).order_by("name")
            action = replace(WITHDRAW, form=partial(WithdrawForm, destinations=confirmed))
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, [wallet], form)
        try:
            check_not_own_wallet(request, wallet)
            self.message_user(request, do(wallet, form.cleaned_data))
        except DomainError as refusal:
            self.show_refusal(request, refusal)
            return self.ask_confirmation(request, action, [wallet], resubmitted_form(request, action, refusal))
        return redirect(change_url(wallet))


def kind_chip(wallet: Wallet) -> SafeString:
    kind = wallet.get_kind_display().removeprefix("house: ")
    return formatting.chip(kind)
