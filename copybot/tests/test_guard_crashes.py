"""One test for each crash point of the guard, and for each damage to its state file."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Outcome, Position, Result, Trace
from copybot.guard import ExecutionGuard
from copybot.state_store import State, StateInUse, StateOfAnotherVersion
from copybot.tests.guard_fixtures import SECRET, SUB, Crash
from copybot.tests.guard_harness import SECOND, T1, T2, answering, target

ROOT = Path(__file__).resolve().parent.parent.parent


def test_c0_c1_a_crash_before_the_intent_leaves_no_row(desk: Any) -> None:
    desk.guard._store.durable = None  # dies as it begins to write
    with pytest.raises(TypeError):
        desk.send(1, "OPEN", T1)
    desk.start()

    assert (desk.guard.seen, desk.guard.copies(), desk.opened) == (0, [], 0)


def test_c2_a_torn_write_is_all_or_nothing(desk: Any) -> None:
    desk.guard._store.db.execute("begin immediate")
    desk.guard._insert(T1, State.INTENT)
    desk.start()

    assert (desk.guard.seen, desk.guard.copies()) == (0, [])


@pytest.mark.parametrize("dies", ["C3 before the order", "C4 under way", "C7 refused, not recorded"])
def test_c3_c4_c7_an_intent_without_a_trace_is_given_up(desk: Any, dies: str) -> None:
    answering(desk, Crash())
    with pytest.raises(Crash):
        desk.send(1, "OPEN", T1)
    desk.start()
    desk.snapshot(1, T1)
    assert desk.state("t1") is State.INTENT

    desk.settle()
    assert desk.state("t1") is State.DEAD
    assert (desk.opened, sum(desk.broker.sent.values())) == (0, 0)


def test_c4_an_order_that_executes_late_is_kept_or_closed(desk: Any) -> None:
    answering(desk, TimeoutError())
    desk.send(1, "OPEN", T1)
    desk.settle()
    assert desk.state("t1") is State.DEAD
    magic = desk.guard._magic("t1")
    desk.broker.held["late"] = Position("late", magic, "EURUSD", "BUY", Decimal("1.0"), None, None)

    desk.wait(1)
    assert desk.state("t1") is State.HELD
    desk.snapshot(2)
    desk.guard.tick()
    assert desk.broker.held == {}


@pytest.mark.parametrize("dies", [Crash(), TimeoutError()])
def test_c5_c6_an_executed_order_is_found_by_its_magic(desk: Any, dies: Any) -> None:
    answering(desk, dies, does=True)
    try:
        desk.send(1, "OPEN", T1)
    except Crash:
        desk.start()
    desk.snapshot(1, T1)

    assert desk.state("t1") is State.HELD
    assert desk.opened == 1


def test_c5_an_order_that_was_executed_and_stopped_out_is_found_in_the_history(desk: Any) -> None:
    answering(desk, TimeoutError(), does=True)
    desk.broker.positions = list
    desk.send(1, "OPEN", T1)
    desk.broker.held.clear()
    desk.settle()

    assert desk.state("t1") is State.GONE
    assert desk.opened == 1


def test_a_pending_order_is_waited_for(desk: Any) -> None:
    answering(desk, Result(Outcome.UNKNOWN, 10008))
    desk.broker.trace = lambda magic: Trace.PENDING
    desk.send(1, "OPEN", T1)
    desk.settle()

    assert desk.state("t1") is State.INTENT


def test_c9_c10_unreported_events_are_reported_after_a_restart(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.start()
    (event,) = desk.guard.outbox()
    assert (event.event, event.ref) == ("opened", "t1")

    desk.guard.mark_reported(event)
    desk.start()
    assert desk.guard.outbox() == []


def test_c11_a_close_continues_after_a_restart_without_the_desk(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.broker.close = lambda position, volume: Result(Outcome.REJECTED, 10018)  # the market is closed
    desk.send(2, "CLOSE", T1)
    assert len(desk.broker.held) == 1

    desk.start()
    del desk.broker.close
    desk.guard.tick()
    assert desk.broker.held == {}


def test_c12_a_reduction_without_an_answer_is_not_done_twice(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real = desk.broker.close

    def lost(position: Any, volume: Any) -> None:
        real(position, volume)
        raise Crash

    desk.broker.close = lost
    with pytest.raises(Crash):
        desk.send(2, "REDUCE", replace(T1, volume=Decimal("0.4")))
    desk.broker.close = real
    desk.start()
    desk.settle()

    assert desk.volumes == [Decimal("0.4")]


def test_a_reduction_that_executes_late_is_not_doubled(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real, sent = desk.broker.close, []
    desk.broker.close = lambda position, volume: sent.append(volume) or Result(Outcome.UNKNOWN, 10012)
    desk.send(2, "REDUCE", replace(T1, volume=Decimal("0.4")))
    desk.wait(3)
    assert sent == [Decimal("0.6")]

    desk.broker.close = real
    (held,) = desk.broker.held.values()
    real(held, Decimal("0.6"))  # now it comes
    desk.settle()
    assert desk.volumes == [Decimal("0.4")]


def test_c13_a_half_applied_snapshot_is_applied_again(desk: Any) -> None:
    answering(desk, Crash(), does=True)
    with pytest.raises(Crash):
        desk.snapshot(2, T1, T2)
    desk.start()
    desk.snapshot(2, T1, T2)
    desk.settle()

    assert len(desk.broker.held) == 2
    assert desk.opened == 2


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_c14_without_its_file_the_guard_keeps_active_copies_and_closes_the_rest(desk: Any, loss: str) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(2, "OPEN", T2)
    desk.guard.close()
    for file in desk.path.parent.iterdir():
        file.unlink() if loss == "gone" else file.write_bytes(b"\0not a database\0" * 400)
    desk.start()
    young = target("t3", born_ms=desk.now, seq=3)
    desk.snapshot(3, T1, young)
    desk.settle()

    assert [position.magic for position in desk.broker.held.values()] == [desk.guard._magic("t1")]
    assert desk.state("t3") is State.DEAD
    assert desk.opened == 2


@pytest.mark.parametrize("version", [0, 1, 99])
def test_a_file_of_another_version_is_refused_and_left_as_it_is(desk: Any, version: int) -> None:
    desk.send(1, "OPEN", T1)
    desk.guard._store.db.execute(f"pragma user_version = {version}")
    desk.guard.close()

    with pytest.raises(StateOfAnotherVersion, match=f"of version {version}"):
        desk.start()
    file = sqlite3.connect(desk.path)
    assert file.execute("select ref from copy").fetchall() == [("t1",)]
    file.execute("pragma user_version = 2")
    file.close()
    desk.start()


def test_the_cache_equals_the_file(desk: Any) -> None:
    """After writes and after a rollback."""
    desk.snapshot(2, T1, T2)
    with pytest.raises(ZeroDivisionError), desk.guard._store.durable():
        desk.guard._store.change("t1", state=State.DEAD, volume=Decimal(0))
        desk.guard._store.note(seen=99)
        assert desk.guard.seen / 0

    before = (desk.guard.seen, desk.guard.unfinished(), desk.guard.copy("t1"))
    desk.start()
    assert before == (desk.guard.seen, desk.guard.unfinished(), desk.guard.copy("t1"))


def test_c15_a_second_process_is_refused(desk: Any) -> None:
    code = f"""
from copybot.state_store import StateInUse
from copybot.guard import ExecutionGuard
try:
    ExecutionGuard({str(desk.path)!r}, {SUB!r}, {{1: {SECRET!r}}}, 7, None, lambda: 0)
except StateInUse:
    print("refused")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "refused\n"
    with pytest.raises(StateInUse):
        ExecutionGuard(desk.path, SUB, {1: SECRET}, 7, desk.broker, lambda: 0)


def test_c16_age_is_measured_by_the_desks_clock(desk: Any) -> None:
    desk.now += 3600 * SECOND  # both clocks: the guard's is the desk's
    desk.send(1, "OPEN", replace(T1, born_ms=desk.now))

    assert desk.opened == 1
