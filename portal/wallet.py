"""A person's wallet: balance, transactions, withdrawals, statements, and the calculation of each fee."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from accounts import reauthentication
from accounts.session_views import PersonRequest
from core import paging
from core.errors import DomainError
from portal import offers
from strategies.models import Subscription
from wallets import lines, pnl, statements
from wallets.models import Destination, FeeAgreement, FeeClaim, FeeRefund, MoneyRequest, Settlement, Wallet
from wallets.services import destinations, settlement

ENTRIES, CLAIMS, MONTHS, TRADES = 50, 24, 12, 200
_FOLLOWING = ("account__owner", "strategy__owner")


@never_cache
@login_required
def wallet(request: PersonRequest) -> HttpResponse:
    return show(request, request.GET.get("currency"))


def show(request: PersonRequest, currency: str | None, *, status: int = 200, **typed: Any) -> HttpResponse:
    """The page; `typed`: what somebody entered in a form that was refused, by the form's name."""
    own = statements.wallets_of(request.user)
    selected = _in_currency(own, currency)
    live = Subscription.objects.live().filter(account__owner=request.user).select_related(*_FOLLOWING)
    following = list(offers.with_notices(live).order_by("strategy__name", "pk"))
    offered = offers.by_subscription(following, timezone.now())
    waiting = [(subscription, offered[subscription.pk]) for subscription in following if subscription.pk in offered]
    if selected is None:
        return render(request, "portal/wallet.html", {"wallet": None, "waiting": waiting}, status=status)
    rows, older = _entries(selected, request.GET.get("cursor"))
    now = timezone.now()
    claims = FeeClaim.objects.select_related("agreement__strategy").order_by("-pk")
    context = {
        "wallet": selected,
        "wallets": own,
        "waiting": waiting,
        "now": now,
        "entries": rows,
        "older": older,
        "is_first_page": "cursor" not in request.GET,
        "pending": MoneyRequest.objects.filter(wallet=selected, state=MoneyRequest.State.PENDING).order_by(
            "-created_at"
        ),
        "key": uuid.uuid4(),
        "owed": sum((claim.owed for claim in claims.filter(payer=selected, collected_at=None)), Decimal(0)),
        "agreements": [_agreement(agreement) for agreement in _agreements(request).filter(currency=selected.currency)],
        "earned": claims.filter(payee=selected)[:CLAIMS],
        "months": list(islice(statements.months(selected, now), MONTHS)),
    }
    context |= {
        "destinations": Destination.objects.present().filter(owner=request.user).order_by("name"),
        "withdrawals_open_at": destinations.withdrawals_open_at(request.user),
        "cooling_h": settings.DESTINATION_COOLING_H,
        "kinds": Destination.Kind.choices,
        "needs_password": not reauthentication.is_recent(request),
        **typed,
    }
    return render(request, "portal/wallet.html", context, status=status)


@never_cache
@login_required
def statement(request: PersonRequest, month: str) -> HttpResponse:
    try:
        own = own_wallet(request, request.GET.get("currency"))
        monthly = statements.statement(own, statements.month(month))
    except DomainError:
        raise Http404 from None
    return render(request, "portal/statement.html", {"statement": monthly, "now": timezone.now()})


@never_cache
@login_required
def fee(request: PersonRequest, agreement_id: int, period_no: int) -> HttpResponse:
    """A settled fee, recalculated from the trades by the code that charged it."""
    agreements = FeeAgreement.objects.all() if _may_see_all(request) else _agreements(request)
    agreement = get_object_or_404(agreements, pk=agreement_id)
    settled = Settlement.objects.filter(agreement=agreement, period_no=period_no).exclude(period_no=0).first()
    if settled is None:
        raise Http404
    recalculated = settlement.recalculate(settled)
    trades = pnl.closed_trades(agreement, at=settled.ends_at).order_by("-closed_at", "-trade_id")
    corrections = [row for row in pnl.corrections(agreement, at=settled.ends_at) if row.pk in settled.corrections]
    corrected = {row.trade_id: row.profit for row in corrections}  # the latest that this settlement took into account
    context = {
        "recalculated": recalculated,
        "settled": settled,
        "new_profit": max(recalculated.result.cumulative_pnl - settled.mark_that_counts, Decimal(0)),
        "percent": Decimal(settled.rate_bps) / 100,
        "lines": _lines(recalculated.result, corrections, agreement.currency),
        "trades": [
            (trade, corrected.get(trade.pk, trade.profit), trade.pk in corrected)
            for trade in trades.select_related("account")[:TRADES]
        ],
        "corrections": corrections,
        "refund": FeeRefund.objects.filter(agreement=agreement, period_no=period_no).first(),
        "is_cut": trades.count() > TRADES,
    }
    return render(request, "portal/fee.html", context)


@dataclass(frozen=True, slots=True)
class LineRow:
    line: lines.Line
    result: Decimal
    is_corrected: bool

    @property
    def price(self) -> Decimal | None:
        return self.line.parts[-1].price if self.line.parts else None

    @property
    def notes(self) -> str:
        parts = max(0, len(self.line.parts) - 1)
        notes = (
            "open at the end of the period" if self.line.is_open else "",
            self.line.why,
            f"{parts} partial close{'s' * (parts > 1)} before" if parts else "",
            "corrected" if self.is_corrected else "",
        )
        return "; ".join(filter(None, notes))


def _lines(result: pnl.Result, corrections: Sequence[Any], currency: str) -> list[LineRow]:
    """What each trade counts that no earlier period counted, the largest first."""
    rows = []
    for line in result.lines:
        counted = lines.realised((line,), corrections, currency)
        is_corrected = counted != line.realised(currency)
        rows.append(LineRow(line, counted + line.floating(currency), is_corrected))
    return sorted(rows, key=lambda row: abs(row.result), reverse=True)[:TRADES]


def _in_currency(wallets: list[Wallet], currency: str | None) -> Wallet | None:
    return next((wallet for wallet in wallets if not currency or wallet.currency == currency), None)


def own_wallet(request: PersonRequest, currency: str | None) -> Wallet:
    own = _in_currency(statements.wallets_of(request.user), currency)
    if own is None:
        raise Http404
    return own


def _entries(selected: Wallet, cursor: str | None) -> tuple[Any, str | None]:
    try:
        return statements.page(selected, paging.cursor(cursor), ENTRIES)
    except DomainError:
        raise Http404 from None


def _agreements(request: PersonRequest) -> Any:
    own = FeeAgreement.objects.filter(subscriber=request.user)
    return own.select_related("strategy", "terms", "next_terms", "subscriber").order_by("pk")


def _agreement(agreement: FeeAgreement) -> dict[str, Any]:
    settlements = list(agreement.settlements.order_by("-period_no")[:CLAIMS])
    return {
        "agreement": agreement,
        "high_water_mark": settlements[0].high_water_mark,
        "settlements": [row for row in settlements if row.period_no],
    }


def _may_see_all(request: PersonRequest) -> bool:
    return request.user.has_perm("wallets.view_feeagreement")
