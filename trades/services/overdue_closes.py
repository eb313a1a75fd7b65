"""Overdue closes: copies that are still open although their provider's trade is closed, or staff ordered their close.

The hot table alone decides which closes are overdue, so no message can be lost. A close stops being overdue when it
arrives. The rows here only record since when it is overdue and how often it was escalated.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from django.db import models
from django.db.models.functions import Least

from audit import services as audit
from core import money
from core.errors import DomainError
from core.transactions import use_case
from trades import corrections, services, valuation
from trades.alarm_kinds import AlarmKind
from trades.models import ActiveTrade, BotAlarm, Copier, OrderedClose, OverdueClose, Reason, Trade, TradeHistory

log = structlog.get_logger()


class NotOverdue(DomainError):
    code = "not_overdue"
    detail = "The close of this copy is not overdue: the provider's trade is open, or the copy is closed already."


class CopyStillHeld(DomainError):
    code = "copy_still_held"
    detail = "The copier still reports this position as open at the broker. Close it there first."


SETTLED_AFTER = timedelta(minutes=1)  # until then its copier may be closing it
MOST_SHOWN = 200
NOT_HELD = (AlarmKind.WAITING, AlarmKind.RECONCILED)  # alarms of a position that the broker no longer shows

ESCALATED_AFTER = (timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1))


def overdue() -> "models.QuerySet[ActiveTrade]":
    """Open copies that should be closed, annotated with the time of that close or order (`overdue_since`), and whether
    staff ordered it (`is_ordered`)."""
    closed = TradeHistory.objects.filter(trade=models.OuterRef("master_trade"))
    ordered = OrderedClose.objects.filter(copy=models.OuterRef("pk"))
    return (
        ActiveTrade.objects.filter(master_trade__isnull=False)
        .annotate(
            is_ordered=models.Exists(ordered),
            overdue_since=Least(
                models.Subquery(closed.values("closed_at")[:1]), models.Subquery(ordered.values("ordered_at")[:1])
            ),
        )
        .filter(overdue_since__isnull=False)
    )


@use_case()
def update() -> int:
    """Bring the rows in line with the hot table; return the number of overdue closes. Safe to run concurrently."""
    current = list(overdue())
    OverdueClose.objects.bulk_create([_overdue_close(copy) for copy in current], ignore_conflicts=True)
    _note_closed()
    for overdue_close in OverdueClose.objects.lock_pending():
        _escalate(overdue_close)
    return len(current)


def _overdue_close(copy: Any) -> OverdueClose:
    return OverdueClose(
        copy_id=copy.pk,
        account_id=copy.account_id,
        strategy_id=copy.strategy_id,
        master_trade=copy.master_trade,
        symbol=copy.symbol,
        volume=copy.volume,
        since=copy.overdue_since,
    )


def _note_closed() -> None:
    closed = TradeHistory.objects.filter(trade=models.OuterRef("pk"))
    pending = OverdueClose.objects.filter(closed_at=None, copy__state=Trade.State.CLOSED)
    pending.update(closed_at=models.Subquery(closed.values("closed_at")[:1]))


def _escalate(overdue_close: Any) -> None:
    """Record and log each level once."""
    level = sum(overdue_close.age >= after for after in ESCALATED_AFTER)
    if level <= overdue_close.level:
        return
    overdue_close.level = level
    overdue_close.save(update_fields=["level"])
    audit.record(
        "debt.escalated",
        actor=audit.SYSTEM,
        subject=f"trade:{overdue_close.copy_id}",
        level=level,
        age_s=int(overdue_close.age.total_seconds()),
        volume=str(overdue_close.volume),
        symbol=overdue_close.symbol,
    )
    log.error("copying.close_owed", trade=str(overdue_close.copy_id), level=level, account=overdue_close.account_id)


# --- settled by people


@dataclass(frozen=True, slots=True)
class Settlement:
    """An overdue close as the desk records it where no bot reports it. `told_price_used`: the price that a person
    entered is near the market or the provider's close, and so it was taken."""

    close_price: Decimal
    profit: Decimal
    told_price_used: bool


def settle(
    *, copy_id: uuid.UUID, told_price: Decimal | None, reason: Reason, note: str, actor: audit.Actor, now: datetime
) -> Settlement:
    """Record that a copy was closed at its broker, as a person says. A copier that still holds it refuses it.

    The profit follows from the provider's close price, not from the person's: a lower one would save fees.
    """
    with use_case():
        copy = overdue().select_related("account", "strategy").filter(pk=copy_id).first()
        if copy is None:
            raise NotOverdue
        if why := why_not_settled(copy, now=now):
            raise CopyStillHeld(why)
        settlement = _settlement(copy, told_price, now)
        services.close_trade(
            account=copy.account, ticket_id=copy.ticket_id, close_price=settlement.close_price,
            profit=settlement.profit, reason=reason, note=note, actor=actor,
        )  # fmt: skip
        return settlement


def to_settle(accounts: Iterable[int], *, now: datetime) -> list[ActiveTrade]:
    """The overdue copies of these accounts that their owner may settle, the oldest close first."""
    rows: list[Any] = list(overdue().filter(account__in=list(accounts))[:MOST_SHOWN])
    late = [copy for copy in rows if now - copy.overdue_since >= SETTLED_AFTER]
    return sorted(late, key=lambda copy: copy.overdue_since)


def why_not_settled(copy: Any, *, now: datetime) -> str:
    """Why a person's word is not enough yet; empty where it is. `copy`: a row of `overdue`."""
    if now - copy.overdue_since < SETTLED_AFTER:
        return "The close is less than a minute old. Wait for the copier."
    copier = Copier.objects.filter(account=copy.account_id, leased_until__gt=now).first()
    if copier is None:
        return ""
    alarms = BotAlarm.objects.present().filter(account=copy.account_id, ticket_id=copy.ticket_id)
    held = alarms.exclude(kind__in=NOT_HELD).first()
    if held is not None:
        return f"Your copier still reports ticket {copy.ticket_id}: {held.title}. Close it at your broker first."
    reports = [report for report in copier.reported if report.get("strategy") == copy.strategy.name]
    if any(str(copy.master_trade) in report.get("still_held", ()) for report in reports):
        return f"Your copier still reports ticket {copy.ticket_id} as open at your broker. Close it there first."
    if copier.heartbeat_at < copy.overdue_since:
        return "Your copier has not reported since the close. Wait for its next report."
    return ""


def _settlement(copy: Any, told_price: Decimal | None, now: datetime) -> Settlement:
    closed = TradeHistory.objects.select_related("account").filter(pk=copy.master_trade)
    provider = corrections.with_corrections(closed).first()
    market = valuation.price_of(copy, now=now)
    known = copy.open_price if market is None else market.close
    fair = known if provider is None else provider.counted_close_price
    is_near = told_price is not None and (
        valuation.is_near(told_price, fair) or (market is not None and valuation.is_near_market(told_price, market))
    )
    profit = valuation.profit(copy, fair, now=now)
    if profit is None:
        profit = _share_of(provider, copy)
    return Settlement(told_price if told_price is not None and is_near else fair, profit, is_near)


def _share_of(provider: TradeHistory | None, copy: Any) -> Decimal:
    """The copy's share of the provider's profit, where its own cannot be calculated; 0 in another currency."""
    if provider is None or not provider.volume or provider.account.currency != copy.account.currency:
        return Decimal(0)
    profit: Decimal = (provider.counted_profit or Decimal(0)) * copy.volume / provider.volume
    return profit.quantize(money.UNIT)
