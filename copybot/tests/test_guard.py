"""Each crash point, each way a desk or a broker can mislead; one test for what must be found on restart."""

import random
import sqlite3
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from copybot.books import Standing, State, StateInUse
from copybot.broker import Outcome, Position, Result, Trace
from copybot.guard import ExecutionGuard
from copybot.targets import Snapshot, Target
from copybot.tests.simulation import CALM, LIMITS, NOON, PRICE, SECRET, SUB, Crash, Market, packet

ROOT = Path(__file__).resolve().parent.parent.parent

SECOND = 1000


class Desk:
    """One copier at a file of its own, a broker, and a clock that the test moves."""

    def __init__(self, folder):
        self.path, self.now, self.dies = folder / "state", NOON, None
        self.broker = Market(random.Random(1), CALM, first=1)
        self.guard = None
        self.start()

    def start(self):
        """As after a crash: what was not committed is gone."""
        if self.guard is not None:
            self.guard.close()
        self.guard = ExecutionGuard(self.path, SUB, {1: SECRET}, 7, self.broker, lambda: self.now, LIMITS)

    def snapshot(self, as_of, *targets, epoch="1", asked_at=None):
        asked_at = self.guard.seen if asked_at is None else asked_at
        self.guard.on_snapshot(Snapshot(epoch, as_of, {one.ref: one for one in targets}), asked_at=asked_at)

    def send(self, seq, action, target, **more):
        self.guard.on_packet(packet(seq, self.now, action, target, **more))

    def wait(self, seconds):
        self.now += seconds * SECOND
        self.guard.tick()

    def settle(self):
        for _ in range(12):
            self.wait(1)

    def state(self, ref):
        return next((copy.state for copy in self.guard.copies() if copy.ref == ref), None)

    @property
    def volumes(self):
        return sorted(one.volume for one in self.broker.held.values())

    @property
    def opened(self):
        return sum(self.broker.opens.values())


def target(ref="t1", volume="1.0", **more):
    known = {"sl": None, "tp": None, "price": PRICE, "born_ms": NOON, "seq": 1}
    return Target(ref, "EURUSD", "BUY", Decimal(volume), **known | more)


T1, T2 = target(), target("t2", seq=2)


@pytest.fixture
def desk(tmp_path):
    """Running, and in step with a desk on which nothing is open."""
    found = Desk(tmp_path)
    found.snapshot(0)
    yield found
    found.guard.close()


def answering(desk, result, *, does=False):
    """The next open is answered so, whether it does or does not take effect."""
    real = desk.broker.open

    def once(**order):
        desk.broker.open = real
        if does:
            real(**order)
        if isinstance(result, BaseException):
            raise result
        return result

    desk.broker.open = once


# --- the ordinary


def test_a_trade_is_opened_followed_and_closed(desk):
    desk.send(1, "OPEN", T1)
    desk.send(2, "MODIFY", replace(T1, sl=PRICE - Decimal("0.01")))
    desk.send(3, "REDUCE", replace(T1, volume=Decimal("0.4"), sl=PRICE - Decimal("0.01")))
    (held,) = desk.broker.held.values()
    assert (held.volume, held.sl) == (Decimal("0.4"), PRICE - Decimal("0.01"))

    desk.send(4, "CLOSE", T1)
    desk.guard.tick()
    assert desk.volumes == []
    assert desk.state("t1") is State.GONE
    assert [one.event for one in desk.guard.outbox()] == ["opened", "closed"]
    assert desk.guard.seen == 4


def test_a_packet_that_comes_again_does_nothing(desk):
    for _ in range(3):
        desk.send(1, "OPEN", T1)

    assert desk.opened == 1
    assert desk.guard.standing is Standing.LIVE


def test_a_closed_trade_never_comes_back(desk):
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    desk.send(3, "OPEN", T1)  # well signed, well numbered, and wrong
    desk.snapshot(3, T1)
    desk.settle()

    assert desk.volumes == []
    assert desk.opened == 1


