"""Periodic tasks of copying. Each is safe to run twice."""

import structlog
from celery import shared_task

from audit import services as audit
from strategies import services

log = structlog.get_logger()


@shared_task(name="strategies.tasks.stop_drawdowns")
def stop_drawdowns() -> int:
    """Pause the subscriptions whose account has hit its drawdown stop; return their number."""
    stopped = services.stop_drawdowns(actor=audit.SYSTEM)
    if stopped:
        log.warning("copying.stopped", subscriptions=stopped)
    return stopped


@shared_task(name="strategies.tasks.keep_terms")
def keep_terms() -> int:
    """Bring due packet secrets into use, and renew the terms of subscriptions that copy by equity."""
    services.activate_next_secrets()
    return services.revalue()
