"""Background work. A task message only says that rows may need work; a lost message costs seconds."""

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("copydesk")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.worker_init.connect
@signals.beat_init.connect
def _refuse_unsafe_configuration(**_: Any) -> None:
    from config.checks import refuse_unsafe

    refuse_unsafe()