def test_a_close_that_overtook_its_open_leaves_it_dead(desk):
    desk.guard.on_packet(packet(2, NOON, "CLOSE", T1))
    desk.send(1, "OPEN", T1)
    desk.snapshot(2)

    assert desk.opened == 0
    assert desk.state("t1") is State.DEAD


def test_a_stale_open_is_missed_for_ever(desk):
    late = replace(T1, born_ms=NOON - 7 * SECOND)
    desk.snapshot(1, late)
    desk.snapshot(1, late)

    assert desk.opened == 0
    assert [(one.event, one.why) for one in desk.guard.outbox()] == [("skipped", "missed")]


def test_an_open_that_the_copier_does_not_want_is_skipped_and_a_close_is_never_asked(desk):
    desk.send(1, "OPEN", T1)
    desk.guard.why_not = lambda target: "symbol_unknown"
    desk.send(2, "OPEN", T2)
    desk.send(3, "CLOSE", T1)

    assert desk.opened == 1
    assert desk.volumes == []
    assert [one.why for one in desk.guard.outbox() if one.event == "skipped"] == ["symbol_unknown"]


def test_what_the_broker_closed_by_itself_is_not_opened_again(desk):
    desk.send(1, "OPEN", T1)
    desk.broker.held.clear()
    desk.snapshot(1, T1)
    desk.settle()

    assert desk.opened == 1
    assert desk.state("t1") is State.GONE


def test_a_clear_refusal_is_tried_again_and_not_for_ever(desk):
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(1, "OPEN", T1)
    desk.settle()

    assert sum(desk.broker.sent.values()) == LIMITS.attempts
    assert desk.state("t1") is State.DEAD


# --- gaps, and a desk that went back


def test_after_a_gap_nothing_is_opened_until_a_snapshot_has_come(desk):
    desk.send(2, "OPEN", T2)
    desk.send(3, "OPEN", target("t3", seq=3))
    assert desk.guard.needs_snapshot
    assert desk.opened == 0

    desk.snapshot(3, T1, T2, target("t3", seq=3))
    assert desk.opened == 3
    assert desk.guard.seen == 3


def test_a_close_passes_a_gap(desk):
    desk.send(1, "OPEN", T1)
    desk.send(5, "CLOSE", T1)

    assert desk.volumes == []
    assert desk.guard.seen == 1


def test_at_a_desk_that_went_back_nothing_is_done_until_its_epoch_is_new(desk):
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    desk.send(3, "OPEN", target("t3", seq=3))
    desk.snapshot(1, T1)
    assert desk.guard.standing is Standing.HOLD
    desk.snapshot(1, T1)
    desk.wait(1)
    assert len(desk.broker.held) == 1

    desk.start()
    assert desk.guard.standing is Standing.HOLD
    desk.snapshot(1, T1, epoch="2")
    desk.settle()
    assert desk.guard.standing is Standing.LIVE
    assert desk.volumes == []  # t3 is not active at the desk; t1 was closed, and stays so
    assert desk.opened == 2


def test_a_snapshot_that_packets_overtook_is_no_desk_that_went_back(desk):
    asked_at = desk.guard.seen
    desk.send(1, "OPEN", T1)
    desk.snapshot(0, asked_at=asked_at)

    assert desk.guard.standing is Standing.LIVE
    assert len(desk.broker.held) == 1


def test_two_packets_of_one_number_halt_opens_and_no_close(desk):
    desk.send(1, "OPEN", T1)
    desk.send(1, "OPEN", target("forged"))
    assert desk.guard.standing is Standing.HALT

    desk.send(2, "OPEN", T2)
    desk.snapshot(2, T2)
    assert desk.opened == 1
    assert desk.volumes == []  # t1 is not active any more
    desk.guard.release()
    assert desk.guard.standing is Standing.LIVE


