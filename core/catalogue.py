"""Compares what the database has with what the code wants, by definition, not by name.

It covers functions (body, security, search_path, owner), triggers (definition, and whether they are ENABLE ALWAYS),
constraints, indexes, columns, tables, and the rights of the desk's two roles. What the code wants is
config/catalogue.json, which `make catalogue` writes from a fresh database (a test compares the two), and for the bodies
of functions their files.
"""

import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from core import functions

ROLES = ("copydesk_app", "copydesk_bot")
_QUERY = (Path(__file__).parent / "sql" / "catalogue.sql").read_text(encoding="utf-8")


class Difference(NamedTuple):
    """One object that is not as the code wants it."""

    subject: str
    """Kind and name: "trigger trades.never_deleted"."""
    problem: str
    remedy: str
    cured_by_migrate: bool = False
    is_addition: bool = False
    """An index, column, table or function more than wanted: it changes nothing that is written."""
    is_switched_off: bool = False
    """A trigger or key that is there and does not fire, which no version wants."""

    def __str__(self) -> str:
        return f"{self.subject} {self.problem}. {self.remedy}"


def differences(alias: str = "default") -> list[Difference]:
    """Return every object that differs from what the code wants, by name. Empty where the database is correct."""
    has = read(alias)
    wants = {subject: definition for subject, definition in wanted().items() if not _needs_missing_role(subject, has)}
    paths = {name: file.path for file in functions.files() for name in file.bodies}
    return [
        _difference(subject, has.get(subject), wants.get(subject), paths)
        for subject in sorted(has | wants)
        if has.get(subject) != wants.get(subject)
    ]


def of_apps(labels: Collection[str], differences: Collection[Difference]) -> list[Difference]:
    """Return the differences that concern the tables and functions of these apps."""
    tables = {model._meta.db_table for label in labels for model in apps.get_app_config(label).get_models()}
    names = {name for file in functions.files() if file.path.split("/")[0] in labels for name in file.bodies}
    return [difference for difference in differences if _object(difference.subject) in tables | names]


def changed_functions(alias: str) -> set[str]:
    """Return the names of functions that are missing or differ, in rights and owner too."""
    return {_object(difference.subject) for difference in differences(alias) if difference.cured_by_migrate}


def is_ahead(alias: str = "default") -> bool:
    """Whether a newer version of the code has migrated this database, so that differences are expected."""
    connection = connections[alias]
    loader = MigrationExecutor(connection).loader
    last: dict[str, str] = {}
    for app, name in loader.disk_migrations:
        last[app] = max(last.get(app, ""), name[:4])
    # Only a migration after the last one of this code is a newer version's: a renamed or a squashed one is not.
    if any(name[:4] > last[app] for app, name in loader.applied_migrations if app in last):
        return True
    with connection.cursor() as cursor:
        cursor.execute("select array_agg(distinct version) from sql_functions")
        (versions,) = cursor.fetchone()
    return any(_version_key(version) > _version_key(settings.VERSION) for version in versions or ())


def is_behind(alias: str = "default") -> bool:
    """Whether migrations of this code wait for this database."""
    executor = MigrationExecutor(connections[alias])
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def read(alias: str) -> dict[str, str]:
    """Return what the database has: each object's definition by its kind and name, without owners' names."""
    with connections[alias].cursor() as cursor:
        return read_through(cursor)


def read_through(cursor: Any) -> dict[str, str]:
    """The same as `read`, through this psycopg cursor or connection."""
    rows = cursor.execute(_QUERY, {"roles": list(ROLES)}).fetchall()
    return {subject: _as_after_a_restore(definition) for subject, definition in rows}


def _as_after_a_restore(definition: str) -> str:
    """PostgreSQL writes "status in ('A', 'B')" of a varchar differently after a restore: reduce both to one form."""
    normalised = re.sub(r"::(character varying|text)\b(\[\])?", "", definition)
    normalised = re.sub(r"\(('[^']*')\)", r"\1", normalised)
    return re.sub(r"\(\((ARRAY\[[^]]*\])\)\)", r"(\1)", normalised)


def wanted() -> dict[str, str]:
    """Return what the code wants: the catalogue's file, with the bodies of functions from their own files."""
    definitions = dict(_catalogue())
    bodies = {name: body for file in functions.files() for name, body in file.bodies.items()}
    for subject in definitions:
        if subject.startswith("function "):
            definitions[subject] += f" body {_md5(bodies.get(_object(subject), ''))}"
    return definitions


def write(alias: str) -> None:
    """Write the catalogue's file from this database, without bodies: their files are the only source of these."""
    without_bodies = {subject: re.sub(r" body \w+$", "", definition) for subject, definition in read(alias).items()}
    text = json.dumps(without_bodies, indent=0, sort_keys=True, ensure_ascii=False)
    settings.CATALOGUE.write_text(f"{text}\n", encoding="utf-8")
    _catalogue.cache_clear()


@functools.cache
def _catalogue() -> Mapping[str, str]:
    catalogue: dict[str, str] = json.loads(settings.CATALOGUE.read_text(encoding="utf-8"))
    return catalogue


