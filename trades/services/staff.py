"""Closes and corrections by staff. A close that is unlike the market, and each correction, needs a second person.

Staff close a provider's trade at the desk: its followers' copiers close their copies. A copy is closed by its copier
alone, because the position is at the subscriber's broker: staff order it, and the desk's target for it becomes zero.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import DatabaseError
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from audit import services as audit
from core import money
from core.errors import DomainError, RequestDecided, RequestPending, SecondPersonNeeded
from core.transactions import use_case
from market.prices import Price
from trades import publisher, services, valuation
from trades.models import ActiveTrade, Reason, TradeHistory, TradeRequest
from trades.services import Outcome, TradeClosed, TradeUnknown

NO_PRICE = "the desk has no recent market price of this symbol"
FAR = "the price is far from the market"
NO_PROFIT = "the profit cannot be calculated: it is recorded as 0 and has to be corrected"
CORRECTION = "each correction needs two people"


class CopyIsClosedByItsCopier(DomainError):
    code = "copy_is_closed_by_its_copier"
    detail = "A copy is open at the subscriber's broker. Order its close, or settle it once it is closed there."


@dataclass(frozen=True, slots=True)
class Proposal:
    """A close of a provider's trade as the desk values it. `why_second`: why one person may not do it; may be empty."""

    trade: ActiveTrade
    market: Price | None
    close_price: Decimal | None
    profit: Decimal | None
    why_second: str


def proposal(trade: ActiveTrade, close_price: Decimal | None, *, now: datetime) -> Proposal:
    """Value a close at this price, or where None is given at the market's."""
    market = valuation.price_of(trade, now=now)
    price = market.close if close_price is None and market is not None else close_price
    if price is None:
        return Proposal(trade, market, None, None, NO_PRICE)
    profit = valuation.profit(trade, price, now=now)
    why = NO_PRICE if market is None else "" if valuation.is_near_market(price, market) else FAR
    return Proposal(
        trade, market, price, profit, "; ".join(filter(None, [why, "" if profit is not None else NO_PROFIT]))
    )


def close(
    *, trade_id: uuid.UUID, close_price: Decimal, note: str, by: User, actor: audit.Actor, now: datetime
) -> Outcome | TradeRequest:
    """Close a provider's trade at this price with the profit that follows from it; or request it of a second person."""
    with use_case():
        trade = _open(trade_id)
        if trade.is_copy:
            raise CopyIsClosedByItsCopier
        proposed = proposal(trade, close_price, now=now)
        amounts = {"close_price": close_price, "profit": proposed.profit or Decimal(0)}
        if proposed.why_second:
            return _request(TradeRequest.Kind.CLOSE, trade.pk, amounts, note, proposed.why_second, by, actor)
        return _close(trade, note, actor, **amounts)


def order_close(*, copy_id: uuid.UUID, note: str, by: User, actor: audit.Actor) -> None:
    """Order the close of a copy: the copier's target for it is zero from now on. A repeat changes nothing.

    A copier that is connected has a fresh snapshot at once; another learns it when it asks what is active.
    """
    with use_case():
        copy = _open(copy_id)
        outcome = services.call(
            "copy_close_order", copy.account, actor, {"trade": str(copy_id), "note": note, "by": str(by.pk)}
        )
    if outcome["code"] == "ordered" and copy.strategy_id is not None:
        publisher.refresh(strategy_id=copy.strategy_id, account_id=copy.account_id)


def request_correction(
    *, trade_id: uuid.UUID, close_price: Decimal, profit: Decimal, reason: str, by: User, actor: audit.Actor
) -> TradeRequest:
    """Request new figures for a closed trade. `profit` is that of the whole trade."""
    with use_case():
        closed = _closed(trade_id)
        _check_is_no_owner(closed, by)
        amounts = {"close_price": money.exact(close_price), "profit": money.exact(profit)}
        return _request(TradeRequest.Kind.CORRECTION, closed.pk, amounts, reason, CORRECTION, by, actor)