def test_a_snapshot_that_would_close_nearly_everything_must_come_twice(desk):
    many = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *many)
    assert len(desk.broker.held) == 8

    desk.snapshot(9)
    assert len(desk.broker.held) == 8
    desk.now += LIMITS.brake_ms
    desk.snapshot(9)
    assert desk.broker.held == {}


def test_the_brake_is_off_once_they_are_back(desk):
    many = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *many)
    desk.snapshot(9)
    desk.snapshot(10, *many)
    desk.now += LIMITS.brake_ms
    desk.snapshot(11)

    assert len(desk.broker.held) == 8


# --- the crash points


def test_c0_c1_before_the_intent_nothing_is_kept(desk):
    desk.guard._books.durable = None  # dies as it begins to write
    with pytest.raises(TypeError):
        desk.send(1, "OPEN", T1)
    desk.start()

    assert (desk.guard.seen, desk.guard.copies(), desk.opened) == (0, [], 0)


def test_c2_a_torn_write_is_all_or_nothing(desk):
    desk.guard._books.db.execute("begin immediate")
    desk.guard._insert(T1, State.INTENT)
    desk.start()

    assert (desk.guard.seen, desk.guard.copies()) == (0, [])


@pytest.mark.parametrize("dies", ["C3 before the order", "C4 under way", "C7 refused, not recorded"])
def test_c3_c4_c7_an_intent_without_a_trace_is_given_up(desk, dies):
    answering(desk, Crash())
    with pytest.raises(Crash):
        desk.send(1, "OPEN", T1)
    desk.start()
    desk.snapshot(1, T1)
    assert desk.state("t1") is State.INTENT

    desk.settle()
    assert desk.state("t1") is State.DEAD
    assert (desk.opened, sum(desk.broker.sent.values())) == (0, 0)


def test_c4_what_is_executed_after_all_is_kept_or_closed(desk):
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
def test_c5_c6_what_was_executed_is_found_by_its_number(desk, dies):
    answering(desk, dies, does=True)
    try:
        desk.send(1, "OPEN", T1)
    except Crash:
        desk.start()
    desk.snapshot(1, T1)

    assert desk.state("t1") is State.HELD
    assert desk.opened == 1


def test_c5_what_was_executed_and_stopped_out_is_found_in_the_history(desk):
    answering(desk, TimeoutError(), does=True)
    desk.broker.positions = list
    desk.send(1, "OPEN", T1)
    desk.broker.held.clear()
    desk.settle()

    assert desk.state("t1") is State.GONE
    assert desk.opened == 1


def test_an_order_that_waits_at_the_broker_is_waited_for(desk):
    answering(desk, Result(Outcome.UNKNOWN, 10008))
    desk.broker.trace = lambda magic: Trace.PENDING
    desk.send(1, "OPEN", T1)
    desk.settle()

    assert desk.state("t1") is State.INTENT


def test_c9_c10_what_was_not_told_is_told_after_a_restart(desk):
    desk.send(1, "OPEN", T1)
    desk.start()
    (event,) = desk.guard.outbox()
    assert (event.event, event.ref) == ("opened", "t1")

    desk.guard.told(event)
    desk.start()
    assert desk.guard.outbox() == []


def test_c11_a_close_is_driven_at_after_a_restart_without_any_desk(desk):
    desk.send(1, "OPEN", T1)
    desk.broker.close = lambda position, volume: Result(Outcome.REJECTED, 10018)  # the market is closed
    desk.send(2, "CLOSE", T1)
    assert len(desk.broker.held) == 1

    desk.start()
    del desk.broker.close
    desk.guard.tick()
    assert desk.broker.held == {}


def test_c12_a_reduction_whose_answer_was_lost_is_not_done_twice(desk):
    desk.send(1, "OPEN", T1)
    real = desk.broker.close

    def lost(position, volume):
        real(position, volume)
        raise Crash

    desk.broker.close = lost
    with pytest.raises(Crash):
        desk.send(2, "REDUCE", replace(T1, volume=Decimal("0.4")))
    desk.broker.close = real
    desk.start()
    desk.settle()

    assert desk.volumes == [Decimal("0.4")]


