"""A guard in abnormal states: two positions, a wrong side, a wrong clock, a full disk."""

import sqlite3
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from copybot.state_store import GuardMode, State
from copybot.tests.guard_fixtures import NOON, packet
from copybot.tests.guard_harness import SECOND, T1, T2, target


def the_one(desk: Any) -> Any:
    (position,) = desk.broker.held.values()
    return position


def test_a_position_on_the_wrong_side_is_closed_in_full(desk: Any) -> None:
    """On a netting account, a reduction without an answer executed twice and reversed the position."""
    desk.snapshot(1, target(volume="0.4"))
    held = the_one(desk)
    desk.broker.held[held.id] = replace(held, side="SELL", volume=Decimal("0.3"))
    desk.send(2, "REDUCE", target(volume="0.1"))
    desk.settle()

    assert desk.broker.held == {}
    assert (desk.opened, desk.state("t1")) == (1, State.GONE)


def test_of_two_positions_with_one_magic_one_is_kept(desk: Any) -> None:
    """A broker executed an order that it had refused, and the next attempt too."""
    desk.snapshot(1, T1)
    held = the_one(desk)
    desk.broker.held = {"0": replace(held, id="0"), held.id: held}
    desk.wait(1)
    assert the_one(desk) == held

    desk.broker.held["0"] = replace(held, id="0")
    desk.send(2, "CLOSE", T1)
    desk.settle()
    assert desk.broker.held == {}


def test_a_second_position_with_the_magic_of_an_ended_copy_is_closed(desk: Any) -> None:
    desk.snapshot(1, T1)
    held = the_one(desk)
    desk.broker.held = {}
    desk.settle()
    assert desk.state("t1") is State.GONE

    desk.broker.held = {"0": replace(held, id="0")}
    desk.wait(1)
    assert (desk.broker.held, desk.state("t1")) == ({}, State.GONE)


def test_a_clock_that_lags_does_not_make_old_signals_young(desk: Any) -> None:
    """The clock was set back by an hour: a signal delayed by half an hour would have a negative age."""
    desk.snapshot(0)
    desk.now -= 3600 * SECOND
    desk.guard.on_packet(packet(1, desk.now + 1800 * SECOND, "OPEN", T1))

    assert (desk.opened, desk.guard.copies()[0].why) == (0, "missed")


def test_numbers_that_a_restored_desk_reuses_are_not_a_forgery(desk: Any) -> None:
    desk.snapshot(0)
    desk.send(1, "OPEN", T1)
    desk.guard.lost_touch()
    desk.send(1, "OPEN", target("t9"))
    desk.snapshot(1, target("t9"), epoch="2", asked_at=1)
    assert desk.guard.mode is GuardMode.LIVE


def test_numbers_used_twice_during_a_gap_halt_at_the_next_snapshot(desk: Any) -> None:
    desk.snapshot(0)
    desk.send(1, "OPEN", T1)
    desk.guard.lost_touch()
    desk.send(1, "OPEN", target("forged"))
    desk.snapshot(1, T1)
    assert desk.guard.mode is GuardMode.HALT


def test_a_close_from_before_the_desk_went_back_continues(desk: Any) -> None:
    desk.snapshot(1, T1)
    desk.broker.weather = replace(desk.broker.weather, reject=1.0)
    desk.send(2, "CLOSE", T1)
    desk.broker.weather = replace(desk.broker.weather, reject=0.0)
    desk.snapshot(1, T1, asked_at=2)
    assert desk.guard.mode is GuardMode.HOLD

    desk.wait(1)
    assert desk.broker.held == {}


def full(desk: Any) -> None:
    """The disk is full."""
    for what in ("update on main.guard", "insert on main.copy", "update on main.copy"):
        name = what.replace(" ", "_").replace(".", "_")
        desk.guard._store.db.execute(
            f"create temp trigger {name} before {what} begin select raise(fail, 'database or disk is full'); end"
        )


def test_on_a_full_disk_closes_are_sent_and_opens_are_not(desk: Any) -> None:
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


def test_an_order_that_is_refused_for_long_is_sent_less_often(desk: Any) -> None:
    """Over a weekend with a closed market, one request a second would add up to 170 000."""
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


def test_winding_up_closes_all_copies(desk: Any) -> None:
    desk.snapshot(2, T1, T2)
    desk.guard.wind_up()
    desk.settle()

    assert desk.broker.held == {}
    desk.snapshot(2, T1, T2)  # begun again
    assert desk.opened == 2
