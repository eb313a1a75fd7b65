"""What the clock does for money. A task is a nudge to look at rows; losing one costs minutes, a second one nothing."""

from typing import Any

import structlog
from celery import shared_task
from django.utils import timezone

from wallets.services import ConcurrentModification, WalletBusy, ledger_halt, settlement

log = structlog.get_logger()
AGAIN: dict[str, Any] = {
    "autoretry_for": (WalletBusy, ConcurrentModification),
    "retry_backoff": 1,
    "retry_backoff_max": 60,
    "retry_jitter": True,
    "max_retries": None,
}


@shared_task(name="wallets.tasks.sweep")
def sweep() -> dict[str, int]:
    """Agreements begun, periods settled, fees collected and paid out."""
    done = settlement.sweep(now=timezone.now())
    if any(done.values()):
        log.info("fees.swept", **done)
    return done


@shared_task(name="wallets.tasks.reserve")
def reserve() -> int:
    return settlement.reserve_all(now=timezone.now())


@shared_task(name="wallets.tasks.settle", **AGAIN)
def settle(*, agreement_id: int) -> int | None:
    """Settle one agreement's period that is due; its number."""
    settled = settlement.settle(agreement_id=agreement_id, now=timezone.now())
    return settled.period_no if settled else None


@shared_task(name="wallets.tasks.check_ledger")
def check_ledger() -> int:
    """Prove the books; how many faults there are. One is enough to halt the ledger."""
    faults = ledger_halt.check()
    for fault in faults:
        log.error("ledger.fault", invariant=fault.invariant, subject=fault.subject)
    return len(faults)
