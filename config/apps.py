from django.apps import AppConfig

from config.celery import app as celery_app  # noqa: F401 - so that tasks know their broker in every process


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        from config import checks  # noqa: F401 - registers them
