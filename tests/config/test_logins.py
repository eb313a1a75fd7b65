"""Each of the desk's logins is what it is for and can become no other, on an embedded desk and on a given database."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.db import connections

from config import checks, embedded, logins
from config.postgres import DATABASE, Postgres
from tests import databases, ports
from tests.conftest import ROOT, Serving
from tests.upgrades.conftest import program

ROLES_SQL = ROOT / "ops" / "roles.sql"
PASSWORDS = {"owner": "a password of owners", "app": "a password of apps", "bot": "a password of bots"}
# What 0.1.0 made of an embedded desk's cluster: one login without a password, which owns all and takes the roles on.
OF_0_1_0 = """
create role copydesk_app nologin;
create role copydesk_bot nologin;
create role copydesk login createrole createdb;
grant copydesk_app, copydesk_bot to copydesk;
"""


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the test's own servers; the environment names none."""
    for name in (*logins.VARIABLES, "REDIS_URL"):
        monkeypatch.setenv(name, "")
    yield tmp_path / "var"
    embedded.Servers(tmp_path / "var").remove()


@pytest.fixture
def postgres(var: Path) -> Iterator[Postgres]:
    servers = embedded.Servers(var, fast=True)
    servers.postgres.start()
    yield servers.postgres
    servers.stop()


def session(url: str) -> tuple[Any, ...]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select session_user::text, current_user::text, current_setting('lock_timeout'),"
            " current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
        ).fetchone()
    assert row is not None
    return row


def refused(url: str) -> str:
    with pytest.raises(psycopg.OperationalError) as fault:
        psycopg.connect(url, connect_timeout=5)
    return str(fault.value)


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@"))


# --- the embedded desk


def test_each_login_of_an_embedded_desk_has_a_password_and_its_limits(postgres: Postgres) -> None:
    limits = ("2s", "5s", "10s")

    assert session(postgres.url(logins.APP)) == (logins.APP, logins.APP, *limits)
    assert session(postgres.url(logins.BOT)) == (logins.BOT, logins.BOT, *limits)
    assert session(postgres.url(logins.OWNER))[:2] == (logins.OWNER, logins.OWNER)
    for role in (*logins.VARIABLES.values(), logins.SUPERUSER):
        assert "no password supplied" in refused(without_password(postgres.url(role)))
        other = logins.APP if role != logins.APP else logins.BOT
        stolen = postgres.url(other).replace(f"//{other}:", f"//{role}:")
        assert "password authentication failed" in refused(stolen)
    for name in ("logins.json", "superuser.json"):
        assert stat.S_IMODE((postgres.data / name).stat().st_mode) == 0o600


def test_nobody_has_a_power_that_its_work_does_not_need(postgres: Postgres) -> None:
    with postgres._connection() as superuser:
        powers = superuser.execute(
            "select rolname, rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls from pg_roles"
            " where rolcanlogin and rolname <> %s order by rolname",
            [logins.SUPERUSER],
        ).fetchall()
        memberships = superuser.execute(
            "select member::regrole::text from pg_auth_members where member::regrole::text ~ '^copydesk'"
        ).fetchall()
        temporary = superuser.execute(
            "select rolname from pg_roles where rolname ~ '^copydesk_'"
            " and has_database_privilege(oid, 'copydesk', 'temporary')"
        ).fetchall()

    assert powers == [(role, False) for role in sorted(logins.VARIABLES.values())]
    assert {member for (member,) in memberships} == {logins.OWNER}
    assert temporary == []


def test_a_start_takes_back_what_a_login_has_gained(postgres: Postgres) -> None:
    with postgres._connection() as superuser:
        superuser.execute("alter role copydesk_bot superuser createrole connection limit 0 password 'guessed'")
        superuser.execute("alter role copydesk_bot set statement_timeout = 0")
        superuser.execute("grant copydesk_bot, pg_write_all_data to copydesk_app")
    postgres.stop()
    postgres.start()

    assert session(postgres.url(logins.BOT)) == (logins.BOT, logins.BOT, "2s", "5s", "10s")
    test_nobody_has_a_power_that_its_work_does_not_need(postgres)


