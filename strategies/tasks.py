"""What the clock does for copying. Each is safe to run twice."""

import structlog
from celery import shared_task

from audit import services as audit
from strategies import services

log = structlog.get_logger()


@shared_task(name="strategies.tasks.stop_drawdowns")
def stop_drawdowns() -> int:
    """Pause those whose account fell too far."""
    stopped = services.stop_drawdowns(actor=audit.SYSTEM)
    if stopped:
        log.warning("copying.stopped", subscriptions=stopped)
    return stopped


@shared_task(name="strategies.tasks.keep_terms")
def keep_terms() -> int:
    """Renew the terms of those who copy by equity; let packet secrets take over whose time has come."""
    services.activate_next_secrets()
    return services.revalue()
