"""Deploys the database's functions. Each app keeps its own in sql/functions/, one noun a file.

A file creates or replaces its functions. For each function that is called from outside, it states who may call it, as
which role it runs and with which search_path. Tables, keys and triggers belong to numbered migrations (core.migrating).
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from core.transactions import use_case

# Two nodes of a desk may start at the same moment: only one of them migrates.
_LOCK = 0x636F7079  # "copy"


@dataclass(frozen=True)
class FunctionFile:
    path: str
    """Relative to the project, "trades/sql/functions/close.sql"."""
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def bodies(self) -> dict[str, str]:
        """The body of each function in the file by name, as PostgreSQL stores it."""
        return dict(re.findall(r"^create or replace function (\w+)\(.*?\bas \$\$(.*?)\$\$", self.sql, re.M | re.S))


def files() -> list[FunctionFile]:
    """Return all files, the lower apps' first."""
    root = Path(settings.BASE_DIR)
    folders = [Path(app.path) / "sql" / "functions" for app in apps.get_app_configs()]
    # The other files call the functions of privileges.sql to grant the rights on their own functions.
    paths = [path for folder in folders for path in sorted(folder.glob("*.sql"))]
    paths.sort(key=lambda path: path.stem != "privileges")
    return [FunctionFile(str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in paths]


def with_stated_rights() -> set[str]:
    """Return the names of the functions whose files state who may call them."""
    return {name for file in files() for name in re.findall(r"callable_by\('(\w+)\(", file.sql)}


def outdated(connection: BaseDatabaseWrapper, changed: Collection[str] = ()) -> list[FunctionFile]:
    """Return the files to deploy: new files, changed files, and files with one of the `changed` functions."""
    deployed = _deployed(connection)

    def is_outdated(file: FunctionFile) -> bool:
        return deployed.get(file.path) != file.sha256 or not file.bodies.keys().isdisjoint(changed)

    return [file for file in files() if is_outdated(file)]


def deploy(connection: BaseDatabaseWrapper, outdated_files: list[FunctionFile]) -> None:
    """Apply these files in one transaction. Calls in progress end with the functions that they began with."""
    with use_case(connection.alias), connection.cursor() as cursor:
        # A superuser may migrate as well: what it creates belongs to the tables' owner all the same.
        cursor.execute("select quote_ident(tableowner) from pg_tables where tablename = 'django_migrations'")
        (owner,) = cursor.fetchone()
        cursor.execute(f"set local role {owner}")
        cursor.execute("set local check_function_bodies = off")  # a function may call one of a later file
        for file in outdated_files:
            cursor.execute(file.sql)
            cursor.execute(
                "insert into sql_functions (path, sha256, version) values (%s, %s, %s) on conflict (path) do update"
                " set (sha256, version, applied_at) = (excluded.sha256, excluded.version, clock_timestamp())",
                [file.path, file.sha256, settings.VERSION],
            )
        cursor.execute("delete from sql_functions where path <> all(%s)", [[file.path for file in files()]])


@contextmanager
def one_migration_at_a_time(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Hold the database's migration lock; wait while another node migrates."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", [_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("select pg_advisory_unlock(%s)", [_LOCK])


def _deployed(connection: BaseDatabaseWrapper) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("select to_regclass('sql_functions') is not null")
        (exists,) = cursor.fetchone()
        if not exists:
            return {}
        cursor.execute("select path, sha256 from sql_functions")
        return dict(cursor.fetchall())
