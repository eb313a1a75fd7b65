"""What the clock does for trades."""

import structlog
from celery import shared_task

from trades import checks

log = structlog.get_logger()


@shared_task(name="trades.tasks.check_homes")
def check_homes() -> int:
    """Look for trades that are not in exactly one home; how many faults there are."""
    faults = checks.faults()
    for fault in faults:
        log.error("trade.fault", invariant=fault.invariant, subject=fault.subject)
    return len(faults)
