"""What the clock does for trades."""

import structlog
from celery import shared_task

from trades import checks
from trades.services import overdue_closes

log = structlog.get_logger()


@shared_task(name="trades.tasks.check_homes")
def check_homes() -> int:
    """Look for trades that are not in exactly one home; how many faults there are."""
    faults = checks.faults()
    for fault in faults:
        log.error("trade.fault", invariant=fault.invariant, subject=fault.subject)
    return len(faults)


@shared_task(name="trades.tasks.track_overdue_closes")
def track_overdue_closes() -> int:
    """Note closes that are owed and those that were paid, and escalate what is old; how many are owed."""
    overdue = overdue_closes.update()
    if overdue:
        log.warning("copying.closes_owed", copies=overdue)
    return overdue
