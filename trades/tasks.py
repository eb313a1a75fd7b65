"""Periodic tasks of trades."""

import structlog
from celery import shared_task

from trades import checks
from trades.services import overdue_closes

log = structlog.get_logger()


@shared_task(name="trades.tasks.check_homes")
def check_homes() -> int:
    """Log every broken invariant of trades; return the number of faults."""
    faults = checks.faults()
    for fault in faults:
        log.error("trade.fault", invariant=fault.invariant, subject=fault.subject)
    return len(faults)


@shared_task(name="trades.tasks.track_overdue_closes")
def track_overdue_closes() -> int:
    """Record overdue closes and those that have arrived, and escalate old ones; return the number overdue."""
    overdue = overdue_closes.update()
    if overdue:
        log.warning("copying.closes_owed", copies=overdue)
    return overdue
