"""The admin actions of the ledger that ask for confirmation on a page of their own, with their forms."""

import uuid
from decimal import Decimal
from typing import Any

from django import forms
from django.http import HttpRequest

from core import money
from core.confirmed_actions import ConfirmedAction, ReasonForm
from core.errors import DomainError
from wallets.models import Destination


class KeyedForm(forms.Form):
    """The key is created when the page is shown, so that a form submitted twice is one request."""

    key = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    reason: forms.Field = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Shown in the ledger and, with your name, in the audit log.",
    )  # fmt: skip


def _amount(**options: Any) -> forms.DecimalField:
    widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "autofocus": True})
    return forms.DecimalField(max_digits=money.DIGITS, decimal_places=money.PLACES, widget=widget, **options)


class WithdrawForm(KeyedForm):
    """`destinations`: the confirmed ones of the wallet's owner."""

    amount = _amount(min_value=money.UNIT)
    destination = forms.ModelChoiceField(
        Destination.objects.none(), empty_label=None, required=False,  # where there is one alone, it is the default
        help_text="Customers add their destinations on their wallet page; a new one is confirmed after a cooling time.",
    )  # fmt: skip
    field_order = ("amount", "destination", "reason", "key")

    def __init__(self, data: Any = None, *, destinations: Any = None) -> None:
        super().__init__(data)
        if destinations is not None:
            self.fields["destination"].queryset = destinations  # type: ignore[attr-defined]


class DepositForm(KeyedForm):
    amount = _amount(min_value=money.UNIT)
    field_order = ("amount", "reason", "key")
    reason = forms.CharField(
        label="Reference", max_length=500, widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="Identifies the payment: the bank's reference, the payer. Shown in the ledger.",
    )  # fmt: skip


class AdjustForm(KeyedForm):
    amount = _amount(help_text="12.5 credits the wallet, −12.5 debits it.")
    field_order = ("amount", "reason", "key")

    def __init__(self, data: Any = None) -> None:
        if data is not None and "amount" in data:
            data = data.copy()
            data["amount"] = data["amount"].replace("−", "-")  # the typographic minus, as the help text writes it
        super().__init__(data)

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if not amount:
            raise forms.ValidationError("Enter an amount other than zero.")
        return amount


def resubmitted_form(request: HttpRequest, action: ConfirmedAction, refusal: DomainError) -> forms.Form:
    """The form as submitted. A final refusal gets a new key, because the ledger repeats it under the old one."""
    data = request.POST.copy()
    if refusal.retry != "same_key":
        data["key"] = str(uuid.uuid4())
    return action.form(data)


DEPOSIT = ConfirmedAction(
    "deposit", "Deposit", "Credits the wallet with money received. The owner can spend it at once.", DepositForm
)
WITHDRAW = ConfirmedAction(
    "withdraw", "Withdraw", "Debits the wallet for money paid out, at most the available balance.", WithdrawForm
)
ADJUST = ConfirmedAction(
    "adjust", "Adjust", "Corrects the balance, against the house account for adjustments.", AdjustForm
)
REVEAL = ConfirmedAction(
    "reveal", "Show details", "Shows the whole account number or address. The audit log records who looked.", forms.Form
)
REMOVE = ConfirmedAction(
    "remove", "Remove", "No money goes there any more; waiting withdrawals to it can only be rejected.", ReasonForm,
    grave=True,
)  # fmt: skip
FREEZE = ConfirmedAction(
    "freeze", "Freeze", "No money can leave this wallet from now on. Credits still pass.", ReasonForm, grave=True
)
UNFREEZE = ConfirmedAction("unfreeze", "Unfreeze", "Money can leave this wallet again.", ReasonForm)
APPROVE = ConfirmedAction("approve", "Approve", "The money moves at once.", forms.Form)
REJECT = ConfirmedAction("reject", "Reject", "No money moves, and the hold is released.", ReasonForm, grave=True)
REVERSE = ConfirmedAction(
    "reverse", "Reverse", "A new transfer takes the money back, once. Money spent since then cannot be taken back.",
    KeyedForm, grave=True,
)  # fmt: skip