def _difference(subject: str, has: str | None, wants: str | None, paths: Mapping[str, str]) -> Difference:
    kind, name = subject.split(" ", 1)
    if has is None:
        problem = "is missing"
    elif wants is None:
        problem = "does not belong to the desk"
    else:
        problem = f"is «{has}» and not «{wants}»"
    if kind == "rights":
        is_stated = _object(subject) in functions.with_stated_rights()  # by a file, which migrate deploys again
        return Difference(subject, problem, _remedy_of_rights(name, has, wants), cured_by_migrate=is_stated)
    if kind == "function" and wants is not None:
        path = paths.get(_object(subject))
        problem = "is missing" if has is None else f"is stale: {_change(has, wants)} not as {path} has it"
        if has is not None and " of another owner " in has:
            return Difference(subject, problem, f"As a superuser: alter function {name} owner to the tables' owner.")
        return Difference(subject, problem, "Run manage.py migrate.", cured_by_migrate=True)
    remedy = _remedy_of_surplus(kind, name) if wants is None else _remedy(kind, name, has, wants)
    is_addition = wants is None and kind not in ("trigger", "rule", "policy", "constraint")
    return Difference(
        subject, problem, remedy, is_addition=is_addition, is_switched_off=_is_switched_off(kind, has, wants)
    )


def _is_switched_off(kind: str, has: str | None, wants: str | None) -> bool:
    if has is None or wants is None:
        return False
    same_trigger = kind == "trigger" and has.partition(": ")[2] == wants.partition(": ")[2]
    return same_trigger or has == f"{wants}, but its triggers are disabled"


def _md5(body: str) -> str:
    """Equals PostgreSQL's md5(): it distinguishes bodies and protects nothing."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def _change(has: str, wants: str) -> str:
    differs_in_body = has.rpartition(" body ")[0] == wants.rpartition(" body ")[0]
    return "its body is" if differs_in_body else f"it is «{has.rpartition(' body ')[0]}»,"


def _remedy_of_surplus(kind: str, name: str) -> str:
    table, _, own = name.partition(".")
    statements = {
        "function": f"drop function {name}",
        "trigger": f"drop trigger {own} on {table}",
        "rule": f"drop rule {own} on {table}",
        "policy": f"drop policy {own} on {table}",
        "constraint": f"alter table {table} drop constraint {own}",
        "index": f"drop index {own}",
        "column": f"alter table {table} drop column {own}",
        "table": f"drop table {name}",
    }
    return f"If nothing else needs it: {statements.get(kind, 'remove it')}."


def _remedy(kind: str, name: str, has: str | None, wants: str) -> str:
    """The statement that restores the object."""
    table, _, own = name.partition(".")
    if kind == "trigger":
        state, _, definition = wants.partition(": ")
        statement = f"alter table {table} enable {'always ' if state == 'always' else ''}trigger {own}"
        if has is None:
            statement = f"{definition}; {statement}"
        elif has.partition(": ")[2] != definition:
            statement = f"drop trigger {own} on {table}; {definition}; {statement}"
    elif kind == "constraint" and has == f"{wants} NOT VALID":
        return (
            f"It holds for new rows. As the tables' owner, once no row breaks it: "
            f"alter table {table} validate constraint {own}."
        )
    elif kind == "constraint":
        drop = "" if has is None else f"drop constraint {own}, "
        statement = f"alter table {table} {drop}add constraint {own} {wants}"
    elif kind == "index":
        statement = wants if has is None else f"drop index {own}; {wants}"
    else:
        return "Run manage.py migrate if migrations are waiting; otherwise restore it as the tables' owner."
    return f"As the tables' owner: {statement}."


def _remedy_of_rights(name: str, has: str | None, wants: str | None) -> str:
    role, _, target = name.partition(" on ")
    by_default = "alter default privileges in schema public " if target.startswith("new ") else ""
    target = target.removeprefix("new ")
    granted, wanted = set((has or "").split(", ")) - {""}, set((wants or "").split(", ")) - {""}
    surplus, missing = granted - wanted, wanted - granted
    plain = {right.removesuffix(" with grant option") for right in surplus}
    steps = [f"{by_default}revoke {_listed(plain)} on {target} from {role}"] if surplus else []
    steps += [f"{by_default}grant {_listed(missing)} on {target} to {role}"] if missing else []
    return f"As the owner: {'; '.join(steps)}."


def _listed(rights: set[str]) -> str:
    return ", ".join(sorted(rights))


def _object(subject: str) -> str:
    """The table or function that a subject is about: "rights copydesk_app on function f(jsonb)" is about "f"."""
    name = subject.split(" ", 1)[1].rpartition(" on ")[2]
    return re.sub(r"^(function|table|sequence) ", "", name).partition("(")[0].partition(".")[0]


def _needs_missing_role(subject: str, has: Mapping[str, str]) -> bool:
    return any(role in subject and f"role {role}" not in has for role in ROLES)


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version)[0]))
