"""A person's subscriptions: their state, the outcome of each trade, receipts, and the settings of copying."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from accounts.models import BotKey
from audit.actors import actor_of
from core import money
from core.errors import DomainError
from portal import offers
from portal.views import price_decimals
from strategies import explanations, facts, services, sizing
from strategies.forms import RotateForm, TermsForm
from strategies.models import Strategy, Subscription, Terms
from trades import copy_statistics, receipts
from trades.models import ActiveTrade, BotAlarm, Copier, CopyOrder, OrderedClose, Reason, TradeCorrection
from trades.reasons import SkipReason
from trades.services import overdue_closes
from wallets.services import agreements

EXAMPLES = 4  # of the strategy's own trades
DAYS = 30
OF_COPIERS = (BotKey.Kind.COPIER, BotAlarm.OF_DESK)
MAX_ALARMS = 200  # of all subscriptions on one page
_OWNER, _DRAWDOWN = Subscription.PausedFor.OWNER, Subscription.PausedFor.DRAWDOWN
_EXAMPLE = sizing.ProviderTrade(
    symbol="EURUSD", type="BUY", opened_volume=Decimal("0.5"), volume=Decimal("0.5"), open_price=Decimal("1.1"),
    opened_sl=Decimal("1.095"), sl=Decimal("1.095"), tp=None,
)  # fmt: skip


# --- the overview


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """The latest report of a copier about one subscription, in words. `tone`: the CSS class of its colour."""

    text: str
    tone: str


@dataclass(frozen=True, slots=True)
class Card:
    subscription: Subscription
    paused_for: str
    terms: str
    copier: Copier | None
    is_online: bool
    sync_status: SyncStatus
    overdue: copy_statistics.OverdueCount | None
    is_late: bool
    alarms: Sequence[BotAlarm] = ()
    warnings: Sequence[str] = ()
    late_copies: Sequence[ActiveTrade] = ()
    offer: offers.Offer | None = None

    @property
    def may_pause(self) -> bool:
        return self.subscription.status == Subscription.Status.ACTIVE

    @property
    def may_resume(self) -> bool:
        return self.subscription.paused_for in (_OWNER, _DRAWDOWN)


@never_cache
@login_required
def copying(request: HttpRequest) -> HttpResponse:
    """All subscriptions of the person, and the outcomes of the latest trades."""
    now = timezone.now()
    own = list(offers.with_notices(_own_subscriptions(request)).order_by("strategy__name", "pk"))
    live = [subscription for subscription in own if subscription.status != Subscription.Status.ENDED]
    outcomes = receipts.recent(live, now=now)
    context = {
        "now": now,
        "cards": _cards(live, now),
        "ended": [subscription for subscription in own if subscription.status == Subscription.Status.ENDED],
        "outcomes": outcomes,
        "published": Strategy.objects.filter(owner=request.user.pk).order_by("name"),
    }
    return render(request, "portal/copying.html", context)


def _cards(live: Sequence[Subscription], now: datetime) -> list[Card]:
    accounts = {subscription.account_id for subscription in live}
    latest = Terms.objects.latest_of_each().filter(subscription__in=live)
    terms = {row.subscription_id: row for row in latest}
    copiers = {copier.account_id: copier for copier in Copier.objects.filter(account__in=accounts)}
    overdue = copy_statistics.overdue_by_subscription(accounts)
    late = overdue_closes.to_settle(accounts, now=now)
    alarms = list(BotAlarm.objects.present().filter(account__in=accounts, bot__in=OF_COPIERS)[:MAX_ALARMS])
    source = facts.Source.of_all(live, now)
    offered = offers.by_subscription(live, now)
    cards = [
        _card(subscription, terms[subscription.pk], copiers.get(subscription.account_id), overdue, alarms, late, now)
        for subscription in live
    ]
    return [
        replace(
            card,
            warnings=_warnings(card, terms[card.subscription.pk], source),
            offer=offered.get(card.subscription.pk),
        )
        for card in cards
    ]


def _warnings(card: Card, terms: Terms, source: facts.Source) -> list[str]:
    return explanations.warnings(card.subscription, source.contracts(card.subscription, terms.symbol_map))


def _card(
    subscription: Subscription,
    terms: Terms,
    copier: Copier | None,
    overdue: Mapping[tuple[int, int], copy_statistics.OverdueCount],
    alarms: Sequence[BotAlarm],
    late: Sequence[ActiveTrade],
    now: datetime,
) -> Card:
    key = (subscription.account_id, subscription.strategy_id)
    count = overdue.get(key)
    return Card(
        subscription=subscription,
        paused_for=_paused_for(subscription),
        terms=explanations.terms(terms),
        copier=copier,
        is_online=copier is not None and copier.leased_until > now,
        sync_status=sync_status(copier, subscription.strategy.name),
        overdue=count,
        is_late=count is not None and count.is_late(now),
        late_copies=[copy for copy in late if (copy.account_id, copy.strategy_id) == key],
        alarms=[
            alarm
            for alarm in alarms
            if alarm.account_id == subscription.account_id and alarm.strategy_id in (None, subscription.strategy_id)
        ],
    )


def _paused_for(subscription: Subscription) -> str:
    """By whom or why it is paused, as its owner reads it; empty where it is not paused."""
    if subscription.paused_for == _OWNER:
        return "by you"
    if subscription.paused_for == Subscription.PausedFor.TERMS:
        return "until you accept its fees"
    return str(subscription.get_paused_for_display()) if subscription.paused_for else ""


_SYNC = {
    "in_sync": SyncStatus("In sync with the provider", "pos"),
    "behind": SyncStatus("Catching up with the latest events", ""),
}
_STOPPED = {
    "HOLD": SyncStatus(
        "Waiting: the desk was restored from a backup. Staff have to confirm before copying goes on", "bad"
    ),
    "HALT": SyncStatus("Stopped by itself, opens nothing. Read the copier's log, then start it with --release", "neg"),
}


def sync_status(copier: Copier | None, strategy: str) -> SyncStatus:
    if copier is None:
        return SyncStatus("No copier has reported yet", "")
    report = next((report for report in copier.reported if report.get("strategy") == strategy), None)
    if report is None:
        return SyncStatus("The copier has not reported on this strategy yet", "")
    return _STOPPED.get(report.get("standing", "")) or _SYNC.get(report.get("sync", "")) or _out_of_sync(report)


def _out_of_sync(report: Mapping[str, Any]) -> SyncStatus:
    differences = [
        (report.get("orphans"), "open whose trade the provider has closed", "open whose trade the provider has closed"),
        (report.get("missing"), "missing", "missing"),
        (report.get("volume"), "with a wrong volume", "with wrong volumes"),
    ]
    texts = [
        f"{count} {'copy' if count == 1 else 'copies'} {one if count == 1 else several}"
        for count, one, several in differences
        if count
    ]
    return SyncStatus(f"Out of sync: {', '.join(texts) or 'the differences are being compared'}", "neg")


# --- pause, resume, stop following


@require_POST
@login_required
def pause(request: HttpRequest, sub_id: str) -> HttpResponse:
    subscription = live_subscription(request, sub_id)
    services.pause(subscription=subscription, actor=actor_of(request), why=_OWNER)
    subscription.refresh_from_db()
    if subscription.paused_for == _OWNER:
        messages.success(request, "Paused. No new trades are copied. Open copies still close with the provider.")
    else:
        messages.error(request, f"It is already paused {_paused_for(subscription)}.")
    return redirect("portal:copying")


@require_POST
@login_required
def resume(request: HttpRequest, sub_id: str) -> HttpResponse:
    """Ends a pause by the owner or by the drawdown stop. Only a payment, a better score or staff end the others."""
    subscription = live_subscription(request, sub_id)
    try:
        for why in (_OWNER, _DRAWDOWN):
            services.resume(subscription=subscription, actor=actor_of(request), why=why)
    except services.FollowsInCircle as refusal:
        messages.error(request, refusal.message)
        return redirect("portal:copying")
    subscription.refresh_from_db()
    if subscription.status == Subscription.Status.ACTIVE:
        messages.success(request, "Copying resumed, for trades opened from now on.")
    else:
        messages.error(request, f"It is paused {_paused_for(subscription)}. You cannot resume it here.")
    return redirect("portal:copying")


@require_POST
@login_required
def end(request: HttpRequest, sub_id: str) -> HttpResponse:
    subscription = live_subscription(request, sub_id)
    services.end(subscription=subscription, actor=actor_of(request))
    messages.success(request, f"You no longer follow {subscription.strategy.name}. To follow it again, ask staff.")
    return redirect("portal:copying")


@never_cache
@login_required
def secret(request: HttpRequest, sub_id: str) -> HttpResponse:
    """Rotates the signal secret. The answer to the form is the only page that shows the new one."""
    subscription = live_subscription(request, sub_id)
    form = RotateForm(request.POST if request.method == "POST" else None)
    new_secret = ""  # none yet  # nosec B105
    if form.is_valid():
        at_once = form.cleaned_data["at_once"]
        new_secret = services.rotate_packet_secret(subscription=subscription, actor=actor_of(request), at_once=at_once)
        subscription.refresh_from_db()
    context = {
        "subscription": subscription,
        "form": form,
        "new_secret": new_secret,
        "generation": subscription.next_generation or subscription.packet_generation,
    }
    return render(request, "portal/copying_secret.html", context)


# --- settings


@dataclass(frozen=True, slots=True)
class Example:
    """A provider's trade, and the copy that the settings make of it."""

    provider_trade: sizing.ProviderTrade
    plan: sizing.Plan
    arithmetic: str

    @property
    def why_not(self) -> str:
        return str(SkipReason(self.plan.why_not).label) if self.plan.why_not else ""


