"""What the clock does for trust. A task is a nudge to look at rows; losing one costs a minute, a second one nothing."""

import structlog
from celery import shared_task
from django.db import OperationalError
from django.utils import timezone

from trust import services

log = structlog.get_logger()


@shared_task(
    name="trust.tasks.recalculate",
    autoretry_for=(OperationalError,),  # the user's row was locked for longer than a lock is waited for
    retry_backoff=1,
    retry_backoff_max=60,
    max_retries=None,
)
def recalculate(*, user_id: str) -> list[int]:
    """Judge one user; the versions written."""
    return [score.version for score in services.recalculate(user_id=user_id)]


@shared_task(name="trust.tasks.sweep")
def sweep() -> int:
    done = services.sweep(now=timezone.now())
    if done:
        log.info("trust.swept", users=done)
    return done
