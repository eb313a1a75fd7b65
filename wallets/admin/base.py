"""What the admin pages of the ledger share."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from core import formatting, money
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin
from wallets import services
from wallets.admin.confirmed_actions import ADJUST, DEPOSIT, WITHDRAW
from wallets.models import MoneyRequest, Wallet
from wallets.services import second_person

ROWS = 50  # in a table on a page


class LedgerAdmin(ConfirmedActionsAdmin):
    change_form_template = "admin/wallets/page.html"
    confirmation_template = "admin/wallets/confirm_action.html"

    def has_move_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("wallets.change_wallet")

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("wallets.change_moneyrequest")

    def ask_confirmation(
        self, request: HttpRequest, action: ConfirmedAction, rows: Iterable[Any], form: forms.Form, **more: Any
    ) -> HttpResponse:
        if action.action in (DEPOSIT.action, WITHDRAW.action, ADJUST.action):
            (wallet,) = rows
            more |= {"limit": second_person.above(wallet.currency), "currency": wallet.currency}
        return super().ask_confirmation(request, action, rows, form, **more)


def owner_name(wallet: Wallet) -> str:
    """A person's user name, or the kind of house account."""
    return wallet.owner.get_username() if wallet.owner else wallet.get_kind_display()


def check_not_own_wallet(request: HttpRequest, *wallets: Wallet) -> None:
    """Staff must not move money into or out of their own wallet."""
    if any(wallet.owner == request.user for wallet in wallets):
        raise services.SecondPersonNeeded


STATE_CHIPS = {"DONE": "good", "PENDING": "wait", "REJECTED": "bad", "POSTED": "good"}


def state_chip(row: Any) -> SafeString:
    return formatting.chip(row.state.lower(), STATE_CHIPS.get(row.state, ""))


def describe_request(row: MoneyRequest) -> str:
    amount = money.grouped(row.amount)
    return f"{capfirst(row.get_kind_display())} of {amount} {row.wallet.currency}, {owner_name(row.wallet)}"
