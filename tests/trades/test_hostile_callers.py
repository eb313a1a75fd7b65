"""Callers that bypass the services. Keys and triggers refuse the tables' owner; privileges refuse all other roles.

A refused statement leaves all rows exactly as they were; the fixtures check that again at the end of each test.
"""

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from accounts.models import TradingAccount
from tests.trades.hostile_statements import (
    APPEND_ONLY,
    CLOSE,
    CLOSED_FOR_EVER,
    EVERY_TRICK,
    FORBIDDEN,
    ID_1,
    ID_2,
    IDENTITY,
    LOST_OPEN,
    PROTECTED,
    SECOND,
    STREAM,
    STREAM_CHANGED,
    UNHOUSE,
    cold,
    copied,
    hot,
    merge,
)
from trades import services

NOBODY = "00000000-0000-7000-8000-000000000000"
AMOUNTS = {"volume": Decimal("0.1"), "open_price": Decimal("1.105")}
CLOSING = {"close_price": Decimal("1.108"), "profit": Decimal("30")}


@pytest.fixture
def scene(lena: TradingAccount, finn: TradingAccount) -> dict[str, Any]:
    """Lena's ticket 1 is open, 2 closed, 3 open and reduced, 4 a tombstone; finn's 501 copies 1. By name, as text."""

    def do(verb: Any, account: Any, ticket: Any, **more: Any) -> Any:
        with transaction.atomic():
            return verb(account=account, ticket_id=ticket, **more)["trade"]["trade_id"]

    ids = {"lena": str(lena.pk), "finn": str(finn.pk), "nobody": NOBODY}
    for name, ticket in (("open", "1"), ("closed", "2"), ("other", "3")):
        ids[name] = do(services.open_trade, lena, ticket, symbol="EURUSD", type="BUY", **AMOUNTS)
    do(services.close_trade, lena, "2", **CLOSING)
    do(services.reduce_trade, lena, "3", deal_id="d1", volume=Decimal("0.04"), **CLOSING)
    ids["tombstone"] = do(services.close_trade, lena, "4", **CLOSING)
    copies = ("lena-eurusd", "1")
    ids["copy"] = do(services.open_trade, finn, "501", symbol="EURUSD", type="BUY", copies=copies, **AMOUNTS)
    return ids


# --- how they call


def attempt(connection: Any, scene: Any, statements: Any) -> Any:
    """Run these statements in one transaction; return the error that stopped it, or None if it committed."""
    try:
        with connection.transaction():
            for statement in statements:
                run(connection, filled(statement, scene))
    except psycopg.Error as error:
        return error
    return None


def filled(statement: Any, scene: Any) -> Any:
    for name, value in scene.items():
        statement = statement.replace(f"<{name}>", value)
    return statement


def run(connection: Any, statement: Any) -> None:
    if not statement.startswith("copy "):
        connection.execute(statement)
        return
    head, _, rows = statement.partition("\n")
    with connection.cursor().copy(head) as copy:
        copy.write(rows)


def refusal(error: Any) -> Any:
    """The name of the violated constraint, or the SQLSTATE if there is none."""
    assert error is not None, "it was committed"
    return error.diag.constraint_name or error.sqlstate


def of(alias: Any) -> Any:
    connections[alias].ensure_connection()
    return connections[alias].connection


def books() -> Any:
    tables = ["trades", "active_trades", "trade_history", "trade_reductions", "strategies", "trading_accounts"]
    rows = " union all ".join(f"select '{table}', to_jsonb(t)::text from {table} t" for table in tables)
    return of("owner").execute(f"{rows} order by 1, 2").fetchall()


def table_of(tricks: Any) -> Any:
    """One parameter set for each trick, with its sentence as the id."""
    return pytest.mark.parametrize(("statements", "expected"), [pytest.param(s, e, id=what) for what, s, e in tricks])


# --- the owner of the tables


@table_of(EVERY_TRICK)
def test_the_owner_is_refused(scene: dict[str, Any], statements: Any, expected: Any) -> None:
    before = books()

    error = attempt(of("owner"), scene, statements)

    assert expected in (refusal(error), error.sqlstate), error
    assert books() == before


