"""How a held copy follows its target under a broker's limits, and what a person is told where it cannot."""

import itertools
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Outcome, Result, SymbolSpec, Trace
from copybot.position_targets import volume_to_close
from copybot.state_store import State
from copybot.tests.guard_fixtures import LIMITS
from copybot.tests.guard_harness import T1, Desk, target

D = Decimal


def spec(step: str = "0.01", least: str = "0.01", most: str = "500") -> SymbolSpec:
    return SymbolSpec(D("0.00001"), D(least), D(step), D(most), D(100_000))


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    """A running guard at a broker with steps of 0.01 lots, after a snapshot without trades."""
    harness = Desk(tmp_path)
    harness.broker.spec = lambda symbol: spec()
    harness.snapshot(0)
    yield harness
    harness.guard.close()


def closes(desk: Any) -> list[Decimal]:
    """Record the volumes of the orders that close."""
    sent: list[Decimal] = []
    real = desk.broker.close
    desk.broker.close = lambda position, volume: (sent.append(volume), real(position, volume))[1]
    return sent


def kinds(desk: Any) -> list[str]:
    return [finding.kind for finding in desk.guard.findings()]


@pytest.mark.parametrize(
    ("held", "target_volume", "limits", "closed"),
    [
        ("0.10", "0.10", spec(), "0"),
        ("0.10", "0.25", spec(), "0"),  # a copy never grows
        ("0.12", "0.0645", spec(), "0.06"),  # rounded up: no more than the target remains
        ("0.25", "0.12", spec("0.1", "0.1"), "0.2"),
        ("0.05", "0.02", spec("0.1", "0.1"), "0"),  # off the present step: it cannot be reduced
        ("0.01", "0.009", spec(), "0"),  # the least lot
        ("0.12", "0.005", spec(), "0.11"),  # rounded up it would close all
        ("0.25", "0.24", spec("0.01", "0.10"), "0"),  # below the smallest order
        ("0.25", "0.15", spec("0.01", "0.10"), "0.10"),
        ("3.00", "1.00", spec(most="1"), "2.00"),  # the adapter sends it in pieces
        ("0.05", "0", spec("0.1", "0.1"), "0.05"),  # a full close is what the broker shows
        ("0.05", "0.02", None, "0.03"),
        ("0.005", "0.002", spec("0.001", "0.001"), "0.003"),
        ("0.33333333", "0.16666667", spec("0.001", "0.001"), "0.167"),
        ("0.00000003", "0.00000001", spec("0.00000001", "0.00000001"), "0.00000002"),
        ("0.05", "0.02", spec("0", "0"), "0.03"),  # a terminal that has not loaded the symbol
    ],
)
def test_the_target_alone_decides_how_much_is_held(held: str, target_volume: str, limits: Any, closed: str) -> None:
    assert volume_to_close(D(held), D(target_volume), limits) == D(closed)


@pytest.mark.parametrize("volume", ["0.05", "0.25", "3.00"])
@pytest.mark.parametrize(
    ("step", "least", "most"), [("0.1", "0.1", "500"), ("0.01", "0.1", "500"), ("0.01", "0.01", "1")]
)
def test_limits_that_change_leave_a_held_copy_as_it_is(
    desk: Any, volume: str, step: str, least: str, most: str
) -> None:
    desk.send(1, "OPEN", target(volume=volume))
    sent = closes(desk)
    desk.broker.spec = lambda symbol: spec(step, least, most)
    desk.settle()
    assert desk.volumes == [D(volume)]

    desk.send(2, "CLOSE", T1)
    assert (desk.volumes, sent) == ([], [D(volume)])


