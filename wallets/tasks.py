"""Periodic tasks for money. Rows are the queue: a lost task delays work by minutes, a repeated one does nothing."""

from typing import Any

import structlog
from celery import shared_task
from django.utils import timezone

from wallets.services import ConcurrentModification, WalletBusy, agreements, ledger_halt, reports, settlement

log = structlog.get_logger()
RETRY: dict[str, Any] = {
    "autoretry_for": (WalletBusy, ConcurrentModification),
    "retry_backoff": 1,
    "retry_backoff_max": 60,
    "retry_jitter": True,
    "max_retries": None,
}


@shared_task(name="wallets.tasks.sweep")
def sweep() -> dict[str, int]:
    """Settle periods, collect fees and pay them out; return counts."""
    counts = settlement.sweep(now=timezone.now())
    if any(counts.values()):
        log.info("fees.swept", **counts)
    return counts


@shared_task(name="wallets.tasks.fee_notices")
def fee_notices() -> dict[str, int]:
    """Give notice of new fee terms, and end the subscriptions that did not accept them in time; return counts."""
    counts = agreements.keep_notices(now=timezone.now())
    if any(counts.values()):
        log.info("fees.notices", **counts)
    return counts


@shared_task(name="wallets.tasks.reserve")
def reserve() -> int:
    return settlement.reserve_all(now=timezone.now())


@shared_task(name="wallets.tasks.compare_reports")
def compare_reports() -> int:
    """Record the copies whose bots' reports differ from what the desk knows; return how many are new."""
    differing = reports.compare(now=timezone.now())
    if differing:
        log.warning("copies.reports_differ", copies=differing)
    return differing


@shared_task(name="wallets.tasks.settle", **RETRY)
def settle(*, agreement_id: int) -> int | None:
    """Settle the period of one agreement that is due; return its number."""
    period = settlement.settle(agreement_id=agreement_id, now=timezone.now())
    return period.period_no if period else None


@shared_task(name="wallets.tasks.check_ledger")
def check_ledger() -> int:
    """Check the books; return the number of faults. One fault halts the ledger."""
    faults = ledger_halt.check()
    for fault in faults:
        log.error("ledger.fault", invariant=fault.invariant, subject=fault.subject)
    return len(faults)
