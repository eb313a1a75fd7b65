"""A database for each test, copied from a migrated template.

Append-only tables refuse TRUNCATE, and nothing here bypasses that: a test commits as the real desk does, and its
database is dropped afterwards.
"""

import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import environ
import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from config import logins
from config.postgres import Postgres

_VARIABLES = {"default": "DATABASE_URL", "bot": "DATABASE_BOT_URL", "owner": "DATABASE_OWNER_URL"}
_numbers = itertools.count(1)
_shared_connection: tuple[dict[str, Any], psycopg.Connection[Any]] | None = None


def unique(stem: str) -> str:
    return f"{stem}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"


def login() -> dict[str, Any]:
    """Return the connection parameters of the owner's login, without a database."""
    params = connections["owner"].get_connection_params()
    return {name: params[name] for name in ("host", "port", "user", "password") if params.get(name)}


@contextmanager
def server() -> Iterator[psycopg.Connection[Any]]:
    parameters, shared = _shared_connection or (None, None)
    if shared is not None and parameters == login():
        yield shared
        return
    with psycopg.connect(**login(), dbname="postgres", autocommit=True) as connection:
        yield connection


@contextmanager
def one_connection() -> Iterator[None]:
    """Create and drop databases over one connection in a block: a new connection costs a fifth of a copy."""
    global _shared_connection
    with server() as connection:
        _shared_connection = (login(), connection)
        try:
            yield
        finally:
            _shared_connection = None


def point_at(name: str) -> None:
    """Point all of Django's aliases to this database."""
    for alias in settings.DATABASES:
        connections[alias].close()
        connections[alias].settings_dict["NAME"] = name


@contextmanager
def on_cluster(postgres: Postgres) -> Iterator[None]:
    """Point Django's aliases and the URLs, and so the functions of this module, to this cluster for a block."""
    with postgres._connection() as superuser:
        superuser.execute(f"alter role {logins.OWNER} createdb")
    before = {alias: dict(connections[alias].settings_dict) for alias in connections}
    given = {name: os.environ[name] for name in logins.VARIABLES}
    os.environ.update(postgres.urls(owner=True))
    try:
        for alias, variable in _VARIABLES.items():
            address = environ.Env.db_url_config(os.environ[variable])
            connections[alias].close()
            connections[alias].settings_dict.update({"PORT": "", "HOST": str(postgres.sockets)})
            connections[alias].settings_dict.update({name: address[name] for name in ("USER", "PASSWORD")})
        yield
    finally:
        for alias, parameters in before.items():
            connections[alias].close()
            connections[alias].settings_dict.update(parameters)
        os.environ.update(given)


def url(name: str, variable: str = "DATABASE_OWNER_URL") -> str:
    """Return this database's URL for one of the logins; by default for the tables' owner."""
    return urlunsplit(urlsplit(os.environ[variable])._replace(path=f"/{name}"))


def urls(name: str) -> dict[str, str]:
    """Return the environment of other processes that use this database."""
    return {variable: url(name, variable) for variable in logins.VARIABLES}


def superuser_url(name: str) -> str:
    """Return this database's URL for the superuser; KeyError where the servers were given."""
    return url(name, "COPYDESK_TESTS_SUPERUSER_URL")


def make_template() -> str:
    name = unique("desk_template")
    drop(name)
    with server() as connection:
        connection.execute(f"create database {name}")
    point_at(name)
    call_command("migrate", verbosity=0)
    return name


@contextmanager
def shared_template(folder: Path, fill: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """A template's name and the JSON of what `fill` returned. A run's first worker creates it, the last one drops it.

    All workers of the run share `folder`.
    """
    notes = folder / "desk_template.json"
    with _exclusive(folder):
        if not notes.exists():
            notes.write_text(json.dumps({"name": make_template(), "content": fill(), "users": 0}))
            point_at("postgres")
        note = json.loads(notes.read_text())
        notes.write_text(json.dumps(note | {"users": note["users"] + 1}))
    yield note["name"], note["content"]
    point_at("postgres")
    with _exclusive(folder):
        note = json.loads(notes.read_text())
        notes.write_text(json.dumps(note | {"users": note["users"] - 1}))
        if note["users"] == 1:
            notes.unlink()
            drop(note["name"])


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    with (folder / "desk_template.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def empty() -> str:
    name = f"{unique('desk')}_{next(_numbers)}"
    with server() as connection:
        connection.execute(f"create database {name}")
    return name


def copy(template: str) -> str:
    name = f"{unique('desk')}_{next(_numbers)}"
    # In memory, copying files is fastest. On a disk, the log is faster than the checkpoints that copying files needs.
    strategy = "file_copy" if os.environ.get("COPYDESK_TESTS_IN_MEMORY") else "wal_log"
    with server() as connection:
        connection.execute(f"create database {name} template {template} strategy {strategy}")
    return name


def drop(name: str) -> None:
    """Drop the database after ending its connections. (WITH (FORCE) would fail where autovacuum runs.)"""
    end_connections = (  # of autovacuum, too, only a superuser could end them
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = %s and pg_has_role(current_user, usesysid, 'usage')"
    )
    with server() as connection:
        for _ in range(1200):
            connection.execute(end_connections, [name])
            try:
                connection.execute(f"drop database if exists {name}")
            except psycopg.errors.ObjectInUse:
                time.sleep(0.05)
            else:
                return
    raise RuntimeError(f"{name} is still in use")