def test_a_desk_of_0_1_0_gets_its_logins_and_keeps_its_data(var: Path) -> None:
    servers = embedded.Servers(var, fast=True)
    postgres = servers.postgres
    postgres._initialise()
    (postgres.data / "pg_hba.conf").write_text("local all all trust\n")
    with pytest.MonkeyPatch.context() as as_before:
        as_before.setattr(Postgres, "_write_access", lambda self: self._access_file.write_text("local all all trust"))
        postgres.launch()
    with postgres._connection() as superuser:
        for statement in OF_0_1_0.strip().splitlines():
            superuser.execute(statement)
        superuser.execute("create database copydesk owner copydesk")
    old_url = f"postgres://copydesk@/copydesk?host={postgres.sockets}"
    with psycopg.connect(old_url) as old:
        old.execute("create table trades as select 42 as ticket")
    postgres.stop()

    postgres.start()

    try:
        assert "no password supplied" in refused(old_url)
        test_each_login_of_an_embedded_desk_has_a_password_and_its_limits(postgres)
        test_nobody_has_a_power_that_its_work_does_not_need(postgres)
        with psycopg.connect(postgres.url(logins.OWNER)) as owner:
            assert owner.execute("select ticket from trades").fetchone() == (42,)
        assert (postgres.data / "pg_hba.conf").read_text() == "local all all trust\n"  # the way back
    finally:
        servers.stop()


def test_a_start_that_was_interrupted_before_the_superusers_password_was_kept_is_finished(
    postgres: Postgres,
) -> None:
    postgres.stop()
    (postgres.data / "superuser.json").unlink()

    postgres.start()

    assert session(postgres.url(logins.SUPERUSER))[0] == logins.SUPERUSER
    assert "no password supplied" in refused(without_password(postgres.url(logins.SUPERUSER)))


ENVIRON = """
import os
from pathlib import Path
from config import embedded
with embedded.serving(Path({var!r}), as_owner={as_owner}):
    print(sorted(name for name in os.environ if name.startswith("DATABASE") and os.environ[name]))
"""


@pytest.mark.parametrize("as_owner", [True, False])
def test_only_commands_that_migrate_get_the_owners_url(var: Path, as_owner: bool) -> None:
    program_text = ENVIRON.format(var=str(var), as_owner=as_owner)

    output = subprocess.check_output([sys.executable, "-c", program_text], cwd=ROOT, text=True)

    owner = ["DATABASE_OWNER_URL"] if as_owner else []
    assert output.strip() == str(sorted(["DATABASE_URL", "DATABASE_BOT_URL", *owner]))


@pytest.mark.crash
def test_the_processes_of_an_embedded_desk_have_neither_the_owners_nor_the_superusers_password(var: Path) -> None:
    port = ports.free()
    environ = {**os.environ, "COPYDESK_VAR": str(var), "COPYDESK_NO_VENV": "1", "PORT": str(port), "DEBUG": "1"}
    desk = subprocess.Popen([sys.executable, "manage.py", "up", "--no-demo"], cwd=ROOT, env=environ)
    try:
        while b"ready" not in _get(port):
            assert desk.poll() is None
        children = [line.split()[0] for line in (var / "processes").read_text().splitlines()]
        environs = [Path(f"/proc/{pid}/environ").read_bytes() for pid in children]
    finally:
        desk.terminate()
        desk.wait()

    secret = [json.loads((var / "pg" / name).read_text()) for name in ("logins.json", "superuser.json")]
    assert len(environs) >= 3
    assert any(secret[0][logins.APP].encode() in environ for environ in environs)
    for environ_ in environs:
        assert secret[0][logins.OWNER].encode() not in environ_
        assert secret[1][logins.SUPERUSER].encode() not in environ_


def _get(port: int) -> bytes:
    import urllib.error
    import urllib.request

    try:
        return bytes(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).read())
    except (OSError, urllib.error.HTTPError):
        return b""


# --- a given database


@pytest.fixture
def given(var: Path) -> Iterator[Postgres]:
    """A cluster on which only an administrator has worked."""
    servers = embedded.Servers(var, fast=True)
    servers.postgres._initialise()
    servers.postgres.launch()
    yield servers.postgres
    servers.stop()


def run_roles_sql(postgres: Postgres) -> None:
    variables = [part for name, password in PASSWORDS.items() for part in ("--set", f"{name}_password={password}")]
    program("psql", "-X", "--quiet", "--dbname", postgres._address, *variables, "--file", str(ROLES_SQL))


def url_of(postgres: Postgres, login: str, name: str) -> str:
    return f"host={postgres.sockets} user={login} password='{PASSWORDS[name]}' dbname=copydesk"


