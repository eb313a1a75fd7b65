"""What the ledger's pages have in common."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from core import formatting, money
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin
from wallets import services
from wallets.admin.confirmed_actions import ADJUST, DEPOSIT, WITHDRAW
from wallets.models import MoneyRequest, Wallet

ROWS = 50  # of a table on a page


class LedgerAdmin(ConfirmedActionsAdmin):
    """A page of the ledger."""

    change_form_template = "admin/wallets/page.html"
    confirmation_template = "admin/wallets/confirm_action.html"

    def has_move_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("wallets.change_wallet")

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("wallets.change_moneyrequest")

    def ask_confirmation(
        self, request: HttpRequest, step: ConfirmedAction, rows: Iterable[Any], form: forms.Form, **more: Any
    ) -> HttpResponse:
        limit = settings.SECOND_PERSON_ABOVE if step in (DEPOSIT, WITHDRAW, ADJUST) else None
        return super().ask_confirmation(request, step, rows, form, limit=limit, **more)


def whose(wallet: Wallet) -> str:
    """A person's user name, or which account of the house."""
    return wallet.owner.get_username() if wallet.owner else wallet.get_kind_display()


def check_not_their_own(request: HttpRequest, *wallets: Wallet) -> None:
    """Staff move nothing in or out of a wallet of their own."""
    if any(wallet.owner == request.user for wallet in wallets):
        raise services.SecondPersonNeeded


STATE_CHIPS = {"DONE": "good", "PENDING": "wait", "REJECTED": "bad", "POSTED": "good"}


def state_chip(one: Any) -> SafeString:
    return formatting.chip(one.state.lower(), STATE_CHIPS.get(one.state, ""))


def describe_request(asked: MoneyRequest) -> str:
    amount = money.plain(asked.amount, formatting.MONEY)
    return f"{capfirst(asked.get_kind_display())} of {amount} {asked.wallet.currency}, {whose(asked.wallet)}"
