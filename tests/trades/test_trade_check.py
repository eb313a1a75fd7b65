"""`manage.py trade_check` finds each broken invariant. Each fault is planted after its guard has been removed."""

import io
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from accounts.models import TradingAccount
from core.invariants import FIRST, IN_PLACE
from tests import databases
from tests.conftest import ROOT
from tests.sql import as_owner
from tests.trades import test_hostile_callers as hostile
from tests.trades.hostile_statements import cold, hot
from tests.trades.test_hostile_callers import filled
from trades import checks, services

NOBODY = hostile.NOBODY
scene = hostile.scene


def without(*names: Any) -> None:
    """Remove guards for good: this database is dropped after the test."""
    for name in names:
        table, _, guard = name.partition(".")
        with connections["owner"].cursor() as cursor:
            cursor.execute("select from pg_trigger where tgrelid = %s::regclass and tgname = %s", [table, guard])
            is_trigger = cursor.fetchone() is not None
        action = f"disable trigger {guard}" if is_trigger else f"drop constraint {guard} cascade"
        as_owner(f"alter table {table} {action}")


def planted_faults() -> list[Any]:
    """The faults, except those about removed guards."""
    return [(fault.invariant, fault.subject) for fault in checks.faults() if fault.invariant != IN_PLACE]


def failing_output() -> Any:
    """The output of the failing command."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError, match="fault"):
        call_command("trade_check", stdout=out, stderr=err)
    assert out.getvalue() == ""
    return err.getvalue()


def process(database: Any) -> Any:
    command = [sys.executable, "manage.py", "trade_check"]
    environ = {**os.environ, **databases.urls(database)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=180)


# --- a consistent desk


def test_a_consistent_desk_passes(scene: Any) -> None:
    out = io.StringIO()

    call_command("trade_check", stdout=out)

    assert out.getvalue() == f"{len(checks.INVARIANTS) + 1} invariants hold.\n"


def test_an_empty_desk_passes(desk_db: str) -> None:
    call_command("trade_check", stdout=io.StringIO())


def test_exits_with_0_on_a_consistent_desk(scene: Any, desk_db: str) -> None:
    ended = process(desk_db)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "invariants hold" in ended.stdout


@pytest.mark.breaks_the_books
def test_exits_with_1_and_names_the_offender(scene: Any, desk_db: str) -> None:
    without("trade_history.append_only")
    as_owner(filled("update trade_history set profit = 999 where trade_id = '<closed>'", scene))

    ended = process(desk_db)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"a trade's profit is the sum of its closes: violated by {scene['closed']}" in ended.stderr
    assert "trade_history.append_only" in ended.stderr


# --- a fault for each invariant

LOST = ("trades.open_trade_is_active", "active_trades.goes_with_its_close")
HOT_KEY = "active_trades.active_trade_belongs_to_an_open_trade"
COLD_KEY = "trade_history.closed_trade_belongs_to_a_closed_trade"
PART = "insert into trade_reductions (trade_id, deal_id, volume, remaining, close_price, profit) values "
OPEN, CLOSED, ROW, ONCE, PARTS, PROFIT, STREAM, CIRCLE = checks.INVARIANTS

FAULTS = [
    ("an open trade lost", LOST, "delete from active_trades where trade_id = '<open>'", (OPEN, "<open>")),
    ("a copy lost", LOST, "delete from active_trades where trade_id = '<copy>'", (OPEN, "<copy>")),
    ("an open trade in history too", [COLD_KEY], cold(trade_id="<open>", ticket_id="1"), (OPEN, "<open>")),
    (
        "a closed trade lost",
        ["trades.closed_trade_is_history", "trade_history.append_only"],
        "delete from trade_history where trade_id = '<closed>'",
        (CLOSED, "<closed>"),
    ),
    (
        "a zombie",
        [HOT_KEY],
        hot(trade_id="<closed>", ticket_id="2", volume="0.1", opened_volume="0.1"),
        (CLOSED, "<closed>"),
    ),
    (
        "a tombstone with a hot row",
        [HOT_KEY],
        hot(trade_id="<tombstone>", ticket_id="4", volume="0.1", opened_volume="0.1"),
        (CLOSED, "<tombstone>"),
    ),
    (
        "a hot row without an identity",
        [HOT_KEY],
        hot(trade_id=NOBODY, ticket_id="9", opened_volume="0.04"),
        (ROW, NOBODY),
    ),
    ("a cold row without an identity", [COLD_KEY], cold(trade_id=NOBODY, ticket_id="9"), (ROW, NOBODY)),
    (
        "a ticket twice",
        ["trades.trade_is_unique_on_its_account", "trades.closed_trade_is_history", COLD_KEY],
        f"insert into trades (id, account_id, ticket_id, state) values ('{NOBODY}', <lena>, '2', 'CLOSED'); "
        + cold(trade_id=NOBODY),
        (ONCE, "<lena>/2"),
    ),
    (
        "an open trade of less than was opened",
        [],
        "update active_trades set volume = 0.05 where trade_id = '<open>'",
        (PARTS, "<open>"),
    ),
    ("a partial close of zero lots", [], f"{PART} ('<open>', 'd9', 0.01, 0.09, 1, 1)", (PARTS, "<open>")),
    ("a partial close of a closed trade", [], f"{PART} ('<closed>', 'd9', 0.01, 0.09, 1, 0)", (PARTS, "<closed>")),
    (
        "a close of more than was open",
        ["trade_history.append_only"],
        "update trade_history set closed_volume = 9 where trade_id = '<closed>'",
        (PARTS, "<closed>"),
    ),
    (
        "an invented profit",
        ["trade_history.append_only"],
        "update trade_history set profit = 999 where trade_id = '<closed>'",
        (PROFIT, "<closed>"),
    ),
    (
        "a stream behind its open trade",
        [],
        "update active_trades set seq = 99 where trade_id = '<open>'",
        (STREAM, "lena-eurusd"),
    ),
    (
        "a stream behind its history",
        ["strategies.number_grows_by_one"],
        "update strategies set last_seq = 3 where name = 'lena-eurusd'",
        (STREAM, "lena-eurusd"),
    ),
    (
        "an account behind its copies",
        [],
        "update active_trades set seq = 99 where trade_id = '<copy>'",
        (STREAM, "finn-mt5"),
    ),
    (
        "an account that follows itself",
        ["subscriptions.makes_no_circle"],
        "insert into subscriptions (sub_id, strategy_id, account_id, status, sealed_packet_secret, packet_generation)"
        " select 's-9', s.id, s.account_id, 'ACTIVE', '', 1 from strategies s where name = 'lena-eurusd'",
        (CIRCLE, "lena-mt5"),
    ),
]


@pytest.mark.breaks_the_books
@pytest.mark.parametrize(
    ("removed_guards", "statement", "fault"),
    [pytest.param(guards, s, fault, id=what) for what, guards, s, fault in FAULTS],
)
def test_names_each_broken_invariant_and_its_row(scene: Any, removed_guards: Any, statement: Any, fault: Any) -> None:
    assert checks.faults() == []
    without(*removed_guards)

    as_owner(filled(statement, scene))

    invariant, subject = fault[0], filled(fault[1], scene)
    assert planted_faults() == [(invariant, subject)]
    assert f"{invariant}: violated by {subject}\n" in failing_output()


def test_every_invariant_has_a_planted_fault() -> None:
    assert {fault[0] for *_, fault in FAULTS} == set(checks.INVARIANTS)


# --- the guards themselves (tests/core/test_catalogue.py takes away each of them)


@pytest.mark.breaks_the_books
@pytest.mark.parametrize(
    "name", ["trades.never_deleted", "trades.open_trade_is_active", "subscription_terms.append_only"]
)
def test_names_a_missing_guard_and_its_remedy(desk_db: str, name: str) -> None:
    without(name)

    (line,) = failing_output().splitlines()
    assert line.startswith(f"{IN_PLACE}: violated by ")
    assert f" {name}. It is " in line
    assert "As the tables' owner: alter table" in line


@pytest.mark.breaks_the_books
def test_names_a_function_that_runs_with_its_callers_rights(desk_db: str) -> None:
    """Staff's force close would fail with "permission denied"."""
    as_owner("alter function trade_close(jsonb, jsonb) security invoker")

    assert "function trade_close(jsonb,jsonb)" in failing_output()


# --- many at once


@pytest.mark.breaks_the_books
def test_shows_the_first_offenders_of_each_invariant(lena: TradingAccount) -> None:
    with transaction.atomic():
        for ticket in range(1, FIRST + 6):
            fields = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal(1)}
            services.open_trade(account=lena, ticket_id=str(ticket), **fields)
    as_owner("update active_trades set volume = 0.5")

    assert len(checks.faults()) == FIRST
    assert failing_output().count("\n") == FIRST
