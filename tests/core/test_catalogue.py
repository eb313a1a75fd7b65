"""Each object missing from the database, or added to it, is named with its remedy."""

import re
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from core import catalogue
from tests.sql import as_owner

pytestmark = pytest.mark.breaks_the_books


def named() -> set[Any]:
    return {difference.subject for difference in catalogue.differences("owner")}


def of_kind(kind: Any) -> set[Any]:
    return {subject for subject in catalogue.wanted() if subject.startswith(f"{kind} ")}


def remedies() -> dict[Any, Any]:
    return {difference.subject: difference.remedy for difference in catalogue.differences("owner")}


def test_a_fresh_database_is_as_the_code_wants_it(desk_db: str) -> None:
    assert catalogue.differences() == []


def test_the_file_is_what_a_fresh_database_has(desk_db: str) -> None:
    """Where this fails after a new migration or function, run `make catalogue` and review the diff."""
    assert catalogue.read("owner") == dict(catalogue.wanted())


def test_covers_every_kind_of_object(desk_db: str) -> None:
    kinds = {subject.split(" ")[0] for subject in catalogue.wanted()}

    assert kinds == {"function", "trigger", "constraint", "index", "column", "table", "rights", "role"}
    assert len(of_kind("trigger")) > 50
    assert len(of_kind("constraint")) > 150


# --- triggers


def tables_of(subjects: Any) -> Any:
    return sorted({subject.split(" ")[1].split(".")[0] for subject in subjects})


def test_names_each_missing_trigger(desk_db: str) -> None:
    for subject in of_kind("trigger"):
        table, name = subject.split(" ")[1].split(".")
        as_owner(f"drop trigger {name} on {table}")

    assert named() == of_kind("trigger")


def test_names_each_disabled_trigger(desk_db: str) -> None:
    as_owner(*[f"alter table {table} disable trigger user" for table in tables_of(of_kind("trigger"))])

    assert named() == of_kind("trigger")


def test_names_each_trigger_that_would_not_fire_in_replica_mode(desk_db: str) -> None:
    as_owner(*[f"alter table {table} enable trigger user" for table in tables_of(of_kind("trigger"))])

    assert named() == of_kind("trigger")


def test_names_a_trigger_that_calls_another_function(desk_db: str) -> None:
    as_owner(
        "create function nothing() returns trigger language plpgsql as 'begin return new; end'",
        "drop trigger keeps_its_identity on trades",
        "create trigger keeps_its_identity before update on trades for each row execute function nothing()",
        "alter table trades enable always trigger keeps_its_identity",
    )

    assert named() >= {"trigger trades.keeps_its_identity", "function nothing()"}


def test_names_an_added_trigger(desk_db: str) -> None:
    as_owner(
        "create function swallow() returns trigger language plpgsql as 'begin return null; end'",
        "create trigger a_swallow before delete on active_trades for each row execute function swallow()",
    )

    assert named() >= {"trigger active_trades.a_swallow", "function swallow()"}


def test_each_remedy_restores_its_trigger(desk_db: str) -> None:
    for subject in of_kind("trigger"):
        table, name = subject.split(" ")[1].split(".")
        as_owner(f"drop trigger {name} on {table}")

    for remedy in remedies().values():
        as_owner(remedy.removeprefix("As the tables' owner: ").removesuffix("."))

    assert named() == set()


# --- keys, checks, columns


def test_names_each_missing_constraint(desk_db: str) -> None:
    for subject in of_kind("constraint"):
        table, name = subject.split(" ")[1].split(".")
        as_owner(f'alter table {table} drop constraint if exists "{name}" cascade')

    assert named() >= of_kind("constraint")


def test_names_each_loosened_check(desk_db: str) -> None:
    checks = {subject for subject in of_kind("constraint") if catalogue.wanted()[subject].startswith("CHECK")}
    for subject in checks:
        table, name = subject.split(" ")[1].split(".")
        as_owner(f'alter table {table} drop constraint "{name}", add constraint "{name}" check (true)')

    assert len(checks) > 50
    assert named() == checks


def test_names_a_foreign_key_that_is_not_validated(desk_db: str) -> None:
    as_owner(
        "alter table trade_history drop constraint trade_history_status_is_closed,"
        " add constraint trade_history_status_is_closed check (status = 'CLOSED') not valid"
    )

    assert named() == {"constraint trade_history.trade_history_status_is_closed"}