def approve(*, request: TradeRequest, by: User, actor: audit.Actor) -> TradeRequest:
    """Carry a request out. Neither the person who made it nor an owner of the accounts concerned may."""
    try:
        with use_case():
            if request.requested_by_id == by.pk:
                raise SecondPersonNeeded
            decided = _decide(request, TradeRequest.State.DONE, by, actor)
            trade = _open(decided.trade_id) if decided.kind == TradeRequest.Kind.CLOSE else _closed(decided.trade_id)
            _check_is_no_owner(trade, by)
            if isinstance(trade, ActiveTrade):
                # Calculated anew, because a part may have been closed since the request.
                profit = valuation.profit(trade, decided.close_price, now=timezone.now())
                note = decided.reason if profit is not None else f"{decided.reason} ({NO_PROFIT})"[:500]
                _close(trade, note, actor, close_price=decided.close_price, profit=profit or Decimal(0))
            else:
                _correct(decided, trade, by, actor)
            return decided
    except DatabaseError as fault:
        if getattr(fault.__cause__, "sqlstate", "") == "CD008":  # a person lost a right in the meantime
            raise SecondPersonNeeded from fault
        raise


def reject(*, request: TradeRequest, by: User, reason: str, actor: audit.Actor) -> TradeRequest:
    """Reject a request, or withdraw one's own."""
    with use_case():
        return _decide(request, TradeRequest.State.REJECTED, by, actor, why=reason)


def _open(trade_id: uuid.UUID) -> ActiveTrade:
    trade = ActiveTrade.objects.select_related("account", "strategy__account").filter(pk=trade_id).first()
    if trade is None:
        raise TradeClosed
    return trade


def _closed(trade_id: uuid.UUID) -> TradeHistory:
    rows = TradeHistory.objects.filter(pk=trade_id, kind=TradeHistory.Kind.TRADE)
    closed = rows.select_related("account", "strategy__account").first()
    if closed is None:
        raise TradeUnknown("Only a closed trade can be corrected.")
    return closed


def _check_is_no_owner(trade: ActiveTrade | TradeHistory, person: User) -> None:
    owners = {trade.account.owner_id, trade.strategy.account.owner_id if trade.strategy else None}
    if person.pk in owners:
        raise SecondPersonNeeded


def _close(trade: ActiveTrade, note: str, actor: audit.Actor, **amounts: Decimal) -> Outcome:
    return services.close_trade(
        account=trade.account, ticket_id=trade.ticket_id, reason=Reason.STAFF, note=note, actor=actor, **amounts
    )


def _correct(request: TradeRequest, closed: TradeHistory, by: User, actor: audit.Actor) -> None:
    fields: dict[str, Any] = {
        "trade": str(closed.pk),
        "close_price": money.text(request.close_price),
        "profit": money.text(request.profit),
        "reason": request.reason,
        "requested_by": str(request.requested_by_id),
        "approved_by": str(by.pk),
    }
    services.call("trade_correct", closed.account, actor, fields)


def _request(
    kind: TradeRequest.Kind, trade_id: uuid.UUID, amounts: dict[str, Decimal], reason: str, why: str, by: User,
    actor: audit.Actor,
) -> TradeRequest:  # fmt: skip
    if TradeRequest.objects.filter(trade=trade_id, kind=kind, state=TradeRequest.State.PENDING).exists():
        raise RequestPending
    request = TradeRequest.objects.create(
        kind=kind, trade_id=trade_id, reason=reason, why_second=why, requested_by=by, **amounts
    )
    _record("trade.requested", request, actor)
    return request


def _decide(
    request: TradeRequest, state: TradeRequest.State, by: User, actor: audit.Actor, **detail: str
) -> TradeRequest:
    """Of two decisions at the same time, the second waits for the first and finds no pending row."""
    pending = TradeRequest.objects.filter(pk=request.pk, state=TradeRequest.State.PENDING)
    if not pending.update(state=state, decided_by=by, decided_at=Now()):
        raise RequestDecided
    decided = TradeRequest.objects.get(pk=request.pk)
    _record("trade.request_decided", decided, actor, **detail)
    return decided


def _record(action: str, request: TradeRequest, actor: audit.Actor, **detail: str) -> None:
    audit.record(
        action, actor=actor, subject=f"trade:{request.trade_id}", request=str(request.pk), kind=request.kind,
        close_price=money.text(request.close_price), profit=money.text(request.profit), state=request.state,
        note=request.reason, **detail,
    )  # fmt: skip
