"""Overdue closes: copies that are still open although their provider's trade is closed.

The hot table alone decides which closes are overdue, so no message can be lost. A close stops being overdue when it
arrives. The rows here only record since when it is overdue and how often it was escalated.
"""

from datetime import timedelta
from typing import Any

import structlog
from django.db import models

from audit import services as audit
from core.transactions import use_case
from trades.models import ActiveTrade, OverdueClose, Trade, TradeHistory

log = structlog.get_logger()

ESCALATED_AFTER = (timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1))


def overdue() -> "models.QuerySet[ActiveTrade]":
    """Open copies whose provider's trade is closed, annotated with the time of that close (`overdue_since`)."""
    closed = TradeHistory.objects.filter(trade=models.OuterRef("master_trade"))
    return (
        ActiveTrade.objects.filter(master_trade__isnull=False)
        .annotate(overdue_since=models.Subquery(closed.values("closed_at")[:1]))
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
