"""`migrate` deploys changed function files; until then the checks name the stale functions."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client

from config import health
from core import catalogue, functions
from tests import databases
from tests.conftest import ROOT
from tests.signed import HOST
from tests.sql import as_owner

CLOSE = "trades/sql/functions/close.sql"


@pytest.fixture
def edited(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of closes was edited, and `migrate` has not run yet."""
    files = [
        functions.FunctionFile(file.path, file.sql.replace("'trade.closed'", "'trade.closed_anew'"))
        if file.path == CLOSE
        else file
        for file in functions.files()
    ]
    monkeypatch.setattr(functions, "files", lambda: files)
    monkeypatch.setattr(health, "_deployments", None)
    monkeypatch.setattr(health, "_was_ready", False)


def body_of(name: Any) -> Any:
    with connections["owner"].cursor() as cursor:
        cursor.execute("select prosrc from pg_proc where proname = %s", [name])
        return cursor.fetchone()[0]


def migrated(**options: Any) -> Any:
    out = io.StringIO()
    call_command("migrate", stdout=out, no_color=True, **options)
    return out.getvalue()


def test_every_function_of_the_database_is_in_one_file(desk_db: str) -> None:
    names = [name for file in functions.files() for name in file.bodies]

    with connections["owner"].cursor() as cursor:
        cursor.execute("select proname from pg_proc where pronamespace = 'public'::regnamespace")
        assert sorted(names) == sorted(name for (name,) in cursor.fetchall())
    assert {name: body_of(name) for name in names} == {n: b for f in functions.files() for n, b in f.bodies.items()}


def test_every_function_that_runs_as_its_owner_says_who_may_call_it() -> None:
    for file in functions.files():
        for name in file.bodies:
            declared = f"select callable_by('{name}(" in file.sql
            head = file.sql.partition(f"function {name}(")[2].partition("$$")[0]
            assert declared == ("security definer" in head and "returns trigger" not in head), name
            assert ("security definer" in head) == ("set search_path = public, pg_temp" in head), name


def test_a_trigger_that_reads_a_table_runs_as_its_owner() -> None:
    """Otherwise a temporary table of the session could stand before the one that it means to read."""
    for file in functions.files():
        for name, body in file.bodies.items():
            head = file.sql.partition(f"function {name}(")[2].partition("$$")[0]
            if "returns trigger" in head and name != "lifted_by_function_alone":  # it names pg_catalog
                reads = re.search(r"\b(?:from|join)\s+(?!old\b|new\b)[a-z_]+", re.sub(r"'[^']*'|--.*", "", body))
                assert "security definer" in head or not reads, (name, reads)


def test_a_migrated_database_has_nothing_to_deploy(desk_db: str) -> None:
    assert "No functions to deploy." in migrated()
    assert "Functions to deploy" not in migrated(plan=True)


def test_the_plan_names_the_file_and_changes_nothing(edited: None) -> None:
    assert f"Functions to deploy:\n    {CLOSE}\n" in migrated(plan=True)
    assert "closed_anew" not in body_of("trade_close")


def test_migrate_check_fails_until_the_file_is_deployed(edited: None) -> None:
    with pytest.raises(SystemExit, match="1"):
        call_command("migrate", check_unapplied=True, stdout=io.StringIO())

    migrated()

    call_command("migrate", check_unapplied=True, stdout=io.StringIO())


def test_migrate_deploys_the_edited_file_and_no_other(edited: None) -> None:
    out = migrated()

    assert out.endswith(f"Deploying functions:\n  {CLOSE}\n")
    assert "closed_anew" in body_of("trade_close")
    assert catalogue.differences() == []


def test_the_checks_name_a_stale_function(edited: None, client: Client) -> None:
    (difference,) = catalogue.differences()
    assert str(difference) == (
        f"function trade_close(jsonb,jsonb) is stale: its body is not as {CLOSE} has it. Run manage.py migrate."
    )

    answer = client.get("/readyz", HTTP_HOST=HOST)

    stale = "1 stale: run manage.py migrate (function trade_close(jsonb,jsonb))"
    assert (answer.status_code, answer.json()["functions"]) == (503, stale)


@pytest.mark.breaks_the_books
def test_a_function_changed_by_hand_is_deployed_again(desk_db: str) -> None:
    as_owner("drop function trade_close(jsonb, jsonb)", "alter function signed_read(bigint, bigint, inet) volatile")

    out = migrated()

    assert out.endswith(f"Deploying functions:\n  {CLOSE}\n  trades/sql/functions/signed_request.sql\n")
    assert catalogue.differences() == []


@pytest.mark.breaks_the_books
def test_added_rights_are_revoked(desk_db: str) -> None:
    as_owner(
        "grant execute on function ledger_move(jsonb, jsonb) to public",
        "revoke execute on function signed_call(bigint, bigint, jsonb, jsonb) from copydesk_bot",
    )
    assert len(catalogue.differences()) == 2

    migrated()

    assert catalogue.differences() == []


