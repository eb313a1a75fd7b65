"""`manage.py catalogue`: write down what this database has, as what the code wants (config/catalogue.json)."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from core import catalogue


class Command(BaseCommand):
    help = "Write config/catalogue.json from this database, which must be a fresh one (make catalogue)."

    def handle(self, *args: Any, **options: Any) -> None:
        catalogue.write(settings.MIGRATION_DATABASE)
        self.stdout.write(f"Wrote {settings.CATALOGUE.name}.")
