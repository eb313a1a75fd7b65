"""Periodic tasks for trust. Rows are the queue: a lost task delays work by a minute, a repeated one does nothing."""

import structlog
from celery import shared_task
from django.utils import timezone

from trust import services

log = structlog.get_logger()


@shared_task(name="trust.tasks.sweep")
def sweep() -> int:
    count = services.sweep(now=timezone.now())
    if count:
        log.info("trust.swept", users=count)
    return count
