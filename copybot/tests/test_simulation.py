"""Publisher, copier and guard in bad weather, by the thousand. A seed that fails is printed, and runs alone as well.

The controls: each of them does one thing that looks reasonable, and the simulation must see what it costs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from copybot import simulate
from copybot.copier import Copier
from copybot.guard import ExecutionGuard
from copybot.naive_policy import NaiveGuard
from copybot.position_sync import PositionSync
from copybot.simulation import WEATHERS, World
from copybot.state_store import State
from copybot.targets import snapshots_of

SCHEDULES = int(os.environ.get("COPYDESK_SCHEDULES", "20000"))
FIRST = int(os.environ.get("SEED", "0"))
ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = {"calm": 0.9, "faulty": 0.65, "hostile": 0.35, "slow": 0.35, "restored": 0.4, "two": 0.55}


@pytest.mark.model
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("weather", WEATHERS)
def test_nothing_is_opened_twice_left_behind_or_brought_back(weather: Any, part: int) -> None:
    share = max(1, SCHEDULES // len(WEATHERS) // 2)
    first = FIRST + part * share
    tally = simulate.run(weather, range(first, first + share))

    assert tally.first is None, f"python -m copybot.simulate --weather {weather} --schedules 1 --seed {tally.first[0]}"
    assert tally.copied > tally.trades * COPIED[weather] or share < 100  # a guard that opens nothing is no guard


def test_a_copy_that_a_restored_desk_cannot_take_up_is_told_in_short() -> None:
    """One in 200,000: its ticket was closed there as one that nobody knew, and it was missing for ever."""
    assert World(1103103, WEATHERS["restored"]).faults() == {}


def test_a_reduction_of_the_life_before_is_not_done_again_by_one_that_lost_its_file() -> None:
    """One in 600,000: the order was under way when the process died, and its file went with it."""
    assert World(1514124, WEATHERS["hostile"]).faults() == {}


class Resends(ExecutionGuard):
    """Takes no answer for a no."""

    def _look_up_order(self, copy: Any) -> None:
        self._mark(copy, State.REJECTED)


class Forgets(ExecutionGuard):
    """Believes that whatever is active and has no position must be opened."""

    def _refusal(self, target: Any) -> str:
        return ""

    def _look_up_order(self, copy: Any) -> None:
        with self._store.durable():
            self._store.do("delete from copy where ref = ?", copy.ref)
            self._store._unfinished = None

    def _give_up(self, target: Any, why: Any) -> None:
        pass


class TakesItsTime(ExecutionGuard):
    """Opens what is active, however old it is."""

    def _refusal(self, target: Any) -> Any:
        return self.why_not(target)


class GoesBack(ExecutionGuard):
    """Follows a desk that went back in time."""

    def on_snapshot(self, snapshot: Any, *, asked_at: Any) -> None:
        with self._store.durable():
            self._store.note(seen=min(self.seen, snapshot.as_of))
        super().on_snapshot(snapshot, asked_at=min(asked_at, snapshot.as_of))


class FollowsHalf(ExecutionGuard):
    """Opens and closes, and overlooks whatever lies between."""

    def _lower(self, target: Any) -> None:
        if not target.volume:
            super()._lower(target)


class TrustsTheStream(Copier):
    """Acts on a snapshot that nobody signed."""

    def on_message(self, message: Any) -> None:
        super().on_message(message)
        if message["type"] == "snapshot":
            for one in self.followed:
                snapshot = snapshots_of(message)[one.strategy]
                one.guard.on_snapshot(snapshot, asked_at=min(one.guard.seen, snapshot.as_of))


class NeedsNoLease(Copier):
    """Opens whoever else does."""

    def _why_not(self, one: Any, target: Any) -> Any:
        return self._why_not_at_the_broker(one, target)


class KeepsToItself(Copier):
    """Tells the desk nothing of what it did not copy."""

    def _report_event(self, followed: Any, event: Any) -> bool:
        return True


class ForgetsCloses(PositionSync):
    """Publishes what is open, and nothing of what is gone."""

    def _reports_of_ended(self, ticket: Any) -> Any:
        return iter(())


PLANTED = [
    ("faulty", {"guard": NaiveGuard}, "doubles"),
    ("hostile", {"guard": Resends}, "doubles"),
    ("hostile", {"guard": Forgets}, "stale"),
    ("hostile", {"guard": TakesItsTime}, "stale"),
    ("restored", {"guard": GoesBack}, "back"),
    ("calm", {"guard": FollowsHalf}, "large"),
    ("hostile", {"copier": TrustsTheStream}, "cut"),
    ("two", {"copier": NeedsNoLease}, "doubles"),
    ("faulty", {"copier": KeepsToItself}, "unexplained"),
    ("calm", {"position_sync": ForgetsCloses}, "unpublished"),
]


@pytest.mark.model
@pytest.mark.parametrize(("weather", "kinds", "fault"), PLANTED, ids=lambda one: getattr(one, "__name__", None))
def test_the_simulation_sees_what_a_mistake_costs(weather: str, kinds: dict[str, Any], fault: str) -> None:
    assert any(World(seed, WEATHERS[weather], **kinds).faults()[fault] for seed in range(400))


def test_a_schedule_is_the_same_each_time() -> None:
    one, other = World(11, WEATHERS["hostile"]), World(11, WEATHERS["hostile"])

    assert (one.crashes, one.market.opens, one.market.held) == (other.crashes, other.market.opens, other.market.held)
    assert (one.desk.sent, one.desk.state.skips) == (other.desk.sent, other.desk.state.skips)
    assert World(12, WEATHERS["hostile"]).desk.sent != one.desk.sent


def test_the_schedules_are_shared_out_whole() -> None:
    shared = [(weather, seed) for weather, seeds in simulate.portions(5, 131, ["a", "b"]) for seed in seeds]

    assert shared == [*(("a", seed) for seed in range(5, 71)), *(("b", seed) for seed in range(5, 70))]


def ran(*options: Any) -> Any:
    command = [sys.executable, "-m", "copybot.simulate", "--weather", "hostile", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_command_passes_the_guard_and_not_the_documents_rule() -> None:
    good = ran("--schedules", "20", "--processes", "1")
    assert good.returncode == 0, good.stdout + good.stderr

    bad = ran("--schedules", "60", "--processes", "2", "--policy", "documents")
    assert bad.returncode == 1
    again = bad.stdout.splitlines()[-1].partition("Again: python -m copybot.simulate ")[2].split()
    alone = ran(*again)
    assert alone.returncode == 1
    assert json.dumps(alone.stdout.splitlines()[-1]) == json.dumps(bad.stdout.splitlines()[-1])
