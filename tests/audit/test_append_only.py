"""The audit log only grows: for the application, for the tables' owner, and for a superuser."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, ProgrammingError, connections, transaction

from audit import services as audit
from audit.models import AuditLog
from tests.signed import Bot, opening

APPEND_ONLY, FORBIDDEN = "CD002", "42501"
CHANGES = [
    "update audit_log set code = 'x'",
    "update audit_log set code = code where id = <id>",
    "delete from audit_log",
    "delete from audit_log where id = <id>",
    "truncate audit_log",
    "truncate audit_log restart identity cascade",
    "merge into audit_log a using (values (1)) v on a.id = <id> when matched then update set code = 'x'",
    "merge into audit_log a using (values (1)) v on a.id = <id> when matched then delete",
    "with gone as (delete from audit_log returning *) select count(*) from gone",
]
REPLACES = (
    "insert into audit_log (id, actor_kind, actor, action, subject, outcome, code, request_id, detail)"
    " values (<id>, 'system', '', 'x', '', 'ok', '', '', '{}') on conflict (id) do update set action = 'x'"
)


@pytest.fixture
def fact(desk_db: str) -> AuditLog:
    """An entry in the log."""
    audit.record("key.revoked", actor=audit.SYSTEM, subject="key:1", why="lost")
    return AuditLog.objects.get(action="key.revoked")


def log() -> Any:
    with connections["owner"].cursor() as cursor:
        cursor.execute("select to_jsonb(a)::text from audit_log a order by id")
        return cursor.fetchall()


def refusal(connection: Any, statement: Any, fact: Any) -> Any:
    with pytest.raises(psycopg.Error) as fault:
        connection.execute(statement.replace("<id>", str(fact.pk)))
    return fault.value.sqlstate


def of(alias: Any) -> Any:
    connections[alias].ensure_connection()
    return connections[alias].connection


@pytest.mark.parametrize("statement", [*CHANGES, REPLACES])
def test_the_tables_owner_cannot_change_it(fact: AuditLog, statement: Any) -> None:
    before = log()

    assert refusal(of("owner"), statement, fact) == APPEND_ONLY
    assert log() == before


@pytest.mark.parametrize("statement", [*CHANGES, REPLACES])
def test_the_application_may_not_change_it(fact: AuditLog, statement: Any) -> None:
    before = log()

    assert refusal(of("default"), statement, fact) == FORBIDDEN
    assert log() == before


@pytest.mark.parametrize(
    "statement", [*CHANGES, REPLACES, "select from audit_log", "insert into audit_log default values"]
)
def test_bots_neither_read_nor_write_it(fact: AuditLog, statement: Any) -> None:
    assert refusal(of("bot"), statement, fact) == FORBIDDEN


@pytest.mark.parametrize("statement", [*CHANGES, REPLACES])
def test_a_superuser_in_replica_mode_cannot_change_it(fact: AuditLog, superuser: Any, statement: Any) -> None:
    before = log()

    assert refusal(superuser, statement, fact) == APPEND_ONLY
    assert log() == before


def test_an_empty_log_cannot_be_truncated(desk_db: str) -> None:
    with pytest.raises(psycopg.Error, match="append-only"):
        of("owner").execute("truncate audit_log")


@pytest.mark.parametrize("change", [lambda: AuditLog.objects.update(code="x"), lambda: AuditLog.objects.all().delete()])
def test_the_model_can_neither_update_nor_delete(fact: AuditLog, change: Callable[..., Any]) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        change()


def test_saving_a_row_again_is_refused(fact: AuditLog) -> None:
    fact.code = "x"

    with pytest.raises(ProgrammingError, match="permission denied"):
        fact.save()
    fact.refresh_from_db()
    assert fact.code == ""


def test_facts_are_added_and_read(fact: AuditLog) -> None:
    assert (fact.actor_kind, fact.outcome, fact.subject, fact.detail) == ("system", "ok", "key:1", {"why": "lost"})
    audit.record("key.refused", actor=audit.SYSTEM, refused="key_revoked")
    later = AuditLog.objects.latest("id")
    assert (later.outcome, later.code) == ("refused", "key_revoked")
    assert later.pk > fact.pk
    assert later.at >= fact.at


def test_an_entry_records_its_transaction(fact: AuditLog) -> None:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        audit.record("key.revoked", actor=audit.SYSTEM, subject="key:2")
        cursor.execute("select xid = pg_current_xact_id() from audit_log where subject = 'key:2'")
        assert cursor.fetchone() == (True,)


def test_an_entry_is_rolled_back_with_its_transaction(desk_db: str) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        audit.record("key.revoked", actor=audit.SYSTEM, subject="key:1")
        raise ZeroDivisionError

    assert not AuditLog.objects.filter(action="key.revoked").exists()


def test_a_refusal_is_recorded_although_nothing_else_was_written(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))

    lena_bot.send("POST", fields=opening("1", volume="9"))

    entry = AuditLog.objects.get(action="trade.refused")
    assert (entry.outcome, entry.code, entry.actor_kind) == ("refused", "trade_exists_different", "bot")


@pytest.mark.parametrize(
    ("field", "constraint"),
    [("actor_kind", "audit_log_actor_kind_is_known"), ("outcome", "audit_log_outcome_is_known")],
)
@pytest.mark.parametrize("value", ["ghost", "", "OK"])
def test_an_unknown_actor_kind_is_refused(desk_db: str, field: str, constraint: str, value: str) -> None:
    fields = {"actor_kind": "system", "action": "x"} | {field: value}

    with pytest.raises(DatabaseError, match=constraint):
        AuditLog.objects.create(**fields)