@never_cache
@login_required
def settings(request: HttpRequest, sub_id: str) -> HttpResponse:
    """The settings, with the copies that they make of some trades. A preview saves nothing."""
    subscription = live_subscription(request, sub_id)
    form = TermsForm(request.POST or None, instance=services.terms_of(subscription))
    if form.is_valid() and "preview" not in request.POST:
        services.set_terms(subscription=subscription, actor=actor_of(request), **form.settings())
        messages.success(request, "Saved. The settings apply to trades opened from now on, within a few seconds.")
        return redirect("portal:copying")
    examples = _examples(subscription, form.instance) if not form.is_bound or form.is_valid() else []
    context = {
        "subscription": subscription,
        "form": form,
        "examples": examples,
        "is_preview": form.is_bound,
        "decimals": price_decimals({example.provider_trade.symbol for example in examples}),
    }
    return render(request, "portal/copying_settings.html", context)


def _examples(subscription: Subscription, terms: Terms) -> list[Example]:
    """Calculated with the present equities, rates and contract sizes, which is what saving would store."""
    terms.equity, terms.master_equity = (
        subscription.account.usable_equity, subscription.strategy.account.usable_equity,
    )  # fmt: skip
    terms.facts = facts.Source.of_all([subscription], timezone.now()).of(subscription, terms.mode, terms.symbol_map)
    sized_by = explanations.settings(terms, currency=subscription.account.currency, contracts=receipts.contracts())
    copies = subscription.status == Subscription.Status.ACTIVE  # to others, the provider's open trades are not shown
    latest = receipts.latest_provider_trades([subscription.strategy_id], EXAMPLES, with_open=copies)
    trades = [_EXAMPLE, *map(receipts.as_opened, latest)]
    return [
        Example(trade, sizing.plan(sized_by, trade), explanations.in_one_line(explanations.arithmetic(sized_by, trade)))
        for trade in trades
    ]


