"""`manage.py catalogue`: writes what this database has to config/catalogue.json, as what the code wants."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from core import catalogue


class Command(BaseCommand):
    help = "Write config/catalogue.json from this database, which must be freshly migrated (see make catalogue)."

    def handle(self, *args: Any, **options: Any) -> None:
        catalogue.write(settings.MIGRATION_DATABASE)
        self.stdout.write(f"Wrote {settings.CATALOGUE.name}.")
