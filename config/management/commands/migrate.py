"""`manage.py migrate`: tables by numbered migrations, then the functions that changed, as the tables' owner."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.core.management.commands.migrate import Command as Migrate

from core import catalogue, functions


class Command(Migrate):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database=settings.MIGRATION_DATABASE)

    def handle(self, *args: Any, **options: Any) -> None:
        alias = options["database"]
        if options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            self._show_plan(alias, fails=options["check_unapplied"])
            return
        with functions.one_migration_at_a_time(alias):
            super().handle(*args, **options)
            self._deploy(alias, verbose=options["verbosity"] >= 1)

    def _show_plan(self, alias: str, *, fails: bool) -> None:
        files = functions.outdated(alias, catalogue.changed_functions(alias))
        if files:
            self.stdout.write("Functions to deploy:", self.style.MIGRATE_LABEL)
        for file in files:
            self.stdout.write(f"    {file.path}")
        if files and fails:
            raise SystemExit(1)

    def _deploy(self, alias: str, *, verbose: bool) -> None:
        if functions.waiting_migrations(alias):
            self.stdout.write("Functions are deployed once all migrations are applied.")
            return
        files = functions.outdated(alias, catalogue.changed_functions(alias))
        if files:
            functions.deploy(alias, files)
        if verbose:
            self.stdout.write("Deploying functions:", self.style.MIGRATE_HEADING)
            self.stdout.write("\n".join(f"  {file.path}" for file in files) or "  No functions to deploy.")
