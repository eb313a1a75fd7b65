"""A person's money: what is there, what moved, what it costs to follow, and how each fee was reckoned."""

import uuid
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from accounts.session_views import PersonRequest
from audit.actors import actor_of
from core import money, paging
from core.errors import DomainError
from portal.form_feedback import perform
from wallets import pnl, services, statements
from wallets.models import FeeAgreement, FeeClaim, MoneyRequest, Settlement, Wallet
from wallets.services import settlement

ENTRIES, CLAIMS, MONTHS, TRADES = 50, 24, 12, 200


@never_cache
@login_required
def wallet(request: PersonRequest) -> HttpResponse:
    """Balance, entries, fees, statements; and a form to take money out."""
    mine = statements.wallets_of(request.user)
    chosen = _chosen(mine, request.GET.get("currency"))
    if chosen is None:
        return render(request, "portal/wallet.html", {"wallet": None})
    rows, older = _entries(chosen, request.GET.get("cursor"))
    now = timezone.now()
    claims = FeeClaim.objects.select_related("agreement__strategy").order_by("-pk")
    context = {
        "wallet": chosen,
        "wallets": mine,
        "now": now,
        "entries": rows,
        "older": older,
        "is_first_page": "cursor" not in request.GET,
        "waiting": MoneyRequest.objects.filter(wallet=chosen, state=MoneyRequest.State.PENDING).order_by("-created_at"),
        "key": uuid.uuid4(),
        "owed": sum((claim.owed for claim in claims.filter(payer=chosen, collected_at=None)), Decimal(0)),
        "agreements": [_agreed(one) for one in _agreements(request).filter(currency=chosen.currency)],
        "earned": claims.filter(payee=chosen)[:CLAIMS],
        "months": list(islice(statements.months(chosen, now), MONTHS)),
    }
    return render(request, "portal/wallet.html", context)


@require_POST
@login_required
def withdraw(request: PersonRequest) -> HttpResponse:
    chosen = _mine(request, request.POST.get("currency"))

    def ask() -> str:
        asked = services.request_money(
            wallet=chosen,
            kind=MoneyRequest.Kind.WITHDRAWAL,
            amount=_amount(request.POST.get("amount", "")),
            reason=request.POST.get("note", "")[:200],
            idempotency_key=request.POST.get("key", ""),
            by=request.user,
            actor=actor_of(request),
        )
        if asked.state == MoneyRequest.State.DONE:
            return "It is on its way to you."
        return "Asked for. It is set aside until staff have looked at it."

    return perform(request, ask, "portal:wallet")


@require_POST
@login_required
def take_back(request: PersonRequest, request_id: uuid.UUID) -> HttpResponse:
    asked = get_object_or_404(MoneyRequest, pk=request_id, wallet__owner=request.user)

    def reject() -> str:
        services.reject(request=asked, by=request.user, reason="taken back", actor=actor_of(request))
        return "Taken back. The money is free again."

    return perform(request, reject, "portal:wallet")


@require_POST
@login_required
def accept_terms(request: PersonRequest, agreement_id: int) -> HttpResponse:
    agreement = get_object_or_404(_agreements(request), pk=agreement_id)
    offered = settlement.latest_terms(agreement.strategy)

    def accept() -> str:
        if offered is None or str(offered.pk) != request.POST.get("terms"):
            raise settlement.TermsNotOffered
        settlement.accept(agreement=agreement, terms=offered, actor=actor_of(request))
        return "Agreed. They hold from the next period on."

    return perform(request, accept, "portal:wallet")


@never_cache
@login_required
def statement(request: PersonRequest, month: str) -> HttpResponse:
    """A month, to print or to keep as a PDF."""
    try:
        found = statements.statement(_mine(request, request.GET.get("currency")), statements.month(month))
    except DomainError:
        raise Http404 from None
    return render(request, "portal/statement.html", {"statement": found, "now": timezone.now()})


@never_cache
@login_required
def fee(request: PersonRequest, agreement_id: int, period_no: int) -> HttpResponse:
    """Show me: a settled fee reckoned once more, from the trades, by the code that charged it."""
    agreements = FeeAgreement.objects.all() if _may_see_all(request) else _agreements(request)
    agreement = get_object_or_404(agreements, pk=agreement_id)
    settled = Settlement.objects.filter(agreement=agreement, period_no=period_no).exclude(period_no=0).first()
    if settled is None:
        raise Http404
    shown = settlement.recalculate(settled)
    trades = pnl.closed_trades(agreement, at=settled.ends_at).order_by("-closed_at", "-trade_id")
    context = {
        "shown": shown,
        "settled": settled,
        "above": max(shown.result.cumulative_pnl - (settled.high_water_mark_before or 0), Decimal(0)),
        "percent": Decimal(settled.rate_bps) / 100,
        "trades": trades.select_related("account")[:TRADES],
        "more": trades.count() > TRADES,
    }
    return render(request, "portal/fee.html", context)


def _chosen(mine: list[Wallet], currency: str | None) -> Wallet | None:
    return next((one for one in mine if not currency or one.currency == currency), None)


def _mine(request: PersonRequest, currency: str | None) -> Wallet:
    found = _chosen(statements.wallets_of(request.user), currency)
    if found is None:
        raise Http404
    return found


def _amount(text: str) -> Decimal:
    try:
        return money.exact(Decimal(text.strip().replace(",", ".")))
    except (InvalidOperation, ValueError):
        raise services.AmountInvalid("Write an amount such as 25.00.") from None


def _entries(chosen: Wallet, cursor: str | None) -> tuple[Any, str | None]:
    try:
        return statements.page(chosen, paging.cursor(cursor), ENTRIES)
    except DomainError:
        raise Http404 from None


def _agreements(request: PersonRequest) -> Any:
    mine = FeeAgreement.objects.filter(subscriber=request.user)
    return mine.select_related("strategy", "terms", "next_terms", "subscriber").order_by("pk")


def _agreed(agreement: FeeAgreement) -> dict[str, Any]:
    offered = settlement.latest_terms(agreement.strategy)
    settled = list(agreement.settlements.order_by("-period_no")[:CLAIMS])
    return {
        "agreement": agreement,
        "high_water_mark": settled[0].high_water_mark,
        "settlements": [one for one in settled if one.period_no],
        "offered": offered if offered != agreement.next_terms else None,
    }


def _may_see_all(request: PersonRequest) -> bool:
    return request.user.has_perm("wallets.view_feeagreement")