def test_control_the_complete_statements_of_a_close_pass(scene: dict[str, Any]) -> None:
    """The same statements, complete and in order, are accepted."""
    assert attempt(of("owner"), scene, [UNHOUSE, CLOSE, cold(**ID_1)]) is None

    home = "select (select count(*) from active_trades where trade_id = t.id), state from trades t where id = %s"
    assert of("owner").execute(home, [scene["open"]]).fetchone() == (0, "CLOSED")


@pytest.mark.parametrize(
    "trick",
    [
        "delete from trade_history",
        "update trades set state = 'OPEN'",
        "delete from active_trades; set constraints all immediate",
        "truncate trades cascade",
    ],
)
def test_a_caught_refusal_leaves_no_change(scene: dict[str, Any], trick: str) -> None:
    before = books()

    swallowing = f"do 'begin {trick.replace(chr(39), chr(39) * 2)}; exception when others then null; end'"

    assert attempt(of("owner"), scene, [swallowing]) is None
    assert books() == before


# --- the application's role


REPLACED = "create or replace function refuse_mutation() returns trigger language plpgsql as 'begin return old; end'"
WRITES = [
    *(
        (f"{verb.split()[0]} {table}", [verb.format(table)], FORBIDDEN)
        for table in PROTECTED
        for verb in (
            "insert into {} default values",
            "update {} set account_id = 1",
            "delete from {}",
            "truncate {} cascade",
        )
        if not (table in ("trade_reductions", "signed_results") and verb.startswith("update"))
    ),
    *(
        (f"{verb} audit_log", [f"{verb} audit_log{more}"], FORBIDDEN)
        for verb, more in [("update", " set code = 'x'"), ("delete from", ""), ("truncate", "")]
    ),
    ("update trade_reductions", ["update trade_reductions set profit = 1"], FORBIDDEN),
    ("update signed_results", ["update signed_results set outcome = '1'"], FORBIDDEN),
    ("lock a trade", ["select from trades for update"], FORBIDDEN),
    ("lock the table", ["lock table trades in access exclusive mode"], FORBIDDEN),
    ("MERGE", [merge("trades", "true", "update set state = 'OPEN'")], FORBIDDEN),
    ("COPY", [copied("trades", "id, account_id, ticket_id, state", "<nobody>,<lena>,9,OPEN")], FORBIDDEN),
    ("ON CONFLICT", [f"{SECOND} on conflict do nothing"], FORBIDDEN),
    ("disable a trigger", ["alter table trade_history disable trigger append_only"], FORBIDDEN),
    ("drop a key", [f"alter table trades drop constraint {LOST_OPEN}"], FORBIDDEN),
    ("drop a table", ["drop table trade_history cascade"], FORBIDDEN),
    ("add a trigger", ["create trigger mine before insert on trades execute function refuse_mutation()"], FORBIDDEN),
    ("disable all triggers", ["set session_replication_role = replica"], FORBIDDEN),
    ("grant itself rights", ["grant all on trade_history to copydesk_app", "delete from trade_history"], FORBIDDEN),
    (
        "have rights granted by a function",
        ["select protect('trade_history', 'all')", "delete from trade_history"],
        FORBIDDEN,
    ),
    ("make a table", ["create table public.mine (x int)"], FORBIDDEN),
    ("replace a function", [REPLACED], FORBIDDEN),
    ("read the server's files", ["copy copy_orders to program 'true'"], FORBIDDEN),
]


@table_of(WRITES)
def test_the_application_is_refused_by_permission(scene: dict[str, Any], statements: Any, expected: Any) -> None:
    before = books()

    assert refusal(attempt(of("default"), scene, statements)) == expected
    assert books() == before


@table_of(STREAM_CHANGED)
def test_the_application_cannot_change_a_streams_number(scene: dict[str, Any], statements: Any, expected: Any) -> None:
    assert refusal(attempt(of("default"), scene, statements)) == expected


def test_the_application_may_read_the_tables_that_it_cannot_write(scene: dict[str, Any]) -> None:
    for table in PROTECTED:
        of("default").execute(f"select count(*) from {table}")


# --- the bots' role