# --- an overdue close


class SettleForm(forms.Form):
    close_price = forms.DecimalField(
        required=False, max_digits=money.DIGITS, decimal_places=money.PLACES, label="Close price, if you know it",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
        help_text="From your broker's statement. Without it, or far from the market, the provider's price is recorded.",
    )  # fmt: skip
    confirms = forms.BooleanField(label="My broker shows this position as closed")


@never_cache
@login_required
def settle(request: HttpRequest, sub_id: str, trade_id: uuid.UUID) -> HttpResponse:
    """The owner says that an overdue copy was closed at the broker. `trade_id`: the copy's."""
    subscription = get_object_or_404(_own_subscriptions(request), sub_id=sub_id)
    own = overdue_closes.overdue().filter(account=subscription.account_id, strategy=subscription.strategy_id)
    copy = get_object_or_404(own.select_related("strategy", "account"), pk=trade_id)
    form = SettleForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            settled = overdue_closes.settle(
                copy_id=copy.pk, told_price=form.cleaned_data["close_price"], reason=Reason.RECONCILED,
                note="told by the owner", actor=actor_of(request), now=timezone.now(),
            )  # fmt: skip
        except DomainError as refusal:
            form.add_error(None, refusal.message)
        else:
            messages.success(request, _settled_in_words(copy.ticket_id, settled))
            return redirect("portal:copying")
    now = timezone.now()
    context = {
        "subscription": subscription, "copy": copy, "form": form, "now": now,
        "why_not": overdue_closes.why_not_settled(copy, now=now),
    }  # fmt: skip
    return render(request, "portal/copying_settle.html", context)