@pytest.mark.breaks_the_books
def test_a_faulty_file_prevents_the_whole_deployment(edited: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are one transaction: the desk keeps the functions that it had."""
    broken = [*functions.files(), functions.FunctionFile("trust/sql/functions/broken.sql", "create nonsense")]
    monkeypatch.setattr(functions, "files", lambda: broken)

    with pytest.raises(Exception, match="nonsense"):
        migrated()

    assert "closed_anew" not in body_of("trade_close")


def test_functions_wait_for_the_last_migration(desk_db: str, edited: None) -> None:
    as_owner("delete from django_migrations where id = (select max(id) from django_migrations where app = 'trades')")

    assert "once all migrations are applied" in migrated(app_label="wallets")
    assert "closed_anew" not in body_of("trade_close")

    migrated(app_label="trades", fake=True)
    assert "closed_anew" in body_of("trade_close")


@pytest.mark.breaks_the_books
def test_an_older_node_leaves_the_functions_of_a_newer_version(edited: None) -> None:
    as_owner("update sql_functions set version = '99.0'")
    err = io.StringIO()

    call_command("migrate", stdout=io.StringIO(), stderr=err)

    assert "manage.py migrate --back" in err.getvalue()
    assert "closed_anew" not in body_of("trade_close")
    migrated(back=True)
    assert "closed_anew" in body_of("trade_close")


@pytest.mark.breaks_the_books
def test_functions_that_a_superuser_deploys_belong_to_the_tables_owner(
    edited: None, superuser: psycopg.Connection[Any], desk_db: str
) -> None:
    """Else they would run with a superuser's rights, and the owner could not deploy them any more."""
    login = {name: connections["owner"].settings_dict[name] for name in ("USER", "PASSWORD")}
    connections["owner"].close()
    connections["owner"].settings_dict.update({"USER": superuser.info.user, "PASSWORD": superuser.info.password})
    try:
        migrated()
    finally:
        connections["owner"].close()
        connections["owner"].settings_dict.update(login)

    assert "closed_anew" in body_of("trade_close")
    assert catalogue.differences() == []


# --- two nodes at once


def test_a_second_node_waits_for_the_first(edited: None) -> None:
    held, deployed = threading.Event(), threading.Event()
    connection = connections["owner"]

    def second() -> None:
        databases_of_thread = connections["owner"]
        try:
            held.wait(20)
            migrated()
            deployed.set()
        finally:
            databases_of_thread.close()

    thread = threading.Thread(target=second)
    thread.start()
    with functions.one_migration_at_a_time(connection):
        held.set()
        assert not deployed.wait(1.5)
        assert "closed_anew" not in body_of("trade_close")
    thread.join(60)
    assert "closed_anew" in body_of("trade_close")


@pytest.mark.crash
def test_two_nodes_start_at_once_on_an_empty_database(desk_db: str) -> None:
    name = f"{databases.unique('empty')}"
    databases.drop(name)
    with databases.server() as connection:
        connection.execute(f"create database {name}")
    environ = {**os.environ, **databases.urls(name), "COPYDESK_NO_VENV": "1"}
    command = [sys.executable, "manage.py", "migrate", "-v", "0"]
    try:
        nodes = [subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        ends = [(node.communicate(timeout=120)[1], node.returncode) for node in nodes]
        assert [code for _, code in ends] == [0, 0], ends
        databases.point_at(name)
        assert catalogue.differences("owner") == []
    finally:
        databases.point_at(desk_db)  # its books are checked after the test
        databases.drop(name)


# --- by real commands


@pytest.mark.crash
def test_an_edited_file_in_a_checkout_reaches_its_desk(desk_db: str, tmp_path: Path) -> None:
    """The real commands, in a copy of the project."""
    tree = tmp_path / "desk"
    leave_out = shutil.ignore_patterns(".git", ".venv", "var", "tests", "bench", "docs", "*cache*", "data", "static")
    shutil.copytree(ROOT, tree, ignore=leave_out)
    file = tree / CLOSE
    file.write_text(file.read_text().replace("'trade.closed'", "'trade.closed_anew'"))
    environ = {**os.environ, **databases.urls(desk_db), "COPYDESK_NO_VENV": "1"}

    def manage(*words: Any) -> Any:
        command = [sys.executable, "manage.py", *words]
        ended = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=120, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    code, output = manage("check", "--database")
    assert code == 1
    assert f"function trade_close(jsonb,jsonb) is stale: its body is not as {CLOSE} has it" in output
    assert "HINT: Run manage.py migrate." in output
    assert manage("migrate")[0] == 0
    assert "closed_anew" in body_of("trade_close")
    assert manage("check", "--database")[0] == 0


def test_the_catalogue_keeps_no_bodies() -> None:
    """Their files are their only source; otherwise each edit of a body would have to be made twice."""
    wanted = json.loads((Path(ROOT) / "config" / "catalogue.json").read_text())

    assert not [subject for subject, definition in wanted.items() if " body " in definition]