def test_roles_sql_makes_three_logins_with_their_limits(given: Postgres) -> None:
    for _ in range(2):  # it may run again
        run_roles_sql(given)

    assert session(url_of(given, "copydesk_app", "app")) == ("copydesk_app", "copydesk_app", "2s", "5s", "10s")
    assert session(url_of(given, "copydesk_bot", "bot")) == ("copydesk_bot", "copydesk_bot", "2s", "5s", "10s")
    with psycopg.connect(url_of(given, "copydesk_owner", "owner")) as owner:
        owner.execute("create table mine (x int)")
    with given._connection() as superuser:
        powers = superuser.execute(
            "select count(*) from pg_roles where rolname ~ '^copydesk'"
            " and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)"
        ).fetchone()
    assert powers == (0,)


def test_roles_sql_takes_the_roles_of_0_1_0_over(given: Postgres) -> None:
    with given._connection() as superuser:
        superuser.execute("create role copydesk_owner login createrole; create role copydesk_app nologin")
        superuser.execute("create role copydesk_bot nologin")
        superuser.execute("create role copydesk login in role copydesk_app, copydesk_bot")
        superuser.execute("create database copydesk owner copydesk_owner")

    test_roles_sql_makes_three_logins_with_their_limits(given)

    with given._connection() as superuser:  # until the last process of 0.1.0 has ended
        is_member = "select pg_has_role('copydesk', 'copydesk_app', 'member')"
        assert superuser.execute(is_member).fetchone() == (True,)


# --- the start refuses other logins


def faults_of_logins() -> dict[str, str]:
    for alias in ("default", "bot"):
        connections[alias].close()
    return {fault.id: fault.msg for fault in checks.logins_are_limited(None, ["default"])}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A cluster of this module's own, because roles belong to all databases of a cluster."""
    servers = embedded.Servers(tmp_path_factory.mktemp("logins"), fast=True)
    servers.postgres.start()
    with psycopg.connect(servers.postgres.url(logins.OWNER)) as owner:
        owner.execute("create table trades (x int)")
        owner.execute("create function trade_close() returns int language sql as 'select 1'")
    yield servers.postgres
    servers.remove()


@pytest.fixture
def superuser(cluster: Postgres, django_db_blocker: Any) -> Iterator[psycopg.Connection[Any]]:
    """The superuser of that cluster; Django's aliases point at it."""
    with django_db_blocker.unblock(), databases.on_cluster(cluster):
        before = connections["default"].settings_dict["NAME"]
        databases.point_at(DATABASE)
        with psycopg.connect(cluster.url(logins.SUPERUSER), autocommit=True) as connection:
            yield connection
        databases.point_at(before)


def test_the_logins_of_an_embedded_desk_are_limited(superuser: Any) -> None:
    assert faults_of_logins() == {}


POWERS = {
    "alter role copydesk_app superuser": ("alter role copydesk_app nosuperuser", "is a superuser"),
    "alter role copydesk_app createrole": ("alter role copydesk_app nocreaterole", "may create roles"),
    "alter role copydesk_bot createdb": ("alter role copydesk_bot nocreatedb", "may create databases"),
    "alter role copydesk_bot bypassrls": ("alter role copydesk_bot nobypassrls", "bypasses row security"),
    "alter role copydesk_bot replication": ("alter role copydesk_bot noreplication", "may replicate"),
    "grant copydesk_app to copydesk_bot": ("revoke copydesk_app from copydesk_bot", "may take on copydesk_app"),
    "grant pg_write_all_data to copydesk_app": (
        "revoke pg_write_all_data from copydesk_app",
        "may take on pg_write_all_data",
    ),
    "alter table trades owner to copydesk_app": ("alter table trades owner to copydesk", "owns trades"),
    "alter function trade_close() owner to copydesk_bot": (
        "alter function trade_close() owner to copydesk",
        "owns functions",
    ),
    "grant create on schema public to copydesk_app": (
        "revoke create on schema public from copydesk_app",
        "may create objects in the schema public",
    ),
    "alter database copydesk owner to copydesk_bot": (
        "alter database copydesk owner to copydesk; revoke all on database copydesk from copydesk_bot; "
        "grant connect on database copydesk to copydesk_bot",
        "owns the database",
    ),
}


