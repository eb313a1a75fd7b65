"""Released versions with the data that `freeze.py` stored, and today's desk on that data."""

import functools
import io
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command

from config import logins
from config.postgres import postgres_bin
from copybot.client import Client
from tests import databases
from tests.conftest import Serving, Template

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Release:
    """One frozen version. `facts`: see `life.py` and `freeze.py`."""

    folder: Path
    facts: dict[str, Any]

    @property
    def version(self) -> str:
        return self.folder.name

    def restore(self) -> str:
        """Create a database with this version's schema and data; return its name."""
        name = databases.empty()
        dump = lzma.decompress((self.folder / "desk.sql.xz").read_bytes()).decode()
        login = databases.login()["user"]
        dump = dump.replace(" OWNER TO copydesk;", f" OWNER TO {login};").replace(
            " FOR ROLE copydesk ", f" FOR ROLE {login} "
        )
        program(
            "psql", "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", databases.url(name), stdin=dump
        )
        return name

    def unpack(self, folder: Path) -> Path:
        """Unpack this version's code into `folder`."""
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress((self.folder / "source.tar.xz").read_bytes()))) as source:
            source.extractall(folder, filter="data")
        return folder

    def environ(self, database: str) -> dict[str, str]:
        """Return the environment of a process of this version's desk. 0.1.0 has one login, which owns the tables."""
        secrets: dict[str, str] = self.facts["environ"]
        one_login = dict.fromkeys(logins.VARIABLES, databases.url(database))
        mine = {**one_login, "DEBUG": "1", "COPYDESK_NO_VENV": "1"}
        return {**os.environ, **secrets, **mine}


def program(name: str, *arguments: str, stdin: str | None = None) -> str:
    """Run one of PostgreSQL's programs; return its output."""
    command = [postgres_bin() / name, *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert result.returncode == 0, f"{name}: {result.stderr[-2000:]}"
    return result.stdout


def psql(database: str, statements: str) -> None:
    program("psql", "--quiet", "-X", "--set", "ON_ERROR_STOP=1", "--dbname", databases.url(database), stdin=statements)


RELEASES = [Release(path.parent, json.loads(path.read_text())) for path in sorted(HERE.glob("*/facts.json"))]
LATEST = max(RELEASES, key=lambda release: tuple(int(part) for part in release.version.split(".")))


@pytest.fixture(scope="session", params=RELEASES, ids=lambda release: release.version)
def release(request: pytest.FixtureRequest) -> Release:
    requested: Release = request.param
    return requested


@dataclass(frozen=True)
class Upgraded:
    """A release's database after today's `migrate`; `before` is the database without it."""

    release: Release
    before: str
    name: str


@pytest.fixture(scope="session")
def upgraded(release: Release, template: Template, django_db_blocker: Any) -> Iterator[Upgraded]:
    """Read-only databases; `desk_db` is a copy. (The template's migrations have created the roles.)"""
    before = release.restore()
    name = databases.copy(before)
    with pointed_at(name, django_db_blocker):
        call_command("migrate", verbosity=0)
    yield Upgraded(release, before, name)
    for database in (before, name):
        databases.drop(database)


@pytest.fixture
def desk_db(upgraded: Upgraded, django_db_blocker: Any) -> Iterator[str]:
    """A copy of the upgraded database; Django's aliases point at it."""
    name = databases.copy(upgraded.name)
    with pointed_at(name, django_db_blocker):
        yield name
    databases.drop(name)


class Desk(Serving):
    """A web process on a release's data, and that release's bots."""

    def __init__(self, database: str, release: Release, tree: Path | None = None) -> None:
        super().__init__(database, {}, **(release.environ(database) if tree else release.facts["environ"]))
        self.database, self.release, self.tree = database, release, tree or self.tree
        self.options = () if self.tree == Serving.tree else ("--http", "auto")  # what the version before knows
        self.clients: dict[str, Client] = {}

    def bot_of(self, name: str) -> Client:
        """Return the bot with this key of the facts. It continues from the key's last number."""
        if name not in self.clients:
            key = self.release.facts["keys"][name]
            last = self.release.facts["last_seq"][key["key"]]
            self.clients[name] = Client(self.url, key["key"], key["secret"], seq=last)
            self.bots.append(self.clients[name])
        return self.clients[name]

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and body of a browser's request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        response = answer.status, answer.read().decode()
        connection.close()
        return response


@pytest.fixture(scope="module")
def served(upgraded: Upgraded) -> Iterator[Desk]:
    """Today's web process on a copy of the upgraded database."""
    serving = Desk(databases.copy(upgraded.name), upgraded.release).start()
    yield serving
    serving.stop()
    databases.drop(serving.database)


@pytest.fixture
def desk(served: Desk, django_db_blocker: Any) -> Iterator[Desk]:
    """The web process that this module's tests share; Django's aliases point at its database."""
    with pointed_at(served.database, django_db_blocker):
        yield served


@contextmanager
def pointed_at(database: str, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        databases.point_at(database)
        try:
            yield
        finally:
            databases.point_at("postgres")


@functools.cache
def columns(database: str) -> dict[str, list[Any]]:
    """Return every column of every table: its values as text, in the order of the primary key.

    Only for databases into which nobody writes.
    """
    with psycopg.connect(databases.url(database), options="-c timezone=UTC") as connection:
        named = connection.execute(
            """select c.table_name, c.column_name,
                      (select string_agg(quote_ident(k.column_name), ', ' order by k.ordinal_position)
                         from information_schema.key_column_usage k
                         join information_schema.table_constraints t using (constraint_schema, constraint_name)
                        where t.constraint_type = 'PRIMARY KEY' and t.table_schema = 'public'
                          and t.table_name = c.table_name) as key
                 from information_schema.columns c join pg_tables p on p.tablename = c.table_name
                where c.table_schema = 'public' and p.schemaname = 'public'"""
        ).fetchall()
        columns = {}
        for table, column, key in named:
            values = connection.execute(f'select "{column}"::text as value from "{table}" order by {key or 1}')
            columns[f"{table}.{column}"] = [value for (value,) in values]
    return columns
