"""Hostile code with a login of the desk: whatever it says to the database, it stays that login and changes nothing.

Each attempt runs as a session of the real login, and the whole database is compared afterwards: every row, every
definition, every role. The control runs the same attempts as 0.1.0 did, under one login that owns the tables.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from accounts.models import BotKey, BotKeyGeneration, TradingAccount
from audit.models import AuditLog
from config import logins
from core import catalogue
from tests import databases
from trades import services
from trades.models import ActiveTrade
from wallets import services as wallets

OPENING = {"symbol": "EURUSD", "type": "BUY", "volume": "0.1", "open_price": "1.105"}
AMOUNTS: dict[str, Any] = OPENING | {"volume": Decimal("0.1"), "open_price": Decimal("1.105")}
LOGINS = {"app": "DATABASE_URL", "bot": "DATABASE_BOT_URL"}


@pytest.fixture
def scene(lena: TradingAccount, finn: TradingAccount) -> dict[str, str]:
    """Lena's ticket 1 is open, 2 is closed; finn has 100 USD."""
    ids = {"lena": str(lena.pk), "finn": str(finn.pk)}
    for name, ticket in (("open", "1"), ("closed", "2")):
        with transaction.atomic():
            opened = services.open_trade(account=lena, ticket_id=ticket, **AMOUNTS)
        ids[name] = opened["trade"]["trade_id"]
    with transaction.atomic():
        services.close_trade(account=lena, ticket_id="2", close_price=Decimal("1.108"), profit=Decimal("30"))
    wallet = wallets.wallet_of(owner=finn.owner, currency="USD")
    wallets.deposit(wallet=wallet, amount=Decimal(100), note="", idempotency_key="d")
    return ids


@pytest.fixture
def state(scene: dict[str, str]) -> Callable[[], Any]:
    """Everything in the database: a digest of each table's rows, each definition, each role and its memberships."""
    owner = _of("owner")
    tables = [name for (name,) in owner.execute("select tablename from pg_tables where schemaname = 'public'")]
    digests = " union all ".join(
        f"select '{table}', count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text from {table} t"
        for table in tables
    )
    roles = (
        "select rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls, rolreplication, rolconfig,"
        " array(select roleid::regrole::text from pg_auth_members where member = oid) from pg_roles order by 1"
    )

    def read() -> Any:
        return {
            **{table: rows for table, *rows in owner.execute(digests).fetchall()},
            **{role: rest for role, *rest in owner.execute(roles).fetchall()},
            **catalogue.read("owner"),
        }

    return read


