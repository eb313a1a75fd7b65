"""The page of a subscription's fees: the terms with a worked example, and the subscriber's answer."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from audit.actors import actor_of
from core import errors
from core.errors import DomainError
from portal import offers
from portal.copying import live_subscription
from strategies.models import Subscription
from wallets import examples, fees
from wallets.models import FeeNotice, FeeTerms, Wallet
from wallets.services import agreements


class AcceptForm(forms.Form):
    terms = forms.IntegerField(widget=forms.HiddenInput)
    confirms = forms.BooleanField(
        label="I have read these fees and accept them",
        error_messages={"required": "Tick this box to accept. Nothing was accepted."},
    )


@never_cache
@login_required
def fees_of(request: HttpRequest, sub_id: str) -> HttpResponse:
    """The fees of a subscription. POST answers the terms that the page showed: `accept` or `decline`."""
    subscription = live_subscription(request, sub_id)
    if request.method != "POST":
        return _page(request, subscription)
    form = AcceptForm(request.POST)
    form.is_valid()
    shown = FeeTerms.objects.filter(pk=form.cleaned_data.get("terms") or 0, strategy=subscription.strategy).first()
    if shown is None or shown != agreements.latest_terms(subscription.strategy):
        return _changed(request, subscription)
    declines = "decline" in request.POST
    if not declines and form.errors:
        return _page(request, subscription, form=form, status=422)
    try:
        if declines:
            agreements.decline(subscription=subscription, terms=shown, actor=actor_of(request), now=timezone.now())
        else:
            agreements.accept(subscription=subscription, terms=shown, actor=actor_of(request), now=timezone.now())
    except agreements.TermsNotOffered:
        return _changed(request, subscription)
    except DomainError as refusal:
        return _page(request, subscription, fault=_in_words(refusal), status=refusal.status)
    messages.success(request, _answered(subscription, declines))
    return redirect("portal:copying")


def _changed(request: HttpRequest, subscription: Subscription) -> HttpResponse:
    fault = "The provider changed the fees while you were reading. Nothing was accepted. These are the present ones."
    return _page(request, subscription, fault=fault, status=agreements.TermsNotOffered.status)


def _in_words(refusal: DomainError) -> str:
    if isinstance(refusal, errors.Invalid):
        return "Your account's currency is not known yet: start your copier once, or ask staff to enter it."
    return refusal.message


def _answered(subscription: Subscription, declines: bool) -> str:
    subscription.refresh_from_db()
    name = subscription.strategy.name
    if subscription.status == Subscription.Status.ENDED:
        return f"Declined. You do not follow {name}."
    if declines:
        return "Declined. Your present fees hold; nothing is charged under the new ones."
    if subscription.status == Subscription.Status.ACTIVE:
        return f"Accepted. Trades of {name} that open from now on are copied."
    return f"Accepted. The subscription is paused {subscription.get_paused_for_display()}."


def _page(
    request: HttpRequest, subscription: Subscription, *, form: Any = None, fault: str = "", status: int = 200
) -> HttpResponse:
    now = timezone.now()
    agreement = agreements.agreement_of(subscription)
    notice = FeeNotice.objects.open().filter(subscription=subscription).first()
    offer = offers.offer(subscription, agreement, notice, now)
    terms = offer.terms if offer else agreement.next_binding_terms if agreement else None
    currency = subscription.account.currency
    context = {
        "now": now,
        "subscription": subscription,
        "currency": currency,
        "offer": offer,
        "form": form or AcceptForm(initial={"terms": offer.terms.pk if offer else None}),
        "fault": fault,
        "agreement": agreement,
        "terms": terms,
        "months": list(examples.months(rate_bps=terms.performance_bps, monthly_fee=terms.subscription_fee))
        if terms
        else [],
        "first_fee": _first_fee(terms, now) if offer and not agreement else Decimal(0),
        "month_ends": fees.month_after(now) - timedelta(days=1),
        "wallet": Wallet.objects.people().filter(owner=request.user.pk, currency=currency).first(),
        "mark": agreement.settlements.order_by("-period_no")[:1].get().high_water_mark if agreement else None,
    }
    return render(request, "portal/fees.html", context, status=status)


def _first_fee(terms: FeeTerms | None, now: datetime) -> Decimal:
    """What the rest of this month costs a subscriber who accepts now."""
    if terms is None:
        return Decimal(0)
    return fees.subscription(monthly=terms.subscription_fee, begins=now, ends=fees.month_after(now))
