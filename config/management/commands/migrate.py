"""`manage.py migrate`: tables by numbered migrations, then changed functions and limits, as the tables' owner."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.migrate import Command as Migrate
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from core import catalogue, functions
from wallets.services import second_person


class Command(Migrate):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database=settings.MIGRATION_DATABASE)
        parser.add_argument(
            "--back",
            action="store_true",
            help="Deploy this version's functions although a newer version has migrated the database.",
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as fault:  # the owner's URL is not set
            raise CommandError(str(fault)) from None
        finally:
            connections[options["database"]].close()  # the owner's login is for migrating alone

    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        if options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            self._say_plan(connection, fails=options["check_unapplied"])
            return
        with functions.one_migration_at_a_time(connection):
            super().handle(*args, **options)
            self._deploy(connection, verbose=options["verbosity"] >= 1, back=options.get("back", False))

    def _say_plan(self, connection: BaseDatabaseWrapper, *, fails: bool) -> None:
        waiting = self._outdated(connection)
        if waiting:
            self.stdout.write("Functions to deploy:", self.style.MIGRATE_LABEL)
        for file in waiting:
            self.stdout.write(f"    {file.path}")
        if waiting and fails:
            raise SystemExit(1)

    def _deploy(self, connection: BaseDatabaseWrapper, *, verbose: bool, back: bool) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.stdout.write("Functions are deployed once all migrations are applied.")
            return
        waiting = self._outdated(connection)
        if waiting and not back and catalogue.is_ahead(connection.alias):
            self.stderr.write(
                "A newer version has migrated this database, so its functions stay. To go back to this version:"
                " manage.py migrate --back"
            )
            return
        if waiting:
            functions.deploy(connection, waiting)
        second_person.write(second_person.configured().rows(), using=connection.alias)
        if verbose:
            self.stdout.write("Deploying functions:", self.style.MIGRATE_HEADING)
            self.stdout.write("\n".join(f"  {file.path}" for file in waiting) or "  No functions to deploy.")

    def _outdated(self, connection: BaseDatabaseWrapper) -> list[functions.FunctionFile]:
        migrated = "django_migrations" in connection.introspection.table_names()
        return functions.outdated(connection, catalogue.changed_functions(connection.alias) if migrated else ())
