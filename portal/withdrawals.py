"""The forms of a person's wallet page: withdrawals, and the destinations that they go to."""

import re
import uuid
from decimal import Decimal, InvalidOperation

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from accounts import reauthentication
from accounts.session_views import PersonRequest
from audit.actors import actor_of
from core import money
from core.errors import DomainError
from core.transactions import use_case
from portal import wallet
from portal.form_feedback import in_words, perform
from wallets import services
from wallets.models import Destination, MoneyRequest
from wallets.services import destinations

SECRET = ("password", "csrfmiddlewaretoken")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?")


@never_cache
@require_POST
@login_required
def withdraw(request: PersonRequest) -> HttpResponse:
    own = wallet.own_wallet(request, request.POST.get("currency"))
    try:
        reauthentication.require(request, request.POST.get("password", ""))
        money_request = services.request_money(
            wallet=own,
            kind=MoneyRequest.Kind.WITHDRAWAL,
            amount=_amount(request.POST.get("amount", "")),
            reason=request.POST.get("note", "")[:200],
            idempotency_key=request.POST.get("key", ""),
            by=request.user,
            actor=actor_of(request),
            destination=_destination(request),
        )
    except DomainError as refusal:
        return _again(request, refusal, "withdrawal", own.currency)
    amount = f"{money.grouped(money_request.amount)} {own.currency}"
    if money_request.state == MoneyRequest.State.DONE:
        text = f"Withdrawal of {amount} accepted, reference {money_request.pk}."
    else:
        text = f"Withdrawal of {amount} requested, reference {money_request.pk}. It is on hold until staff approve it."
    messages.success(request, text)
    return redirect("portal:wallet")


@require_POST
@login_required
def take_back(request: PersonRequest, request_id: uuid.UUID) -> HttpResponse:
    money_request = get_object_or_404(MoneyRequest, pk=request_id, wallet__owner=request.user)

    def cancel() -> str:
        services.reject(request=money_request, by=request.user, reason="taken back", actor=actor_of(request))
        amount = f"{money.grouped(money_request.amount)} {money_request.wallet.currency}"
        return f"Withdrawal cancelled. {amount} available again."

    return perform(request, cancel, "portal:wallet")


@never_cache
@require_POST
@login_required
def add_destination(request: PersonRequest) -> HttpResponse:
    given = {name: request.POST.get(name, "")[:200] for name in ("name", "kind", "details")}
    try:
        reauthentication.require(request, request.POST.get("password", ""))
        with use_case():
            added = destinations.add(owner=request.user, actor=actor_of(request), **given)
    except DomainError as refusal:
        return _again(request, refusal, "new_destination", request.POST.get("currency"))
    messages.success(request, f"{added} added.")
    return redirect("portal:wallet")


@require_POST
@login_required
def remove_destination(request: PersonRequest, ref: uuid.UUID) -> HttpResponse:
    destination = get_object_or_404(Destination, ref=ref, owner=request.user)

    def remove() -> str:
        reauthentication.require(request, request.POST.get("password", ""))
        destinations.remove(destination=destination, reason="by its owner", actor=actor_of(request))
        return f"{destination} removed."

    return perform(request, remove, "portal:wallet")


def _again(request: PersonRequest, refusal: DomainError, form: str, currency: str | None) -> HttpResponse:
    """The page with the reason of the refusal, and with what was typed. Only an unknown outcome keeps its key."""
    messages.error(request, in_words(refusal))
    typed = {name: value for name, value in request.POST.items() if name not in SECRET}
    key = typed.get("key") if refusal.retry == "same_key" else uuid.uuid4()
    return wallet.show(request, currency, status=refusal.status, key=key, **{form: typed})


def _destination(request: PersonRequest) -> Destination | None:
    """The chosen one, of the person's own. None where the form offered none: then the ledger explains it."""
    try:
        ref = uuid.UUID(request.POST.get("destination", ""))
    except ValueError:
        return None
    found = Destination.objects.filter(owner=request.user, ref=ref).first()
    if found is None:
        raise destinations.DestinationNotConfirmed
    return found


def _amount(text: str) -> Decimal:
    """The amount as typed. A comma separates thousands where it can, as pages show them, or else the decimals."""
    typed = text.strip()
    try:
        return money.exact(Decimal(typed.replace(",", "" if _GROUPED.fullmatch(typed) else ".")))
    except (InvalidOperation, ValueError):
        raise services.AmountInvalid("Enter an amount such as 25.00.") from None
