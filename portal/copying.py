"""How a person's subscriptions copy: where each stands, what became of each trade, and what the person may change."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from audit.actors import actor_of
from portal.views import places_of
from strategies import explanations, services, sizing
from strategies.forms import RotateForm, TermsForm
from strategies.models import Strategy, Subscription, Terms
from trades import copy_statistics, receipts
from trades.models import Copier, CopyOrder, SkipReason

EXAMPLES = 4  # of a strategy's own trades
DAYS = 30
_OWNER, _DRAWDOWN = Subscription.PausedFor.OWNER, Subscription.PausedFor.DRAWDOWN
_EXAMPLE = sizing.ProviderTrade(
    symbol="EURUSD", type="BUY", opened_volume=Decimal("0.5"), volume=Decimal("0.5"), open_price=Decimal("1.1"),
    opened_sl=Decimal("1.095"), sl=Decimal("1.095"), tp=None,
)  # fmt: skip


# --- where each stands


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """What a copier last said of a subscription, in words. `tone`: good, wait or bad."""

    says: str
    tone: str


@dataclass(frozen=True, slots=True)
class Card:
    subscription: Subscription
    terms: str
    copier: Copier | None
    is_online: bool
    sync_status: SyncStatus
    overdue: copy_statistics.OverdueCount | None
    is_late: bool

    @property
    def may_pause(self) -> bool:
        return self.subscription.status == Subscription.Status.ACTIVE

    @property
    def may_resume(self) -> bool:
        return self.subscription.paused_for in (_OWNER, _DRAWDOWN)


@never_cache
@login_required
def copying(request: HttpRequest) -> HttpResponse:
    """Every subscription of the person, and what became of the latest trades."""
    now = timezone.now()
    mine = list(_mine(request).order_by("strategy__name", "pk"))
    live = [one for one in mine if one.status != Subscription.Status.ENDED]
    outcomes = receipts.recent(live, now=now)
    context = {
        "now": now,
        "cards": _cards(live, now),
        "ended": [one for one in mine if one.status == Subscription.Status.ENDED],
        "outcomes": outcomes,
        "places": places_of({one.master.symbol or "" for one in outcomes}),
        "led": Strategy.objects.filter(owner=request.user.pk).order_by("name"),
    }
    return render(request, "portal/copying.html", context)


def _cards(live: Sequence[Subscription], now: datetime) -> list[Card]:
    accounts = {one.account_id for one in live}
    terms = {one.subscription_id: one for one in Terms.objects.latest_of_each().filter(subscription__in=live)}
    copiers = {one.account_id: one for one in Copier.objects.filter(account__in=accounts)}
    overdue = copy_statistics.overdue_by_subscription(accounts)
    return [_card(one, terms[one.pk], copiers.get(one.account_id), overdue, now) for one in live]


def _card(one: Subscription, terms: Terms, copier: Copier | None, overdue: Any, now: datetime) -> Card:
    overdue_close = overdue.get((one.account_id, one.strategy_id))
    return Card(
        subscription=one,
        terms=explanations.terms(terms),
        copier=copier,
        is_online=copier is not None and copier.leased_until > now,
        sync_status=_sync_status(copier, one.strategy.name),
        overdue=overdue_close,
        is_late=overdue_close is not None and overdue_close.is_late(now),
    )


_SYNC = {
    "in_sync": SyncStatus("in sync: it holds what it must", "good"),
    "behind": SyncStatus("catching up with the latest events", "wait"),
}
_HELD = {
    "HOLD": SyncStatus("it waits: the desk was restored, and it does nothing until staff say that all is well", "bad"),
    "HALT": SyncStatus("it stopped itself and opens nothing: look at its log, then start it with --release", "bad"),
}


def _sync_status(copier: Copier | None, strategy: str) -> SyncStatus:
    if copier is None:
        return SyncStatus("no copier has reported yet", "wait")
    told = next((one for one in copier.reported if one.get("strategy") == strategy), None)
    if told is None:
        return SyncStatus("its copier has said nothing of this one", "wait")
    return _HELD.get(told.get("standing", "")) or _SYNC.get(told.get("sync", "")) or _difference(told)


def _difference(told: dict[str, Any]) -> SyncStatus:
    parts = [
        (told.get("orphans"), "held though the master is out"),
        (told.get("missing"), "missing"),
        (told.get("volume"), "with another volume than it must have"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in parts if count)
    return SyncStatus(f"differs: {said}" if said else "differs: it is being compared", "bad")


# --- what a person may do


@require_POST
@login_required
def pause(request: HttpRequest, sub_id: str) -> HttpResponse:
    subscription = _live(request, sub_id)
    services.pause(subscription=subscription, actor=actor_of(request), why=_OWNER)
    subscription.refresh_from_db()
    if subscription.paused_for == _OWNER:
        messages.success(request, "Paused. Nothing new is copied; what is open is still closed with its master.")
    else:
        messages.error(request, f"It is paused already: {subscription.get_paused_for_display()}.")
    return redirect("portal:copying")


@require_POST
@login_required
def resume(request: HttpRequest, sub_id: str) -> HttpResponse:
    """What its owner paused, or its drawdown stop did. A fee is paid and a score is earned, not clicked away."""
    subscription = _live(request, sub_id)
    for why in (_OWNER, _DRAWDOWN):
        services.resume(subscription=subscription, actor=actor_of(request), why=why)
    subscription.refresh_from_db()
    if subscription.status == Subscription.Status.ACTIVE:
        messages.success(request, "Copying goes on with what is opened from now on.")
    else:
        messages.error(request, f"It is paused {subscription.get_paused_for_display()}: that cannot be ended here.")
    return redirect("portal:copying")


@require_POST
@login_required
def end(request: HttpRequest, sub_id: str) -> HttpResponse:
    subscription = _live(request, sub_id)
    services.end(subscription=subscription, actor=actor_of(request))
    messages.success(request, f"You no longer follow {subscription.strategy.name}. Staff can begin it again.")
    return redirect("portal:copying")


@never_cache
@login_required
def secret(request: HttpRequest, sub_id: str) -> HttpResponse:
    """A new packet secret: the answer to the form is the one page that ever shows it."""
    subscription = _live(request, sub_id)
    form = RotateForm(request.POST if request.method == "POST" else None)
    made = ""
    if form.is_valid():
        at_once = form.cleaned_data["at_once"]
        made = services.rotate_packet_secret(subscription=subscription, actor=actor_of(request), at_once=at_once)
        subscription.refresh_from_db()
    context = {"subscription": subscription, "form": form, "made": made, "generation": _newest(subscription)}
    return render(request, "portal/copying_secret.html", context)


def _newest(subscription: Subscription) -> int:
    return subscription.next_generation or subscription.packet_generation


# --- settings


@dataclass(frozen=True, slots=True)
class Example:
    """A trade of the master's, and what a copy of it would be."""

    master: sizing.ProviderTrade
    plan: sizing.Plan
    says: str

    @property
    def why_not(self) -> str:
        return str(SkipReason(self.plan.why_not).label) if self.plan.why_not else ""