@pytest.mark.parametrize("statement", POWERS)
def test_a_login_with_a_power_is_refused(statement: str, superuser: Any) -> None:
    undo, power = POWERS[statement]
    superuser.execute(statement)
    try:
        found = faults_of_logins()
    finally:
        superuser.execute(undo)

    assert power in found["copydesk.E017"]
    assert faults_of_logins() == {}


def test_limits_that_a_pooler_drops_come_from_the_login(superuser: Any) -> None:
    options = {alias: connections[alias].settings_dict["OPTIONS"]["options"] for alias in ("default", "bot")}
    try:
        for alias in options:
            connections[alias].settings_dict["OPTIONS"]["options"] = ""
        assert faults_of_logins() == {}
        superuser.execute("alter role copydesk_bot reset statement_timeout")
        assert "DATABASE_BOT_URL" in faults_of_logins()["copydesk.E016"]
    finally:
        superuser.execute("alter role copydesk_bot set statement_timeout = '5s'")
        for alias, asked in options.items():
            connections[alias].settings_dict["OPTIONS"]["options"] = asked


def test_a_login_that_rotates_with_another_may_be_a_member_of_its_role_alone(superuser: Any) -> None:
    before = {name: connections["bot"].settings_dict[name] for name in ("USER", "PASSWORD")}
    superuser.execute("create role desk_bot_2 login password 'second' in role copydesk_bot")
    connections["bot"].settings_dict.update({"USER": "desk_bot_2", "PASSWORD": "second"})
    try:
        assert faults_of_logins() == {}
        superuser.execute("grant copydesk_app to desk_bot_2")
        assert "may take on copydesk_app" in faults_of_logins()["copydesk.E017"]
    finally:
        connections["bot"].close()
        connections["bot"].settings_dict.update(before)
        superuser.execute("drop role desk_bot_2")


def test_the_owner_as_the_login_of_people_or_bots_is_refused(desk_db: str) -> None:
    owner = {name: connections["owner"].settings_dict[name] for name in ("USER", "PASSWORD")}
    for alias in ("default", "bot"):
        before = {name: connections[alias].settings_dict[name] for name in owner}
        connections[alias].settings_dict.update(owner)
        try:
            found = faults_of_logins()["copydesk.E017"]
        finally:
            connections[alias].settings_dict.update(before)
            connections[alias].close()
        assert f"{owner['USER']}, may create databases, owns the database, owns " in found
        assert "owns functions, may create objects in the schema public" in found


def test_no_process_starts_with_the_owners_login(desk_db: str, tmp_path: Path) -> None:
    """Today's single login of 0.1.0: it owns the tables."""
    environ = {**os.environ, **dict.fromkeys(logins.VARIABLES, databases.url(desk_db)), "DEBUG": "1"}
    commands = {
        "web": ["-c", "import config.wsgi"],
        "worker": ["-m", "celery", "-A", "config", "worker", "--pool", "solo"],
        "beat": ["-m", "celery", "-A", "config", "beat", "--schedule", str(tmp_path / "schedule")],
    }
    for name, command in commands.items():
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environ, capture_output=True, text=True)

        assert done.returncode != 0, name
        assert "copydesk.E017: The login of DATABASE_URL" in done.stderr, done.stderr
        assert "run ops/roles.sql, and set DATABASE_URL to the URL of copydesk_app" in done.stderr


def test_urls_of_different_databases_are_refused(template: Any, desk_db: str) -> None:
    connections["bot"].settings_dict["NAME"] = template.name
    try:
        assert "different databases" in faults_of_logins()["copydesk.E015"]
    finally:
        connections["bot"].close()
        connections["bot"].settings_dict["NAME"] = desk_db


def test_migrate_without_the_owners_url_says_so(desk_db: str) -> None:
    environ = {**os.environ, **databases.urls(desk_db), "DATABASE_OWNER_URL": "", "COPYDESK_NO_VENV": "1"}

    done = subprocess.run(
        [sys.executable, "manage.py", "migrate"], cwd=ROOT, env=environ, capture_output=True, text=True
    )

    assert (done.returncode, "DATABASE_OWNER_URL is not set" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def test_a_web_process_does_not_hold_the_owners_url(web: Serving) -> None:
    assert web.process is not None
    environ = Path(f"/proc/{web.process.pid}/environ").read_bytes()

    assert b"DATABASE_BOT_URL" in environ
    assert b"DATABASE_OWNER_URL" not in environ
