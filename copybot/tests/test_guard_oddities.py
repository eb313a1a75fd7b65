"""A guard where something is that should not be: two positions, a wrong side, a wrong clock, a disk without room."""

import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.state_store import GuardMode, State
from copybot.tests.guard_fixtures import NOON, packet
from copybot.tests.guard_harness import SECOND, T1, T2, Desk, target


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    """Running, and in step with a desk on which nothing is open."""
    found = Desk(tmp_path)
    found.snapshot(0)
    yield found
    found.guard.close()


def the_one(desk: Any) -> Any:
    (found,) = desk.broker.held.values()
    return found


def test_a_position_on_the_other_side_under_our_number_is_closed_whole(desk: Any) -> None:
    """A netting account, where a reduction whose answer was lost came twice and turned it."""
    desk.snapshot(1, target(volume="0.4"))
    held = the_one(desk)
    desk.broker.held[held.id] = replace(held, side="SELL", volume=Decimal("0.3"))
    desk.send(2, "REDUCE", target(volume="0.1"))
    desk.settle()

    assert desk.broker.held == {}
    assert (desk.opened, desk.state("t1")) == (1, State.GONE)


def test_of_two_positions_under_one_number_one_is_left(desk: Any) -> None:
    """A broker executed what it said it had refused, and the next attempt too."""
    desk.snapshot(1, T1)
    held = the_one(desk)
    desk.broker.held = {"0": replace(held, id="0"), held.id: held}
    desk.wait(1)
    assert the_one(desk) == held

    desk.broker.held["0"] = replace(held, id="0")
    desk.send(2, "CLOSE", T1)
    desk.settle()
    assert desk.broker.held == {}


def test_a_second_position_under_the_number_of_one_that_ended_is_not_taken_for_it(desk: Any) -> None:
    desk.snapshot(1, T1)
    held = the_one(desk)
    desk.broker.held = {}
    desk.settle()
    assert desk.state("t1") is State.GONE

    desk.broker.held = {"0": replace(held, id="0")}
    desk.wait(1)
    assert (desk.broker.held, desk.state("t1")) == ({}, State.GONE)


def test_by_a_clock_that_lags_nothing_is_taken_for_young(desk: Any) -> None:
    """It was set back by an hour: a signal that was held up for half of it would have an age below zero."""
    desk.snapshot(0)
    desk.now -= 3600 * SECOND
    desk.guard.on_packet(packet(1, desk.now + 1800 * SECOND, "OPEN", T1))

    assert (desk.opened, desk.guard.copies()[0].why) == (0, "missed")


def test_numbers_that_a_restored_desk_gives_again_are_no_forgery(desk: Any) -> None:
    desk.snapshot(0)
    desk.send(1, "OPEN", T1)
    desk.guard.lost_touch()
    desk.send(1, "OPEN", target("t9"))
    desk.snapshot(1, target("t9"), epoch="2", asked_at=1)
    assert desk.guard.standing is GuardMode.LIVE


def test_numbers_that_were_given_twice_while_out_of_touch_halt_at_the_next_snapshot(desk: Any) -> None:
    desk.snapshot(0)
    desk.send(1, "OPEN", T1)
    desk.guard.lost_touch()
    desk.send(1, "OPEN", target("forged"))
    desk.snapshot(1, T1)
    assert desk.guard.standing is GuardMode.HALT


def test_a_close_that_was_known_before_the_desk_went_back_is_driven_at(desk: Any) -> None:
    desk.snapshot(1, T1)
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(2, "CLOSE", T1)
    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    desk.snapshot(1, T1, asked_at=2)
    assert desk.guard.standing is GuardMode.HOLD

    desk.wait(1)
    assert desk.broker.held == {}


def full(desk: Any) -> None:
    """The disk has no room for anything more."""
    for what in ("update on main.guard", "insert on main.copy", "update on main.copy"):
        name = what.replace(" ", "_").replace(".", "_")
        desk.guard._store.db.execute(
            f"create temp trigger {name} before {what} begin select raise(fail, 'database or disk is full'); end"
        )


def test_on_a_full_disk_a_close_is_sent_all_the_same_and_no_open(desk: Any) -> None:
    desk.snapshot(2, T1, T2)
    full(desk)
    with pytest.raises(sqlite3.Error):
        desk.send(3, "CLOSE", T2)
    desk.send(3, "OPEN", target("t3", seq=3, born_ms=desk.now))
    desk.wait(0)
    assert the_one(desk).magic == desk.guard._magic("t1")

    with pytest.raises(sqlite3.Error):
        desk.snapshot(5)
    with pytest.raises(sqlite3.Error):
        desk.wait(0)  # that t2 is gone could not be written either
    assert (desk.broker.held, desk.opened) == ({}, 2)


def test_what_a_broker_refuses_for_long_is_sent_less_and_less_often(desk: Any) -> None:
    """A market that is closed over the weekend: a request each second would be 170 000."""
    desk.snapshot(1, T1)
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    sent, real = [], desk.broker.close
    desk.broker.close = lambda *args: (sent.append(desk.now), real(*args))[1]
    desk.send(2, "CLOSE", T1)
    for _ in range(3600):
        desk.wait(1)
    assert len([at for at in sent if at <= NOON + 10 * SECOND]) > 8
    assert len(sent) < 400

    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    for _ in range(15):
        desk.wait(1)
    assert desk.broker.held == {}


def test_a_subscription_that_is_wound_up_closes_what_it_holds(desk: Any) -> None:
    desk.snapshot(2, T1, T2)
    desk.guard.wind_up()
    desk.settle()

    assert desk.broker.held == {}
    desk.snapshot(2, T1, T2)  # begun again
    assert desk.opened == 2