@pytest.mark.parametrize("key", ["trades.open_trade_is_active", "wallets.wallet_balance_is_its_last_entrys"])
def test_names_a_foreign_key_whose_triggers_are_disabled(desk_db: str, superuser: Any, key: str) -> None:
    """The constraint's definition is unchanged, but it is no longer enforced."""
    table, name = key.split(".")
    of_key = "select tgname from pg_trigger join pg_constraint c on c.oid = tgconstraint where c.conname = %s"
    for (trigger,) in superuser.execute(f"{of_key} and tgrelid = %s::regclass", [name, table]).fetchall():
        superuser.execute(f'alter table {table} disable trigger "{trigger}"')

    assert named() == {f"constraint {key}"}


def test_each_remedy_restores_its_constraint(desk_db: str) -> None:
    for subject in of_kind("constraint"):
        table, name = subject.split(" ")[1].split(".")
        if catalogue.wanted()[subject].startswith(("CHECK", "FOREIGN")):
            as_owner(f'alter table {table} drop constraint "{name}"')

    for remedy in remedies().values():
        as_owner(remedy.removeprefix("As the tables' owner: ").removesuffix("."))

    assert named() == set()


def test_names_each_lost_property_of_a_column(desk_db: str) -> None:
    as_owner(
        "alter table ledger_transfers alter column scope drop not null",
        "alter table audit_log alter column xid drop default",
        "alter table trades alter column open_id drop expression",
    )

    assert named() == {"column ledger_transfers.scope", "column audit_log.xid", "column trades.open_id"}


def test_names_a_missing_index(desk_db: str) -> None:
    as_owner("drop index wallet_is_the_only_one_in_its_currency")

    assert named() == {"index wallets.wallet_is_the_only_one_in_its_currency"}
    as_owner(remedies().popitem()[1].removeprefix("As the tables' owner: ").removesuffix("."))
    assert named() == set()


def test_names_an_unlogged_table(desk_db: str) -> None:
    as_owner("alter table copy_orders set unlogged")

    assert "table copy_orders" in named()


# --- functions


def test_names_each_missing_function(desk_db: str) -> None:
    for subject in of_kind("function"):
        as_owner(f"drop function if exists {subject.removeprefix('function ')} cascade")

    assert named() >= of_kind("function")


PLANTED = {
    "its body": "create or replace function house_shards() returns int language sql immutable as 'select 1'",
    "security definer": "alter function trade_close(jsonb, jsonb) security invoker",
    "its search_path": "alter function trade_close(jsonb, jsonb) reset search_path",
    "its volatility": "alter function signed_read(bigint, bigint, inet) volatile",
}


@pytest.mark.parametrize("statement", PLANTED.values(), ids=PLANTED)
def test_names_a_function_that_lost_a_property(desk_db: str, statement: Any) -> None:
    as_owner(statement)

    (difference,) = catalogue.differences()
    assert re.match(r"function (house_shards|trade_close|signed_read)\(", difference.subject)
    assert "sql/functions/" in difference.problem
    assert difference.remedy == "Run manage.py migrate."
    call_command("migrate", verbosity=0)
    assert catalogue.differences() == []


def test_names_a_function_of_another_owner(desk_db: str, superuser: Any) -> None:
    superuser.execute("alter function trade_close(jsonb, jsonb) owner to postgres")

    assert "function trade_close(jsonb,jsonb)" in named()


# --- rights


GRANTS = {
    "grant delete on trade_history to copydesk_app": "rights copydesk_app on table trade_history",
    "grant select on trade_history to copydesk_bot": "rights copydesk_bot on table trade_history",
    "grant update (balance) on wallets to copydesk_app": "rights copydesk_app on table wallets",
    "grant insert on ledger_entries to public": "rights public on table ledger_entries",
    "grant execute on function ledger_move(jsonb, jsonb) to copydesk_bot": (
        "rights copydesk_bot on function ledger_move(jsonb,jsonb)"
    ),
    "grant execute on function trade_close(jsonb, jsonb) to public": (
        "rights public on function trade_close(jsonb,jsonb)"
    ),
    "grant create on schema public to copydesk_bot": "rights copydesk_bot on schema public",
    "revoke select on trades from copydesk_app": "rights copydesk_app on table trades",
    "revoke execute on function signed_call(bigint, bigint, jsonb, jsonb) from copydesk_bot": (
        "rights copydesk_bot on function signed_call(bigint,bigint,jsonb,jsonb)"
    ),
    "alter default privileges in schema public grant select on tables to copydesk_bot": (
        "rights copydesk_bot on new tables"
    ),
}