def test_a_close_does_not_need_the_symbols_conditions(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.broker.spec = lambda symbol: 1 / 0
    desk.send(2, "CLOSE", T1)

    assert desk.volumes == []


def test_a_partial_close_leaves_the_least_lot_until_the_provider_is_out(desk: Any) -> None:
    small = target(volume="0.01")
    desk.send(1, "OPEN", small)
    desk.send(2, "REDUCE", replace(small, volume=D("0.009")))
    desk.settle()
    assert desk.volumes == [D("0.01")]
    (finding,) = desk.guard.findings()
    (position,) = desk.broker.held
    assert (finding.kind, finding.ticket, finding.ref) == ("kept_above_target", position, "t1")
    assert "0.01 lots" in finding.words

    desk.send(3, "CLOSE", small)
    desk.guard.tick()
    assert (desk.volumes, desk.guard.findings()) == ([], [])


def test_a_copy_that_stays_above_its_target_still_gets_its_stops(desk: Any) -> None:
    small = target(volume="0.01")
    desk.send(1, "OPEN", small)
    desk.send(2, "REDUCE", replace(small, volume=D("0.009"), sl=D("1.05")))

    (position,) = desk.broker.held.values()
    assert (position.volume, position.sl) == (D("0.01"), D("1.05"))


def test_by_setting_a_partial_close_below_the_least_lot_closes_the_copy_and_reports_why(desk: Any) -> None:
    desk.guard.limits = replace(LIMITS, closes_below_least=True)
    small = target(volume="0.01")
    desk.send(1, "OPEN", small)
    desk.send(2, "REDUCE", replace(small, volume=D("0.009")))
    desk.settle()
    assert (desk.volumes, desk.state("t1")) == ([], State.GONE)
    assert [(event.event, event.why) for event in desk.guard.outbox()] == [
        ("opened", ""), ("skipped", "volume_too_small"), ("closed", "volume_too_small"),
    ]  # fmt: skip

    desk.snapshot(2, small)  # it is not opened again
    assert desk.opened == 1


def test_a_copy_given_up_below_the_least_lot_is_closed_also_after_the_limits_return(desk: Any) -> None:
    desk.guard.limits = replace(LIMITS, closes_below_least=True)
    small = target(volume="0.01")
    desk.send(1, "OPEN", small)
    real = desk.broker.close
    desk.broker.close = lambda position, volume: Result(Outcome.REJECTED, 10018, "market_closed")
    desk.send(2, "REDUCE", replace(small, volume=D("0.009")))
    assert desk.volumes == [D("0.01")]

    desk.broker.close, desk.guard.limits = real, LIMITS
    desk.settle()
    assert desk.volumes == []


def test_a_copy_whose_symbol_the_broker_renamed_is_reduced_by_the_new_ones_steps(desk: Any) -> None:
    desk.send(1, "OPEN", target(volume="0.25"))
    (position,) = desk.broker.held.values()
    desk.broker.held[position.id] = replace(position, symbol="EURUSD.r")
    desk.broker.symbol = "EURUSD.r"
    desk.broker.spec = lambda symbol: spec("0.1", "0.1") if symbol == "EURUSD.r" else None
    sent = closes(desk)
    desk.send(2, "REDUCE", target(volume="0.12"))

    assert sent == [D("0.2")]


# --- closes that the broker refuses


def refusing(desk: Any, result: Result) -> list[int]:
    """Have the broker refuse all closes; the times at which they were sent."""
    sent: list[int] = []
    desk.broker.close = lambda position, volume: (sent.append(desk.now), result)[1]
    return sent


@pytest.mark.parametrize(
    ("code", "why", "kind", "most", "longest"),
    [
        (10018, "market_closed", "market_closed", 300, 15),
        (10006, "rejected", "close_refused", 300, 15),
        (10045, "rejected", "fifo", 80, 60),
        (10038, "rejected", "close_refused", 80, 60),
    ],
)
def test_a_close_is_repeated_for_ever_and_reported_with_the_code(
    desk: Any, code: int, why: str, kind: str, most: int, longest: int
) -> None:
    desk.send(1, "OPEN", T1)
    (position,) = desk.broker.held
    real, sent = desk.broker.close, refusing(desk, Result(Outcome.REJECTED, code, why))
    desk.send(2, "CLOSE", T1)
    assert desk.guard.findings() == []
    for _ in range(3600):
        desk.wait(1)
    assert len(sent) < most
    assert max(after - before for before, after in itertools.pairwise(sent)) <= longest * 1000
    (finding,) = desk.guard.findings()
    assert (finding.kind, finding.ticket, finding.ref) == (kind, position, "t1")
    assert str(code) in finding.words

    desk.broker.close = real
    for _ in range(longest):
        desk.wait(1)
    assert (desk.volumes, desk.guard.findings()) == ([], [])


def test_a_close_that_was_held_up_before_it_was_sent_does_not_wait_longer(desk: Any) -> None:
    """As on a netting account while the deals of the last close are still to come."""
    desk.send(1, "OPEN", T1)
    real, sent = desk.broker.close, refusing(desk, Result(Outcome.UNKNOWN))
    desk.send(2, "CLOSE", T1)
    for _ in range(60):
        desk.wait(1)
    assert len(sent) >= 60

    desk.broker.close = real
    desk.wait(1)
    assert desk.volumes == []


def test_a_close_that_a_fifo_account_refused_is_sent_as_soon_as_the_older_position_is_gone(desk: Any) -> None:
    older, newer = target("t1"), target("t2", seq=2)
    desk.send(1, "OPEN", older)
    desk.send(2, "OPEN", newer)
    first, _ = desk.broker.held
    real = desk.broker.close

    def fifo(position: Any, volume: Any) -> Any:
        if position.id != first and first in desk.broker.held:
            return Result(Outcome.REJECTED, 10045, "rejected")
        return real(position, volume)

    desk.broker.close = fifo
    desk.send(3, "CLOSE", newer)
    for _ in range(600):
        desk.wait(1)
    assert len(desk.volumes) == 2

    desk.send(4, "CLOSE", older)
    desk.wait(1)
    assert desk.volumes == []


@pytest.mark.parametrize(("code", "longest"), [(10012, 15), (10008, 60), (10039, 60)])
def test_a_close_without_an_answer_is_repeated_less_and_less_often_and_is_no_refusal(
    desk: Any, code: int, longest: int
) -> None:
    """A broker that queues orders at a weekend would else have thousands of the same close on Monday."""
    desk.send(1, "OPEN", T1)
    real, sent = desk.broker.close, refusing(desk, Result(Outcome.UNKNOWN, code))
    desk.send(2, "CLOSE", T1)
    for _ in range(3600):
        desk.wait(1)
    assert 3600 / longest < len(sent) < 4500 / longest
    assert desk.guard.findings() == []

    desk.broker.close = real
    for _ in range(longest):
        desk.wait(1)
    assert desk.volumes == []


# --- stops


def test_a_position_without_its_stops_gets_them_as_soon_as_it_is_seen(desk: Any) -> None:
    """At a broker that takes no stops with an open."""
    real = desk.broker.open
    desk.broker.open = lambda **order: real(**order | {"sl": None, "tp": None})
    desk.send(1, "OPEN", target(sl=D("1.05"), tp=D("1.20")))

    (position,) = desk.broker.held.values()
    assert (position.sl, position.tp) == (D("1.05"), D("1.20"))


def test_a_stop_that_the_broker_has_not_set_for_ten_seconds_is_reported(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    (position,) = desk.broker.held
    real = desk.broker.modify
    refusal = Result(Outcome.REJECTED, 10016, "stop_passed")
    desk.broker.modify = lambda held, *, sl, tp: (real(held, sl=sl, tp=None), refusal)[1]
    desk.send(2, "MODIFY", target(sl=D("1.05"), tp=D("1.2000")))
    desk.wait(9)
    assert desk.guard.findings() == []
    assert desk.broker.held[position].sl == D("1.05")  # one stop does not hinder the other

    desk.wait(1)
    (finding,) = desk.guard.findings()
    assert (finding.kind, finding.ticket, finding.ref) == ("stop_refused", position, "t1")
    assert "10016 stop_passed" in finding.words
    desk.broker.modify = real
    desk.wait(15)
    desk.wait(1)
    assert desk.guard.findings() == []
    assert desk.broker.held[position].tp == D("1.2000")


def test_new_stops_do_not_wait_for_the_refused_ones(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real = desk.broker.modify
    desk.broker.modify = lambda held, **stops: Result(Outcome.REJECTED, 10016, "rejected")
    desk.send(2, "MODIFY", target(sl=D("1.0999")))
    desk.broker.modify = real
    desk.send(3, "MODIFY", target(sl=D("1.0900")))

    (position,) = desk.broker.held.values()
    assert position.sl == D("1.0900")


@pytest.mark.parametrize("stops", [(None, None), (D("1.0500"), None), (D("1.0500"), D("1.2000"))])
def test_by_setting_stops_keep_the_providers_distance(desk: Any, stops: Any) -> None:
    """Here the price is 15 points of an index higher, say: the provider opened at 1.0950."""
    desk.guard.limits = replace(LIMITS, stops="distance")
    sent: list[Any] = []
    real = desk.broker.open
    desk.broker.open = lambda **order: (sent.append((order["sl"], order["tp"])), real(**order))[1]
    wanted = replace(target(sl=stops[0], tp=stops[1]), price=D("1.0950"))
    desk.snapshot(1, wanted)
    (position,) = desk.broker.held.values()
    shift = position.open_price - D("1.0950")

    assert sent == [(None, None)]  # the open price is not known yet
    assert (position.sl, position.tp) == tuple(stop and stop + shift for stop in stops)
    desk.snapshot(2, replace(wanted, sl=D("1.0600")))
    (position,) = desk.broker.held.values()
    assert position.sl == D("1.0600") + shift


def test_a_reduction_that_waits_over_a_weekend_is_not_sent_again(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    waiting: list[Decimal] = []
    trace = desk.broker.trace
    desk.broker.close = lambda position, volume: (waiting.append(volume), Result(Outcome.UNKNOWN, 10008))[1]
    desk.broker.trace = lambda magic: Trace.WAITING if waiting else trace(magic)
    desk.send(2, "REDUCE", target(volume="0.50"))
    desk.wait(10)
    desk.start()  # a process that starts anew does not know of the order, but its broker does
    desk.wait(48 * 3_600)
    assert waiting == [D("0.50")]

    del desk.broker.close
    desk.broker.close(next(iter(desk.broker.held.values())), waiting.pop())
    desk.settle()
    assert desk.volumes == [D("0.50")]


@pytest.mark.parametrize("back_s", [3_600, 365 * 86_400])
def test_after_a_clock_was_set_back_a_reduction_without_an_answer_is_sent_again(desk: Any, back_s: int) -> None:
    """The desk's time is not known before its first answer, and the machine's clock may be far ahead of it."""
    desk.now += back_s * 1000
    desk.send(1, "OPEN", target(born_ms=desk.now))
    real = desk.broker.close
    desk.broker.close = lambda position, volume: Result(Outcome.UNKNOWN, 10012)
    desk.send(2, "REDUCE", target(volume="0.50", born_ms=desk.now))
    desk.broker.close = real
    desk.now -= back_s * 1000
    desk.guard.tick()
    assert desk.volumes == [D("1.0")]  # the order may still be executed

    desk.settle()
    assert desk.volumes == [D("0.5")]


def test_after_a_clock_was_set_back_a_mass_close_is_confirmed_all_the_same(desk: Any) -> None:
    trades = [target(f"t{number}", seq=number) for number in range(1, 9)]
    desk.snapshot(8, *trades)
    assert len(desk.volumes) == 8

    desk.now += 3_600_000
    desk.snapshot(9)
    assert len(desk.volumes) == 8
    desk.now -= 3_590_000
    desk.snapshot(10)
    assert desk.volumes == []


@pytest.mark.parametrize("fault", ["step", "tick"])
def test_conditions_that_make_no_sense_refuse_an_open_and_nothing_else(desk: Any, fault: str) -> None:
    broken = {"step": replace(spec(), volume_step=D(0)), "tick": replace(spec(), tick=D(0))}[fault]
    desk.broker.spec = lambda symbol: broken
    desk.send(1, "OPEN", target(sl=D("1.05")))
    desk.settle()

    assert (desk.state("t1"), desk.opened) == (State.DEAD, 0)
    assert [(event.event, event.why) for event in desk.guard.outbox()] == [("skipped", "rejected")]


def test_a_missing_stop_is_told_although_the_clock_was_set_back(desk: Any) -> None:
    desk.broker.modify = lambda position, **stops: Result(Outcome.REJECTED, 10016, "rejected")
    desk.send(1, "OPEN", T1)
    desk.send(2, "MODIFY", target(sl=D("1.05")))
    desk.now -= 3_600_000
    desk.settle()
    assert kinds(desk) == ["stop_refused"]
