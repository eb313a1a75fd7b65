"""How a held copy follows its target under a broker's limits, and what a person is told where it cannot."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Outcome, Result, SymbolSpec
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