def _settled_in_words(ticket: str, settled: overdue_closes.Settlement) -> str:
    price = money.plain(settled.close_price)
    source = "your price" if settled.told_price_used else "the provider's close price"
    return f"Ticket {ticket} is recorded as closed at {price}, {source}. If it is still open, close it at your broker."


# --- receipts, and the provider's statistics


@never_cache
@login_required
def receipt(request: HttpRequest, sub_id: str, trade_id: uuid.UUID) -> HttpResponse:
    """One trade: the size of the copy and its calculation, times, prices, and how it ended."""
    now = timezone.now()
    outcome = receipts.outcome(get_object_or_404(_own_subscriptions(request), sub_id=sub_id), trade_id, now=now)
    if outcome is None:
        raise Http404
    context = {
        "now": now,
        "outcome": outcome,
        "receipt": receipts.receipt(outcome),
        "corrections": _corrections(outcome),
        "is_ordered": outcome.copy is not None and OrderedClose.objects.filter(copy=outcome.copy.pk).exists(),
        "decimals": price_decimals({outcome.provider_trade.symbol or ""}),
    }
    return render(request, "portal/copying_receipt.html", context)


def _corrections(outcome: receipts.Outcome) -> list[tuple[str, TradeCorrection]]:
    """The corrections that count, each with the side whose trade it is."""
    sides = {outcome.provider_trade.pk: "The provider's trade"}
    if outcome.copy is not None:
        sides[outcome.copy.pk] = "Your copy"
    latest = TradeCorrection.latest_of(sides)
    return [(side, latest[trade_id]) for trade_id, side in sides.items() if trade_id in latest]


@never_cache
@login_required
def copies(request: HttpRequest, name: str) -> HttpResponse:
    """How a strategy was copied, for its provider: counts alone, no subscriber is named."""
    now = timezone.now()
    strategy = get_object_or_404(Strategy, name=name, owner=request.user.pk)
    coverage = copy_statistics.coverage(strategy, now=now, days=DAYS)
    overdue = copy_statistics.overdue(strategy=strategy)
    context = {
        "now": now,
        "strategy": strategy,
        "followers": Subscription.objects.live().filter(strategy=strategy).count(),
        "coverage": coverage,
        "summary": copy_statistics.summary(coverage),
        "overdue": overdue,
        "overdue_is_late": overdue.is_late(now),
        "alarms": BotAlarm.objects.present()
        .filter(account=strategy.account_id)
        .exclude(bot=BotKey.Kind.COPIER)[:MAX_ALARMS],
        "execution": copy_statistics.execution(CopyOrder.objects.filter(strategy=strategy)),
        "days": DAYS,
        "fee_terms": agreements.latest_terms(strategy),
        "answers": offers.answers(strategy),
    }
    return render(request, "portal/strategy_copies.html", context)


def _own_subscriptions(request: HttpRequest) -> QuerySet[Subscription]:
    own = Subscription.objects.filter(account__owner=request.user.pk)
    return own.select_related("account", "strategy__account", "strategy__owner")


def live_subscription(request: HttpRequest, sub_id: str) -> Subscription:
    return get_object_or_404(_own_subscriptions(request).exclude(status=Subscription.Status.ENDED), sub_id=sub_id)
