"""Background work. A task is a nudge to look at rows; losing one costs seconds."""

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("copydesk")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.worker_init.connect
@signals.beat_init.connect
def _refuse_unsafe(**_: Any) -> None:
    from config.checks import refuse_unsafe

    refuse_unsafe()
