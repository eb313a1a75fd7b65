"""What the clock does for trust. A task is a nudge to look at rows; losing one costs a minute, a second one nothing."""

import structlog
from celery import shared_task
from django.utils import timezone

from trust import services

log = structlog.get_logger()


@shared_task(name="trust.tasks.sweep")
def sweep() -> int:
    done = services.sweep(now=timezone.now())
    if done:
        log.info("trust.swept", users=done)
    return done