def test_a_reduction_that_comes_late_is_not_doubled_either(desk):
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


def test_c13_a_snapshot_that_was_half_applied_is_applied_again(desk):
    answering(desk, Crash(), does=True)
    with pytest.raises(Crash):
        desk.snapshot(2, T1, T2)
    desk.start()
    desk.snapshot(2, T1, T2)
    desk.settle()

    assert len(desk.broker.held) == 2
    assert desk.opened == 2


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_c14_without_its_file_it_keeps_what_is_active_closes_the_rest_and_opens_nothing(desk, loss):
    desk.send(1, "OPEN", T1)
    desk.send(2, "OPEN", T2)
    desk.guard.close()
    for file in desk.path.parent.iterdir():
        file.unlink() if loss == "gone" else file.write_bytes(b"\0not a database\0" * 400)
    desk.start()
    young = target("t3", born_ms=desk.now, seq=3)
    desk.snapshot(3, T1, young)
    desk.settle()

    assert [one.magic for one in desk.broker.held.values()] == [desk.guard._magic("t1")]
    assert desk.state("t3") is State.DEAD
    assert desk.opened == 2


def test_c15_a_second_process_is_refused(desk):
    code = f"""
from copybot.books import StateInUse
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


def test_c16_age_is_told_by_the_desks_clock(desk):
    desk.now += 3600 * SECOND  # both clocks: the guard's is the desk's
    desk.send(1, "OPEN", replace(T1, born_ms=desk.now))

    assert desk.opened == 1


# --- its own books


def test_positions_of_others_are_left_alone(desk):
    for number, magic in enumerate((0, 123456, desk.guard._magic("t1") + (1 << 40))):
        desk.broker.held[str(number)] = Position(str(number), magic, "EURUSD", "BUY", Decimal(1), None, None)
    desk.snapshot(5)
    desk.settle()

    assert len(desk.broker.held) == 3


def test_a_broker_that_cannot_be_asked_changes_nothing(desk):
    desk.send(1, "OPEN", T1)
    desk.broker.weather = replace(desk.broker.weather, away=1.0)
    desk.snapshot(2)
    desk.settle()
    assert desk.state("t1") is State.HELD

    desk.broker.weather = replace(desk.broker.weather, away=0.0)
    desk.snapshot(2)
    desk.guard.tick()
    assert desk.broker.held == {}


def test_what_is_kept_is_on_the_disk_before_anything_is_sent(desk):
    seen = {}

    def looks(**order):
        rows = sqlite3.connect(f"file:{desk.path}?mode=ro&immutable=1", uri=True)
        seen["journal"] = desk.guard._books.db.execute("pragma journal_mode").fetchone()[0]
        seen["sync"] = desk.guard._books.db.execute("pragma synchronous").fetchone()[0]
        seen["open transaction"] = desk.guard._books.db.in_transaction
        rows.close()
        return Result(Outcome.DONE)

    desk.broker.open = looks
    desk.send(1, "OPEN", T1)

    assert seen == {"journal": "wal", "sync": 2, "open transaction": False}


def test_the_number_of_a_trade_is_the_same_after_any_loss_and_fits_the_terminal(desk):
    magic = desk.guard._magic("0190f0a2-7c11-7abc-8def-0123456789ab")

    assert magic == desk.guard._magic("0190f0a2-7c11-7abc-8def-0123456789ab")
    assert 0 < magic < 2**63
    assert magic >> 56 == 0x43


def test_executed_is_what_the_brokers_books_showed(desk):
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(1, "OPEN", T1)
    assert (desk.guard.seen, desk.guard.last_sequence_id) == (1, 0)

    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    desk.send(2, "OPEN", replace(T2, born_ms=desk.now))
    assert desk.guard.last_sequence_id == 2
