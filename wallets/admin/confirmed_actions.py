"""What is asked on a page of its own before an action takes effect."""

import uuid
from decimal import Decimal
from typing import Any

from django import forms
from django.http import HttpRequest

from core import money
from core.confirmed_actions import ConfirmedAction, ReasonForm
from core.errors import DomainError


class KeyedForm(forms.Form):
    """Its key is made when the page is shown: sent twice, it is one and the same request."""

    key = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    reason: forms.Field = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="In words. It stands in the journal and in the audit log, with your name.",
    )  # fmt: skip


def _amount(**more: Any) -> forms.DecimalField:
    typed = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "autofocus": True})
    return forms.DecimalField(max_digits=money.DIGITS, decimal_places=money.PLACES, widget=typed, **more)


class WithdrawForm(KeyedForm):
    amount = _amount(min_value=money.UNIT)
    field_order = ("amount", "reason", "key")


class DepositForm(WithdrawForm):
    reason = forms.CharField(
        label="Reference", max_length=500, widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="By which the money is found again: the bank's number, the payer. It stands in the journal.",
    )  # fmt: skip


class AdjustForm(KeyedForm):
    amount = _amount(help_text="Signed: 12.5 gives, −12.5 takes.")
    field_order = ("amount", "reason", "key")

    def __init__(self, data: Any = None) -> None:
        """A minus is taken as people write it, too."""
        if data is not None and "amount" in data:
            data = data.copy()
            data["amount"] = data["amount"].replace("−", "-")
        super().__init__(data)

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if not amount:
            raise forms.ValidationError("Nothing is no adjustment.")
        return amount


def resubmitted_form(request: HttpRequest, step: ConfirmedAction, no: DomainError) -> forms.Form:
    """The form as it was sent. What was refused for good gets a new key: the old one stands for the refusal."""
    data = request.POST.copy()
    if no.retry != "same_key":
        data["key"] = str(uuid.uuid4())
    return step.form(data)


DEPOSIT = ConfirmedAction(
    "deposit", "Deposit", "For money that has come in. It is theirs to spend at once.", DepositForm
)
WITHDRAW = ConfirmedAction("withdraw", "Withdraw", "For money that goes out. Only what is available can.", WithdrawForm)
ADJUST = ConfirmedAction(
    "adjust", "Adjust", "Puts something right, against the house's own account for adjustments.", AdjustForm
)
FREEZE = ConfirmedAction(
    "freeze", "Freeze", "Nothing goes out of this wallet from now on. What comes in still does.", ReasonForm, grave=True
)
UNFREEZE = ConfirmedAction("unfreeze", "Unfreeze", "Money may go out of this wallet again.", ReasonForm)
APPROVE = ConfirmedAction("approve", "Approve", "The money moves at once.", forms.Form)
REJECT = ConfirmedAction("reject", "Reject", "No money moves, and what was held is free again.", ReasonForm, grave=True)
REVERSE = ConfirmedAction(
    "reverse", "Reverse", "A new transfer takes the money back, once. What was spent since cannot be.", KeyedForm,
    grave=True,
)  # fmt: skip