def test_bots_can_neither_read_nor_write_any_table(scene: dict[str, Any]) -> None:
    relations = (
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')"
    )
    tables = [name for (name,) in of("owner").execute(relations)]
    tried = [
        "select 1 from {}",
        "delete from {}",
        "insert into {} default values",
        "truncate {}",
        "select count(*) from {}",
    ]

    answers = {sql.format(table): attempt(of("bot"), scene, [sql.format(table)]) for table in tables for sql in tried}
    passed = [sql for sql, error in answers.items() if error is None or error.sqlstate != FORBIDDEN]

    assert {"trades", "active_trades", "trade_history", "audit_log", "users", "bot_keys"} <= set(tables)
    assert passed == []


def test_bots_have_no_privilege_on_any_column_or_sequence(desk_db: str) -> None:
    held = """
        select relname from pg_class where relnamespace = 'public'::regnamespace and case relkind
          when 'S' then has_sequence_privilege('copydesk_bot', oid, 'usage, select, update')
          when 'r' then has_any_column_privilege('copydesk_bot', oid, 'select, insert, update, references') end"""

    assert of("owner").execute(held).fetchall() == []


CALLS = [
    *(
        (f"the verb {verb}", [f"select {verb}('{{\"account\": <lena>}}', '{{}}')"], FORBIDDEN)
        for verb in ("trade_open", "trade_modify", "trade_reduce", "trade_close", "order_report")
    ),
    ("a fact in the audit log", ["select audit('{}', 'trade.closed', '', '', '{}')"], FORBIDDEN),
    ("a number of the stream", ["select next_number(1, null)"], FORBIDDEN),
    ("a trade's lock", ["select trade_locked(<lena>, '1')"], FORBIDDEN),
    ("another's role", ["set role copydesk_app", "select session_user", "create role mine"], FORBIDDEN),
    ("a table of its own", ["create table public.mine (x int)"], FORBIDDEN),
    ("a function of its own", ["create function public.mine() returns int language sql as 'select 1'"], FORBIDDEN),
    ("all triggers disabled", ["set session_replication_role = replica"], FORBIDDEN),
]


@table_of(CALLS)
def test_bots_can_call_only_the_protocols_functions(scene: dict[str, Any], statements: Any, expected: Any) -> None:
    before = books()

    assert refusal(attempt(of("bot"), scene, statements)) == expected
    assert books() == before


def test_a_temporary_table_cannot_replace_a_table_of_the_desk(scene: dict[str, Any]) -> None:
    """The functions run with their owner's rights, so they must not use the caller's tables."""
    statement = f"select active_snapshot(array[{scene['lena']}]::bigint[])"
    before = of("bot").execute(statement).fetchone()

    for table in ("active_trades", "strategies", "subscriptions", "trading_accounts"):
        of("bot").execute(f"create temporary table {table} (id int)")

    assert of("bot").execute(statement).fetchone() == before


# --- a superuser, with foreign keys disabled


ASLEEP = {APPEND_ONLY, CLOSED_FOR_EVER, IDENTITY, STREAM}
KEYS_ASLEEP = [
    *(trick for trick in EVERY_TRICK if trick[2] in ASLEEP),
    ("the hot row deleted, nothing else", [UNHOUSE], IDENTITY),
    ("every hot row deleted", ["delete from active_trades"], IDENTITY),
    ("the audit log deleted", ["delete from audit_log"], APPEND_ONLY),
    ("the audit log changed", ["update audit_log set code = 'x'"], APPEND_ONLY),
]


@table_of(KEYS_ASLEEP)
def test_triggers_refuse_a_superuser_even_with_foreign_keys_disabled(
    scene: dict[str, Any], superuser: Any, statements: Any, expected: Any
) -> None:
    before = books()

    assert refusal(attempt(superuser, scene, statements)) == expected
    assert books() == before


@pytest.mark.breaks_the_books
def test_control_foreign_keys_are_disabled_in_replica_mode(scene: dict[str, Any], superuser: Any) -> None:
    """A change that only foreign keys refuse is accepted in this mode."""
    assert attempt(superuser, scene, [hot(**ID_2)]) is None
