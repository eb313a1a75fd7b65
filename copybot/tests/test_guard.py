"""How a guard handles signals and snapshots, and each way in which a desk or a broker can mislead it."""

import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Outcome, Position, Result
from copybot.state_store import GuardMode, State
from copybot.tests.guard_fixtures import LIMITS, NOON, PRICE, gapfill, packet
from copybot.tests.guard_harness import SECOND, T1, T2, answering, target

ROOT = Path(__file__).resolve().parent.parent.parent


# --- normal operation


def test_a_trade_is_opened_followed_and_closed(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(2, "MODIFY", replace(T1, sl=PRICE - Decimal("0.01")))
    desk.send(3, "REDUCE", replace(T1, volume=Decimal("0.4"), sl=PRICE - Decimal("0.01")))
    (held,) = desk.broker.held.values()
    assert (held.volume, held.sl) == (Decimal("0.4"), PRICE - Decimal("0.01"))

    desk.send(4, "CLOSE", T1)
    desk.guard.tick()
    assert desk.volumes == []
    assert desk.state("t1") is State.GONE
    assert [event.event for event in desk.guard.outbox()] == ["opened", "closed"]
    assert desk.guard.seen == 4


def test_a_repeated_packet_does_nothing(desk: Any) -> None:
    for _ in range(3):
        desk.send(1, "OPEN", T1)

    assert desk.opened == 1
    assert desk.guard.mode is GuardMode.LIVE


def test_a_closed_trade_never_comes_back(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    desk.send(3, "OPEN", T1)  # well signed, well numbered, and wrong
    desk.snapshot(3, T1)
    desk.settle()

    assert desk.volumes == []
    assert desk.opened == 1


def test_a_close_that_overtook_its_open_leaves_the_trade_dead(desk: Any) -> None:
    desk.guard.on_packet(packet(2, NOON, "CLOSE", T1))
    desk.send(1, "OPEN", T1)
    desk.snapshot(2)

    assert desk.opened == 0
    assert desk.state("t1") is State.DEAD


def test_a_stale_open_is_missed_for_ever(desk: Any) -> None:
    late = replace(T1, born_ms=NOON - 7 * SECOND)
    desk.snapshot(1, late)
    desk.snapshot(1, late)

    assert desk.opened == 0
    assert [(event.event, event.why) for event in desk.guard.outbox()] == [("skipped", "missed")]


def test_the_last_condition_is_asked_for_opens_and_never_for_closes(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.guard.why_not = lambda target: "symbol_unknown"
    desk.send(2, "OPEN", T2)
    desk.send(3, "CLOSE", T1)

    assert desk.opened == 1
    assert desk.volumes == []
    assert [event.why for event in desk.guard.outbox() if event.event == "skipped"] == ["symbol_unknown"]


def test_a_copy_that_the_broker_closed_is_not_opened_again(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.broker.held.clear()
    desk.snapshot(1, T1)
    desk.settle()

    assert desk.opened == 1
    assert desk.state("t1") is State.GONE


def test_a_refused_open_is_retried_a_limited_number_of_times(desk: Any) -> None:
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(1, "OPEN", T1)
    desk.settle()

    assert sum(desk.broker.sent.values()) == LIMITS.attempts
    assert desk.state("t1") is State.DEAD


def test_a_gapfill_is_taken_only_in_turn(desk: Any) -> None:
    desk.guard.on_packet(gapfill(1, NOON))
    assert (desk.guard.seen, desk.guard.last_sequence_id) == (1, 1)
    desk.send(2, "OPEN", T1)
    assert len(desk.broker.held) == 1

    desk.guard.on_packet(gapfill(4, NOON))
    assert desk.guard.needs_snapshot
    assert desk.guard.seen == 2


def test_a_target_that_may_not_open_is_skipped_with_the_desks_reason_and_held_copies_follow(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.snapshot(
        2, replace(T1, sl=PRICE - 1, opens=False, why_not="paused"), replace(T2, opens=False, why_not="trust")
    )
    (held,) = desk.broker.held.values()
    assert held.sl == PRICE - 1
    assert [(event.ref, event.why) for event in desk.guard.outbox() if event.event == "skipped"] == [("t2", "trust")]

    desk.snapshot(3, T1, T2)
    assert desk.opened == 1  # what was given up stays so

    desk.snapshot(4, replace(T1, volume=Decimal(0), opens=False, why_not="drawdown"))
    assert desk.broker.held == {}


def test_the_facts_of_an_execution_report_are_stored(desk: Any) -> None:
    desk.now += 700
    desk.send(1, "OPEN", T1)
    copy = desk.guard.copy("t1")
    (held,) = desk.broker.held.values()

    assert (copy.position, copy.filled_price, copy.asked) == (held.id, held.open_price, Decimal("1.0"))
    assert (copy.born_ms, copy.heard_ms, copy.sent_ms, copy.filled_ms) == (NOON + 700, *3 * [NOON + 700])
    desk.broker.held.clear()
    desk.wait(1)
    assert desk.guard.copy("t1").position == held.id  # its deals are found by it


def test_the_brokers_refusal_reason_is_stored(desk: Any) -> None:
    desk.broker.open = lambda **order: Result(Outcome.REJECTED, 10019, "no_money")
    desk.send(1, "OPEN", T1)
    desk.settle()

    assert [(event.event, event.why) for event in desk.guard.outbox()] == [("skipped", "no_money")]


def test_a_second_attempt_checks_the_last_condition_again(desk: Any) -> None:
    answering(desk, Result(Outcome.REJECTED, 10006, "rejected"))
    desk.guard.why_not = lambda target: "" if desk.guard.copy("t1") is None else "not_leased"
    desk.send(1, "OPEN", T1)
    desk.wait(1)

    assert desk.opened == 0
    assert desk.guard.outbox()[-1].why == "not_leased"


def test_no_order_is_sent_if_the_volume_cannot_be_fitted(desk: Any) -> None:
    real = desk.broker.spec
    desk.broker.spec = lambda *order: exec("raise ConnectionError")
    desk.send(1, "OPEN", T1)
    desk.broker.spec = real
    desk.wait(1)

    assert sum(desk.broker.sent.values()) == 1
    assert desk.state("t1") is State.HELD


def test_refused_stops_are_retried_slowly(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    attempts = []
    desk.broker.modify = lambda position, **stops: attempts.append(stops) or Result(Outcome.REJECTED, 10016)
    desk.send(2, "MODIFY", replace(T1, sl=PRICE - 1))
    desk.settle()

    assert len(attempts) == 3  # at once, after 5 s and after 10


# --- gaps, and a desk that went back


def test_after_a_gap_no_trade_is_opened_before_a_snapshot(desk: Any) -> None:
    desk.send(2, "OPEN", T2)
    desk.send(3, "OPEN", target("t3", seq=3))
    assert desk.guard.needs_snapshot
    assert desk.opened == 0

    desk.snapshot(3, T1, T2, target("t3", seq=3))
    assert desk.opened == 3
    assert desk.guard.seen == 3


def test_a_close_passes_a_gap(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(5, "CLOSE", T1)

    assert desk.volumes == []
    assert desk.guard.seen == 1


def test_a_desk_that_went_back_in_time_holds_the_guard_until_a_new_epoch(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    desk.send(3, "OPEN", target("t3", seq=3))
    desk.snapshot(1, T1)
    assert desk.guard.mode is GuardMode.HOLD
    desk.snapshot(1, T1)
    desk.wait(1)
    assert len(desk.broker.held) == 1

    desk.start()
    assert desk.guard.mode is GuardMode.HOLD
    desk.snapshot(1, T1, epoch="2")
    desk.settle()
    assert desk.guard.mode is GuardMode.LIVE
    assert desk.volumes == []  # t3 is not active at the desk; t1 was closed, and stays so
    assert desk.opened == 2


def test_a_snapshot_that_packets_overtook_does_not_hold_the_guard(desk: Any) -> None:
    asked_at = desk.guard.seen
    desk.send(1, "OPEN", T1)
    desk.snapshot(0, asked_at=asked_at)

    assert desk.guard.mode is GuardMode.LIVE
    assert len(desk.broker.held) == 1


def test_two_packets_of_one_number_halt_opens_but_not_closes(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(1, "OPEN", target("forged"))
    assert desk.guard.mode is GuardMode.HALT

    desk.send(2, "OPEN", T2)
    desk.snapshot(2, T2)
    assert desk.opened == 1
    assert desk.volumes == []  # t1 is not active any more
    desk.guard.release()
    assert desk.guard.mode is GuardMode.LIVE


def test_a_snapshot_that_closes_most_copies_must_be_confirmed(desk: Any) -> None:
    many = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *many)
    assert len(desk.broker.held) == 8

    desk.snapshot(9)
    assert len(desk.broker.held) == 8
    desk.now += LIMITS.brake_ms
    desk.snapshot(9)
    assert desk.broker.held == {}


def test_the_brake_ignores_copies_that_packets_have_closed(desk: Any) -> None:
    many = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *many)
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    for number, ref in enumerate(many, start=9):
        desk.send(number, "CLOSE", ref)
    assert len(desk.broker.held) == 8

    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    desk.snapshot(17, target("t17", seq=17, born_ms=desk.now))
    assert desk.state("t17") is State.HELD
    assert len(desk.broker.held) == 1


def test_the_brake_also_holds_if_all_targets_are_zero(desk: Any) -> None:
    many = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *many)
    desk.snapshot(9, *(replace(target, volume=Decimal(0)) for target in many))

    assert len(desk.broker.held) == 8
    assert desk.guard.needs_snapshot


def test_closes_are_sent_before_anything_is_written(desk: Any) -> None:
    """As on a full disk."""
    desk.snapshot(2, T1, T2)
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(3, "CLOSE", T2)
    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    desk.broker.held = {name: held for name, held in desk.broker.held.items() if held.magic != desk.guard._magic("t1")}
    desk.guard._store.durable = None

    with pytest.raises(TypeError):
        desk.guard.tick()
    assert desk.broker.held == {}


def test_a_close_passes_a_halt(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.send(1, "OPEN", target("forged"))
    assert desk.guard.mode is GuardMode.HALT

    desk.send(2, "CLOSE", T1)
    assert desk.broker.held == {}


def test_the_brake_ends_when_the_trades_are_back(desk: Any) -> None:
    many = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *many)
    desk.snapshot(9)
    desk.snapshot(10, *many)
    desk.now += LIMITS.brake_ms
    desk.snapshot(11)

    assert len(desk.broker.held) == 8


# --- its own books


def test_positions_of_others_are_left_alone(desk: Any) -> None:
    for number, magic in enumerate((0, 123456, desk.guard._magic("t1") + (1 << 40))):
        desk.broker.held[str(number)] = Position(str(number), magic, "EURUSD", "BUY", Decimal(1), None, None)
    desk.snapshot(5)
    desk.settle()

    assert len(desk.broker.held) == 3


def test_an_unreachable_broker_changes_nothing(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.broker.weather = replace(desk.broker.weather, away=1.0)
    desk.snapshot(2)
    desk.settle()
    assert desk.state("t1") is State.HELD

    desk.broker.weather = replace(desk.broker.weather, away=0.0)
    desk.snapshot(2)
    desk.guard.tick()
    assert desk.broker.held == {}


def test_the_row_is_on_disk_before_the_order_is_sent(desk: Any) -> None:
    seen = {}

    def looks(**order: Any) -> Result:
        rows = sqlite3.connect(f"file:{desk.path}?mode=ro&immutable=1", uri=True)
        seen["journal"] = desk.guard._store.db.execute("pragma journal_mode").fetchone()[0]
        seen["sync"] = desk.guard._store.db.execute("pragma synchronous").fetchone()[0]
        seen["open transaction"] = desk.guard._store.db.in_transaction
        rows.close()
        return Result(Outcome.DONE)

    desk.broker.open = looks
    desk.send(1, "OPEN", T1)

    assert seen == {"journal": "wal", "sync": 2, "open transaction": False}


def test_a_trades_magic_is_stable_and_fits_the_terminal(desk: Any) -> None:
    magic = desk.guard._magic("0190f0a2-7c11-7abc-8def-0123456789ab")

    assert magic == desk.guard._magic("0190f0a2-7c11-7abc-8def-0123456789ab")
    assert 0 < magic < 2**63
    assert magic >> 56 == 0x43


def test_the_executed_number_follows_the_brokers_books(desk: Any) -> None:
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(1, "OPEN", T1)
    assert (desk.guard.seen, desk.guard.last_sequence_id) == (1, 0)

    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    desk.send(2, "OPEN", replace(T2, born_ms=desk.now))
    assert desk.guard.last_sequence_id == 2


# --- trades that await the provider's stop


WAITING = replace(T1, volume=Decimal(0), opens=False, why_not="awaiting_stop")


def test_a_trade_that_awaits_its_stop_is_opened_by_the_packet_that_brings_it(desk: Any) -> None:
    desk.snapshot(1, WAITING)
    desk.now += 60 * SECOND
    desk.snapshot(1, WAITING)
    assert (desk.state("t1"), desk.guard.outbox()) == (None, [])

    desk.guard.on_packet(gapfill(2, desk.now))
    desk.send(3, "OPEN", replace(T1, sl=PRICE - 1))
    assert (desk.opened, desk.state("t1")) == (1, State.HELD)
    desk.send(4, "OPEN", replace(T1, volume=Decimal(3)))
    assert (desk.opened, desk.volumes) == (1, [Decimal("1.0")])


@pytest.mark.parametrize(("age", "outcome"), [(5, State.HELD), (7, State.DEAD)])
def test_a_snapshot_with_the_stop_opens_the_trade_within_the_age_of_an_open(
    desk: Any, age: int, outcome: State
) -> None:
    desk.snapshot(1, WAITING)
    desk.now += age * SECOND
    desk.snapshot(2, replace(T1, sl=PRICE - 1))

    assert desk.state("t1") is outcome


def test_a_trade_that_closed_before_its_stop_came_is_never_opened(desk: Any) -> None:
    desk.snapshot(1, WAITING)
    desk.send(2, "CLOSE", T1)
    desk.send(3, "OPEN", T1)

    assert (desk.opened, desk.state("t1")) == (0, State.DEAD)


# --- what a person should know


def test_a_guard_that_holds_or_has_halted_says_so(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    assert desk.guard.findings() == []
    desk.snapshot(0, asked_at=1)
    assert [finding.kind for finding in desk.guard.findings()] == ["held"]

    desk.snapshot(1, T1, epoch="2")
    desk.send(2, "OPEN", T2)
    desk.send(2, "OPEN", target("forged"))
    (finding,) = desk.guard.findings()
    assert (finding.kind, "two packets are numbered 2" in finding.words) == ("halted", True)
