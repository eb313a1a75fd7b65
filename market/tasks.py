"""Uploaded files of bars are looked at and stored by a worker. Rows are the queue: a repeated task does nothing."""

import structlog
from celery import shared_task
from django.db import DatabaseError
from django.utils import timezone

from market.services import uploads

log = structlog.get_logger()


@shared_task(name="market.tasks.import_uploads")
def import_uploads() -> dict[str, int]:
    """Look at the uploads that wait for it, and store the confirmed ones; return counts."""
    to_look_at, to_store = uploads.waiting_uploads(now=timezone.now())
    for verb, import_ids in ((uploads.look_at_upload, to_look_at), (uploads.store_upload, to_store)):
        for import_id in import_ids:
            try:
                verb(import_id=import_id, now=timezone.now())
            except DatabaseError:
                raise  # the next run goes on with it
            except Exception:  # a file that no code expected must not hold up the others, nor come back for ever
                log.exception("candles.upload_failed", import_id=import_id)
                uploads.give_up(import_id=import_id, now=timezone.now())
    counts = {"looked_at": len(to_look_at), "stored": len(to_store)}
    if any(counts.values()):
        log.info("candles.uploads", **counts)
    return counts
