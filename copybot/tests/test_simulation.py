"""The real guard in bad weather, a thousand times over. A seed that fails is printed, and runs alone the same way."""

import os

import pytest

from copybot.books import State
from copybot.guard import ExecutionGuard
from copybot.tests import simulation
from copybot.tests.simulation import World

SCHEDULES = int(os.environ.get("COPYDESK_SCHEDULES", os.environ.get("COPYDESK_EXAMPLES", "400")))
FIRST = int(os.environ.get("SEED", "0"))
WEATHERS = {name: getattr(simulation, name) for name in ("CALM", "FAULTY", "HOSTILE", "SLOW")}


class Resends(ExecutionGuard):
    """Takes no answer for a no."""

    def _find_out(self, copy):
        self._mark(copy, State.REJECTED)


class Forgets(ExecutionGuard):
    """Believes that whatever is active and has no position must be opened, as the first documents did."""

    def _refusal(self, target):
        return ""

    def _find_out(self, copy):
        with self._books.durable():
            self._books.do("delete from copy where ref = ?", copy.ref)

    def _give_up(self, target, why):
        pass


@pytest.mark.model
@pytest.mark.parametrize("weather", WEATHERS)
def test_nothing_is_opened_twice_left_behind_or_brought_back(weather):
    trades = copied = 0
    for seed in range(FIRST, FIRST + SCHEDULES):
        world = World(seed, WEATHERS[weather])
        found = world.doubled, world.orphans, world.astray, world.short
        assert world.faults == 0, f"SEED={seed}: {found}"
        trades, copied = trades + world.trades, copied + world.copied
    assert copied > trades * 0.3  # a guard that opens nothing is no guard
    assert weather != "CALM" or copied > trades * 0.85


@pytest.mark.model
@pytest.mark.parametrize("policy", [Resends, Forgets])
def test_the_simulation_finds_a_guard_that_is_none(policy):
    """The control: each of these opens trades twice, or brings closed ones back."""
    worlds = [World(seed, simulation.HOSTILE, policy) for seed in range(40)]

    assert sum(world.doubled for world in worlds) > 0


def test_a_schedule_is_the_same_each_time():
    one, other = World(11, simulation.HOSTILE), World(11, simulation.HOSTILE)

    assert (one.crashes, one.broker.opens, one.broker.held) == (other.crashes, other.broker.opens, other.broker.held)
    assert World(12, simulation.HOSTILE).broker.opens != one.broker.opens