@pytest.mark.parametrize(("statement", "subject"), GRANTS.items())
def test_names_each_surplus_and_missing_right_with_its_remedy(desk_db: str, statement: Any, subject: Any) -> None:
    as_owner(statement)

    assert named() == {subject}
    if "default privileges" not in statement:
        as_owner(remedies()[subject].removeprefix("As the owner: ").removesuffix("."))
        assert named() == set()


def test_names_a_role_with_too_many_attributes(desk_db: str, superuser: Any) -> None:
    with superuser.transaction(force_rollback=True):
        superuser.execute("alter role copydesk_bot bypassrls")
        definitions = catalogue.read_through(superuser)

    assert definitions["role copydesk_bot"] != catalogue.wanted()["role copydesk_bot"]


def test_a_read_only_role_of_the_operators_is_no_difference(desk_db: str, superuser: Any) -> None:
    with superuser.transaction(force_rollback=True):
        superuser.execute("create role reporting")
        superuser.execute("grant select on all tables in schema public to reporting")
        definitions = catalogue.read_through(superuser)
        superuser.execute("grant update on wallets to reporting")
        more = catalogue.read_through(superuser)

    assert definitions == dict(catalogue.wanted())
    assert set(more) - set(definitions) == {"rights reporting on table wallets"}


# --- its users


def test_check_database_fails_and_names_the_difference(desk_db: str, capsys: pytest.CaptureFixture[str]) -> None:
    as_owner("alter table trades disable trigger never_deleted")

    with pytest.raises(CommandError, match=r"trigger trades\.never_deleted") as refusal:
        call_command("check", databases=["default"])
    assert "alter table trades enable always trigger never_deleted" in str(refusal.value)


def test_each_app_gets_its_own_differences(desk_db: str) -> None:
    as_owner(
        "alter table trades disable trigger never_deleted",
        "alter table wallets disable trigger never_deleted",
        "create or replace function house_shards() returns int language sql immutable as 'select 1'",
    )
    differences = catalogue.differences()

    assert [difference.subject for difference in catalogue.of_apps(["trades"], differences)] == [
        "trigger trades.never_deleted"
    ]
    assert [difference.subject for difference in catalogue.of_apps(["wallets"], differences)] == [
        "function house_shards()",
        "trigger wallets.never_deleted",
    ]


def test_recognises_a_database_that_a_newer_version_migrated(desk_db: str) -> None:
    assert not catalogue.is_ahead()

    as_owner("update sql_functions set version = '99.0.0' where path = 'core/sql/functions/time.sql'")
    assert catalogue.is_ahead()
    as_owner("update sql_functions set version = '0.0.1'")
    assert not catalogue.is_ahead()

    with connections["owner"].cursor() as cursor:
        cursor.execute("insert into django_migrations (app, name, applied) values ('trades', '9999_next', now())")
    assert catalogue.is_ahead()


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        ("create rule swallow as on insert to audit_log do instead nothing", "rule audit_log.swallow"),
        ("create policy hidden on trades using (false)", "policy trades.hidden"),
    ],
)
def test_names_a_rule_or_a_policy_that_somebody_added(desk_db: str, statement: str, subject: str) -> None:
    as_owner(statement)

    (difference,) = catalogue.differences("owner")
    assert (difference.subject, difference.is_addition) == (subject, False)


def test_rights_of_a_helper_are_put_back_by_a_statement_for_migrate_does_not(desk_db: str) -> None:
    as_owner("revoke execute on function uuid_v7() from public")

    (difference,) = catalogue.differences()
    assert not difference.cured_by_migrate
    as_owner(difference.remedy.removeprefix("As the owner: ").removesuffix("."))
    assert named() == set()


def test_a_renamed_migration_is_no_newer_version(desk_db: str) -> None:
    as_owner("insert into django_migrations (app, name, applied) values ('trust', '0003_one_appeal_waits', now())")

    assert not catalogue.is_ahead()
