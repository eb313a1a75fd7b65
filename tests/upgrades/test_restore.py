"""pg_dump and pg_restore by the owner bring everything back, or the catalogue check says what is missing.

What could be lost: ENABLE ALWAYS of triggers, generated columns, deferred keys, SECURITY DEFINER, grants.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import OperationalError, connections

from config import embedded, logins
from config.postgres import DATABASE, Postgres, postgres_bin
from core import catalogue
from tests import databases
from tests.upgrades.conftest import LATEST, Upgraded, columns, pointed_at, program
from trades import checks as trades
from trust import checks as trust
from wallets import checks as wallets

pytestmark = pytest.mark.parametrize("release", [LATEST], ids=[LATEST.version], indirect=True, scope="session")

ROLES = (logins.APP, logins.BOT)


@pytest.fixture(scope="module")
def archive(upgraded: Upgraded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backup") / "desk.dump"
    program("pg_dump", "--format=custom", "--dbname", databases.url(upgraded.name), "--file", str(path))
    return path


@pytest.fixture
def restored(upgraded: Upgraded, django_db_blocker: Any) -> Iterator[str]:
    """A new database, still empty; Django's aliases point at it."""
    name = databases.empty()
    with pointed_at(name, django_db_blocker):
        yield name
    databases.drop(name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Another cluster without the desk's roles."""
    servers = embedded.Servers(tmp_path_factory.mktemp("other"), fast=True)
    servers.postgres.start()
    yield servers.postgres
    servers.remove()


@pytest.fixture
def elsewhere(cluster: Postgres, upgraded: Upgraded, django_db_blocker: Any) -> Iterator[str]:
    """A new database in the other cluster, without the desk's roles; Django's aliases point at it."""
    with databases.on_cluster(cluster):
        with cluster._connection() as superuser:
            for role in ROLES:
                superuser.execute(f"revoke all on database {DATABASE} from {role}")
                superuser.execute(f"drop role {role}")
        name = databases.empty()
        with pointed_at(name, django_db_blocker):
            yield name
        databases.drop(name)
        make_roles(cluster)


def restore(archive: Path, database: str, *options: str) -> None:
    program("pg_restore", "--exit-on-error", *options, "--dbname", databases.url(database), str(archive))


def make_roles(cluster: Postgres) -> None:
    """As ops/roles.sql does."""
    with cluster._connection() as superuser:
        logins.set_up(superuser, DATABASE, {role: cluster._password(role) for role in logins.SETTINGS})


def differing() -> set[str]:
    return {difference.subject for difference in catalogue.differences()}


def follow_the_remedies(database: str) -> None:
    """Apply the remedy of each difference, as the tables' owner."""
    with psycopg.connect(databases.url(database), autocommit=True) as connection:
        for difference in catalogue.differences():
            statement = re.fullmatch(r"As the (?:tables' )?owner: (.*)\.", difference.remedy)
            assert statement is not None, difference
            connection.execute(statement[1].encode())


def check_whole() -> None:
    assert catalogue.differences() == []
    assert [*trades.faults(), *wallets.faults(), *trust.faults()] == []


def test_a_restore_into_the_same_cluster_is_complete(archive: Path, restored: str, upgraded: Upgraded) -> None:
    restore(archive, restored)

    check_whole()
    before, after = columns(upgraded.name), columns(restored)
    assert [name for name, values in before.items() if after.get(name) != values] == []


def test_a_restore_into_another_cluster_with_the_roles_is_complete(
    archive: Path, elsewhere: str, cluster: Postgres
) -> None:
    make_roles(cluster)
    restore(archive, elsewhere)

    check_whole()


def test_a_restore_without_the_roles_is_named_and_can_be_repaired(
    archive: Path, elsewhere: str, cluster: Postgres
) -> None:
    # Without --exit-on-error, as most people run it: everything is restored except the grants.
    command = [postgres_bin() / "pg_restore", "--dbname", databases.url(elsewhere), archive]
    output = subprocess.run(command, capture_output=True, text=True).stderr

    assert 'role "copydesk_app" does not exist' in output
    with pytest.raises(OperationalError, match='"copydesk_app"'):
        connections["default"].ensure_connection()

    make_roles(cluster)
    differences = differing()

    assert "rights copydesk_app on table trades" in differences
    assert any(subject.startswith("rights copydesk_bot on function signed_call(") for subject in differences)
    assert all(subject.startswith("rights ") for subject in differences)

    call_command("migrate", verbosity=0)
    assert not any(" on function " in subject for subject in differing())
    follow_the_remedies(elsewhere)
    assert catalogue.differences() == []


def test_a_restore_without_privileges_is_named(archive: Path, restored: str) -> None:
    restore(archive, restored, "--no-privileges")

    differences = differing()

    assert "rights copydesk_app on table trades" in differences
    assert "rights copydesk_app on new tables" in differences
    assert any(re.match(r"rights public on function trade_open\(", subject) for subject in differences)


def test_a_restore_with_disable_triggers_weakens_triggers_and_is_named(
    archive: Path, elsewhere: str, cluster: Postgres
) -> None:
    """`--disable-triggers` turns triggers on again as ordinary ones, which session_replication_role switches off."""
    make_roles(cluster)
    restore(archive, elsewhere, "--schema-only")
    superuser = cluster.url(logins.SUPERUSER).replace(f"/{DATABASE}?", f"/{elsewhere}?")
    program("pg_restore", "--exit-on-error", "--data-only", "--disable-triggers", "--dbname", superuser, str(archive))
    weaker = {difference.subject: difference for difference in catalogue.differences()}

    assert "trigger trade_history.append_only" in weaker
    assert "enable always trigger append_only" in weaker["trigger trade_history.append_only"].remedy
    assert all(subject.startswith("trigger ") for subject in weaker)
    follow_the_remedies(elsewhere)
    assert catalogue.differences() == []