@never_cache
@login_required
def settings(request: HttpRequest, sub_id: str) -> HttpResponse:
    """How it copies, and what that would make of some trades. Nothing is kept before it is saved."""
    subscription = _live(request, sub_id)
    form = TermsForm(request.POST or None, instance=services.terms_of(subscription))
    if form.is_valid() and "preview" not in request.POST:
        services.set_terms(subscription=subscription, actor=actor_of(request), **form.settings())
        messages.success(request, "Saved. It holds for what is opened from now on, in a few seconds.")
        return redirect("portal:copying")
    examples = _examples(subscription, form.instance) if not form.is_bound or form.is_valid() else []
    context = {
        "subscription": subscription,
        "form": form,
        "examples": examples,
        "is_preview": form.is_bound,
        "places": places_of({one.master.symbol for one in examples}),
    }
    return render(request, "portal/copying_settings.html", context)


def _examples(subscription: Subscription, terms: Terms) -> list[Example]:
    """Worked out with both equities as they are now: that is what saving would keep."""
    terms.equity, terms.master_equity = subscription.account.equity, subscription.strategy.account.equity
    sized_by = explanations.settings(terms, currency=subscription.account.currency, contracts=receipts.contracts())
    masters = [_EXAMPLE, *map(receipts.provider_trade, receipts.latest_masters([subscription.strategy_id], EXAMPLES))]
    return [
        Example(
            master, sizing.plan(sized_by, master), explanations.in_one_line(explanations.arithmetic(sized_by, master))
        )
        for master in masters
    ]


# --- receipts, and how a strategy was copied


@never_cache
@login_required
def receipt(request: HttpRequest, sub_id: str, trade_id: uuid.UUID) -> HttpResponse:
    """One trade: what the copy had to be and why, when, at which price, and how it ended."""
    now = timezone.now()
    found = receipts.outcome(get_object_or_404(_mine(request), sub_id=sub_id), trade_id, now=now)
    if found is None:
        raise Http404
    context = {
        "now": now,
        "outcome": found,
        "receipt": receipts.receipt(found),
        "places": places_of({found.master.symbol or ""}),
    }
    return render(request, "portal/copying_receipt.html", context)


@never_cache
@login_required
def copies(request: HttpRequest, name: str) -> HttpResponse:
    """How a strategy's trades were copied, for its provider: numbers alone."""
    now = timezone.now()
    strategy = get_object_or_404(Strategy, name=name, owner=request.user.pk)
    spread, overdue = copy_statistics.spread(strategy, now=now, days=DAYS), copy_statistics.overdue(strategy=strategy)
    context = {
        "now": now,
        "strategy": strategy,
        "followers": Subscription.objects.live().filter(strategy=strategy).count(),
        "spread": spread,
        "summary": copy_statistics.summary(spread),
        "overdue": overdue,
        "overdue_is_late": overdue.is_late(now),
        "pace": copy_statistics.pace(CopyOrder.objects.filter(strategy=strategy)),
        "days": DAYS,
        "places": places_of({one.master.symbol or "" for one in spread}),
    }
    return render(request, "portal/copying_spread.html", context)


def _mine(request: HttpRequest) -> QuerySet[Subscription]:
    found = Subscription.objects.filter(account__owner=request.user.pk)
    return found.select_related("account", "strategy__account", "strategy__owner")


def _live(request: HttpRequest, sub_id: str) -> Subscription:
    return get_object_or_404(_mine(request).exclude(status=Subscription.Status.ENDED), sub_id=sub_id)