@pytest.fixture(params=LOGINS)
def session(request: pytest.FixtureRequest, desk_db: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of one of the logins that the desk's processes have."""
    with closing(psycopg.connect(databases.url(desk_db, LOGINS[request.param]), autocommit=True)) as connection:
        yield connection


def _of(alias: str) -> Any:
    connections[alias].ensure_connection()
    return connections[alias].connection


def attempt(connection: Any, scene: dict[str, str], statements: list[str]) -> str:
    """Run these statements as one transaction; return the SQLSTATE that stopped it, empty where it committed."""
    for name, value in scene.items():
        statements = [statement.replace(f"<{name}>", value) for statement in statements]
    try:
        with connection.transaction():
            for statement in statements:
                connection.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or type(error).__name__
    return ""


# --- becoming somebody else, and then doing harm

OTHERS = ["postgres", "{owner}", "copydesk_app", "copydesk_bot", "pg_write_all_data", "pg_database_owner"]
BECOMING = [
    "select 1",
    "reset role",
    "set role none",
    "reset all",
    "discard all",
    "reset session authorization",
    "set session authorization default",
    "select set_config('role', 'none', false)",
    "set session_replication_role = replica",
    "select set_config('session_replication_role', 'replica', false)",
    "set row_security = off",
    "set search_path = pg_temp, public",
    "set allow_system_table_mods = on",
    *(
        statement.format(other)
        for other in OTHERS
        for statement in (
            "set role {}",
            "set session authorization {}",
            "select set_config('role', '{}', false)",
            "select set_config('session_authorization', '{}', false)",
            "grant {} to current_user",
        )
    ),
    *(f"alter role current_user {power}" for power in ("superuser", "createrole", "createdb", "bypassrls")),
    "alter role {owner} password 'mine'",
    "alter role postgres password 'mine'",
    "create role mine superuser login",
    "grant all on all tables in schema public to current_user",
    "grant all on schema public to current_user",
    "select protect('trade_history', 'all')",
    "select grant_to('copydesk_app', 'all on trade_history')",
    "select grant_to('copydesk_bot', 'all on trade_history')",
    "select callable_by('trade_close(jsonb, jsonb)', 'copydesk_bot')",
    "alter table trade_history owner to current_user",
    "alter table trade_history disable trigger all",
    "alter function refuse_mutation() owner to current_user",
    "drop trigger append_only on trade_history",
    "alter schema public owner to current_user",
    "update pg_authid set rolsuper = true where rolname = current_user",
    "update pg_trigger set tgenabled = 'D'",
]
HARM = {
    "a closed trade is opened again": [
        "alter table trades disable trigger user",
        "alter table trade_history disable trigger user",
        "delete from trade_history where trade_id = '<closed>'",
        "update trades set state = 'OPEN' where id = '<closed>'",
        'insert into active_trades select (jsonb_populate_record(a, \'{"trade_id": "<closed>", "ticket_id": "2"}\')).*'
        " from active_trades a where trade_id = '<open>'",
    ],
    "history is changed": [
        "alter table trade_history disable trigger user",
        "update trade_history set profit = profit + 1",
    ],
    "the audit log loses a row": ["alter table audit_log disable trigger user", "delete from audit_log"],
    "money is invented": [
        "alter table wallets disable trigger user, drop constraint wallet_balance_is_its_last_entrys",
        "update wallets set balance = balance + 1 where kind = 'PERSON'",
    ],
    "the guard is replaced": [
        "create or replace function public.refuse_mutation() returns trigger language plpgsql as"
        " 'begin return old; end'"
    ],
    "an open trade disappears": [
        "alter table active_trades disable trigger user",
        "update active_trades set volume = volume / 2",
    ],
}


@pytest.mark.parametrize("becoming", BECOMING)
def test_no_login_becomes_another_or_does_harm(
    becoming: str, session: Any, scene: dict[str, str], state: Callable[[], Any]
) -> None:
    login, before = session.info.user, state()

    attempt(session, scene, [becoming.format(owner=connections["owner"].settings_dict["USER"])])

    assert session.execute("select session_user::text, current_user::text").fetchone() == (login, login)
    assert {name: attempt(session, scene, harm) for name, harm in HARM.items()} == dict.fromkeys(HARM, "42501")
    for statement in ("update trades set state = 'OPEN'", "delete from trade_history", "truncate audit_log"):
        assert attempt(session, scene, [statement]) == "42501"
    assert state() == before


@pytest.mark.breaks_the_books
@pytest.mark.parametrize("harm", HARM)
def test_control_one_login_that_owns_the_tables_does_all_of_it(
    harm: str, desk_db: str, scene: dict[str, str], state: Callable[[], Any]
) -> None:
    """As 0.1.0's processes had it: the owner's login, in the role of the application until it says `reset role`."""
    before = state()

    with closing(psycopg.connect(databases.url(desk_db), autocommit=True)) as session:
        session.execute("set role copydesk_app")
        assert attempt(session, scene, HARM[harm]) == "42501"
        session.execute("reset role")
        assert attempt(session, scene, HARM[harm]) == "", harm

    assert state() != before


# --- the server behind the database

REFUSED = [
    "create table mine (x int)",
    "create schema mine",
    "create function mine() returns int language sql as 'select 1'",
    "create function mine() returns int language sql security definer as 'select 1'",
    "create view mine as select 1",
    "create extension dblink",
    "create extension plpython3u",
    "create extension pg_trgm",
    "create language plpythonu handler mine",
    "create event trigger mine on ddl_command_start execute function refuse_mutation()",
    "create publication mine for all tables",
    "create subscription mine connection 'dbname=postgres' publication mine",
    "create server mine foreign data wrapper mine",
    "create operator public.=== (leftarg = int, rightarg = int, function = int4eq)",
    "create rule mine as on delete to trades do instead nothing",
    "create policy mine on trades",
    "create index mine on trades (id)",
    "create trigger mine before insert on trades execute function refuse_mutation()",
    "copy (select 1) to program 'true'",
    "copy (select 1) to '/tmp/mine'",
    "create temporary table mine (line text); copy mine from '/etc/passwd'",
    "create temporary table mine (line text); copy mine from program 'id'",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    "select lo_export(1, '/tmp/mine')",
    "select pg_reload_conf()",
    "select pg_rotate_logfile()",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{owner}'",
    "select rolpassword from pg_authid",
    "select usename, passwd from pg_shadow",
    "alter system set fsync = off",
    "alter database {database} set session_replication_role = replica",
    "alter database {database} owner to current_user",
    "drop database {database}",
    "drop owned by {owner}",
    "reassign owned by {owner} to current_user",
    "alter default privileges for role {owner} grant all on tables to public",
    "load 'plpgsql'; load '/tmp/mine.so'",
    "set session_preload_libraries = 'mine'",
    "lock table trades in access exclusive mode",
    "comment on table trades is 'mine'",
    "vacuum full trades; drop table trades",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_no_login_reaches_the_server_or_makes_objects(
    statement: str, session: Any, desk_db: str, scene: dict[str, str], state: Callable[[], Any]
) -> None:
    before = state()
    names = {"owner": connections["owner"].settings_dict["USER"], "database": desk_db}

    assert attempt(session, scene, [statement.format(**names)]) != ""
    assert state() == before


def test_a_login_that_changes_its_own_defaults_gains_no_right(session: Any, scene: dict[str, str]) -> None:
    """PostgreSQL lets every login do that. The next start of an embedded desk, and ops/roles.sql, put them back."""
    login = session.info.user
    with session.transaction(force_rollback=True):
        for setting in ("search_path = pg_temp", "statement_timeout = 0", "row_security = off"):
            session.execute(f"alter role {login} set {setting}")
        for statement in ("update public.trades set state = 'OPEN'", "delete from public.audit_log"):
            assert attempt(session, scene, [statement]) == "42501"
    assert attempt(session, scene, [f"alter role {login} set session_replication_role = replica"]) == "42501"


# --- functions

CALLABLE = """
select f.oid::regprocedure::text, f.proname, array(select format_type(t, null) from unnest(f.proargtypes) t)
  from pg_proc f
 where pronamespace = 'public'::regnamespace and prorettype <> 'trigger'::regtype
   and has_function_privilege(%s, f.oid, 'execute')
 order by 1
"""


@pytest.mark.parametrize("value", ["null", "'{}'", "'0'", "'-1'"])
def test_no_function_changes_anything_without_arguments_that_make_sense(
    value: str, session: Any, scene: dict[str, str], state: Callable[[], Any]
) -> None:
    before = state()
    functions = _of("owner").execute(CALLABLE, [session.info.user]).fetchall()

    for _, name, types in functions:
        if name == "audit" and session.info.user == logins.APP:
            continue  # the application adds rows to the log
        arguments = ", ".join(f"{value}::{type_}" for type_ in types)
        attempt(session, scene, [f"select {name}({arguments})"])

    assert {"active_snapshot", "keys_refused"} <= {name for _, name, _ in functions}
    assert state() == before


SHADOWS = ("trades", "active_trades", "trade_history", "strategies", "subscriptions", "trading_accounts", "bot_keys",
           "bot_key_generations", "audit_log", "wallets", "ledger_halts", "signed_results")  # fmt: skip


def test_temporary_tables_stand_before_no_table_of_the_functions(
    session: Any, scene: dict[str, str], state: Callable[[], Any]
) -> None:
    """An embedded desk's logins, and those of ops/roles.sql, may create none; here they may."""
    before, snapshot = state(), f"select active_snapshot(array[{scene['lena']}]::bigint[])::text"
    answer = session.execute(snapshot).fetchone()

    for table in SHADOWS:
        session.execute(f"create temporary table {table} (id int, state text)")
    session.execute(
        "create function pg_temp.refuse_mutation() returns trigger language plpgsql as 'begin return old; end'"
    )
    session.execute("create function pg_temp.key_refusal(a int) returns text language sql as 'select null'")

    assert session.execute(snapshot).fetchone() == answer
    for statement in ("update public.trades set state = 'OPEN'", "delete from public.audit_log"):
        assert attempt(session, scene, [statement]) == "42501"
    assert state() == before


# --- the bots' login: in the name of which key it calls


def call(session: Any, generation: int | None, seq: int, claims: dict[str, Any], verb: str, **args: Any) -> Any:
    operation = {"idem": f"call-{seq}", "fingerprint": "00", "verb": verb, "args": args}
    (answer,) = session.execute(
        "select signed_call(%s, %s, %s, %s)", [generation, seq, json.dumps(claims), json.dumps([operation])]
    ).fetchone()
    return answer


@pytest.fixture
def bot(desk_db: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(databases.url(desk_db, "DATABASE_BOT_URL"), autocommit=True)) as connection:
        yield connection


def generation_of(account: TradingAccount, kind: str) -> BotKeyGeneration:
    return BotKeyGeneration.objects.select_related("key").filter(key__account=account, key__kind=kind).latest("pk")


CLAIMS = [
    {"account": "<finn>"},
    {"account": "<finn>", "kind": "staff", "actor": "desk", "key_kind": "copier"},
    {"account": None, "actor": None},
]


@pytest.mark.parametrize("claims", CLAIMS)
def test_a_call_acts_for_its_keys_account_whatever_it_claims(
    claims: dict[str, Any], bot: Any, lena: TradingAccount, finn: TradingAccount
) -> None:
    generation = generation_of(lena, "master")
    claimed = {name: finn.pk if value == "<finn>" else value for name, value in claims.items()}

    answer = call(bot, generation.pk, 10**15, claimed, "trade_open", ticket_id="7", **OPENING)

    assert answer["results"][0]["code"] == "opened"
    assert list(ActiveTrade.objects.values_list("account", flat=True)) == [lena.pk]
    opened = AuditLog.objects.get(action="trade.opened")
    assert (opened.actor_kind, opened.actor) == ("bot", f"{generation.key.key_id}.{generation.generation}")


def test_a_generation_that_may_not_call_changes_nothing(
    bot: Any, lena: TradingAccount, state: Callable[[], Any]
) -> None:
    generation, claims = generation_of(lena, "master"), {"account": lena.pk, "kind": "bot", "actor": "ck_0.1"}
    call(bot, generation.pk, 10**15, claims, "trade_open", ticket_id="7", **OPENING)
    unknown = BotKeyGeneration.objects.latest("pk").pk + 1
    before = state()

    for number in (unknown, -1, 0, None):
        assert call(bot, number, 10**15 + 1, claims, "trade_close", ticket_id="7")["refused"] == "key_revoked"
        answer = bot.execute("select signed_read(%s, 1, '127.0.0.1')", [number]).fetchone()[0]
        assert answer == {"refused": "key_revoked"}
    assert call(bot, generation.pk, 10**15, claims, "trade_close", ticket_id="7")["refused"] == "seq_replayed"
    assert state() == before


VERBS_BEYOND = {
    "readonly": [
        "trade_open",
        "trade_modify",
        "trade_reduce",
        "trade_close",
        "order_report",
        "copy_skip",
        "copier_beat",
    ],
    "master": ["order_report", "copy_skip", "copier_beat"],
}


@pytest.mark.parametrize("kind", VERBS_BEYOND)
def test_a_key_uses_the_verbs_of_its_kind_alone(
    kind: str, bot: Any, scene: dict[str, str], lena: TradingAccount
) -> None:
    generation = generation_of(lena, "master")
    BotKey.objects.filter(pk=generation.key_id).update(kind=kind)
    trades = list(ActiveTrade.objects.values())
    claims = {"key_kind": "copier", "ip": "127.0.0.1"}

    for seq, verb in enumerate(VERBS_BEYOND[kind], 10**15):
        answer = call(
            bot, generation.pk, seq, claims, verb, ticket_id="1", close_price="1.1", profit="0", reason="MANUAL"
        )
        assert answer["results"] == [{"code": "scope_denied", "refused": True}], verb

    assert list(ActiveTrade.objects.values()) == trades
    allowed = call(bot, generation.pk, 10**15 + 99, claims, "account_tell", balance="1", equity="1")
    assert "refused" not in allowed["results"][0]


def test_peoples_login_cannot_call_as_a_bot(desk_db: str) -> None:
    with closing(psycopg.connect(databases.url(desk_db, "DATABASE_URL"), autocommit=True)) as app:
        for statement in (
            "select signed_call(1, 1, '{}', '[]')",
            "select signed_read(1, 1, '127.0.0.1')",
            "select * from bot_key_lookup('ck_0123456789abcdef', 1)",
        ):
            assert attempt(app, {}, [statement]) == "42501"


def test_the_logins_are_the_desks_own() -> None:
    assert {alias: connections[alias].settings_dict["USER"] for alias in ("default", "bot")} == {
        "default": logins.APP,
        "bot": logins.BOT,
    }
