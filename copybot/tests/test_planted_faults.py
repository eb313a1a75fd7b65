"""What copying bots did wrong at real brokers, planted one by one: the simulation must see each of them.

Each plant is what a bot did before, or what seems reasonable. The real bots pass the same schedules.
"""

from decimal import Decimal
from typing import Any

import pytest

from copybot import server_clock
from copybot.absences import Absences, Verdict
from copybot.broker import Outcome, Position, Result, SymbolSpec, Trace
from copybot.copier import Copier
from copybot.guard import ExecutionGuard
from copybot.netting import Netting
from copybot.position_driver import PositionDriver
from copybot.position_sync import PositionSync
from copybot.simulation import WEATHERS, World
from copybot.state_store import Copy, State
from copybot.targets import SnapshotRefused

SCHEDULES = 150


class Over:
    """A terminal over another one; what it does not define passes through."""

    def __init__(self, terminal: Any, **_: Any) -> None:
        self.terminal = terminal

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


class Guard(ExecutionGuard):
    """A guard whose driver or judge of absences is planted."""

    driver: type[PositionDriver] = PositionDriver
    absences: type[Absences] = Absences

    def __post_init__(self) -> None:
        super().__post_init__()
        self._driver = self.driver(self.broker, self._store, self.clock_ms, self.index)
        self._absences = self.absences(self.broker, self.clock_ms, self._driver.is_settled)


# --- limits for new orders, applied to what is held


class FitsToLimits(PositionDriver):
    """Rounds the target to the symbol's present step, smallest and largest volume."""

    def _follow_volume(self, copy: Copy, position: Position, spec: SymbolSpec | None, limits: Any) -> bool:
        volume = copy.volume if spec is None else spec.lots(copy.volume)
        if not volume:
            self.close(position)
        elif position.volume > volume:
            self._reduce(copy, position, position.volume - volume, limits)
        return bool(volume)


class ClosesInOneOrder(Over):
    """Sends the whole close as one order, however large."""

    def close(self, position: Position, volume: Decimal) -> Result:
        result: Result = self.terminal._close(position, volume)
        return result


class ClosesBelowTheLeast(PositionDriver):
    """Closes a copy wholly where a part of it is too small for an order."""

    def _note_kept(self, copy: Copy, position: Position, *, is_above: bool) -> None:
        if is_above:
            self.close(position)


# --- books that are behind


class GivesUpAtOnce(Absences):
    """Takes a copy for gone when the list of positions lacks it."""

    def judge(self, copy: Copy, limits: Any) -> Verdict | None:
        if copy.state is State.HELD:
            return Verdict(State.GONE, "closed", "") if self.is_settled() else None
        return super().judge(copy, limits)


class GivesUpAsLost(Absences):
    """Reports a copy as lost when the books show nothing of it at once."""

    def judge(self, copy: Copy, limits: Any) -> Verdict | None:
        is_shown = copy.position or self.broker.trace(copy.magic) is not Trace.NONE
        return super().judge(copy, limits) if is_shown else Verdict(State.DEAD, "skipped", "lost")


class ReducesAgain(PositionDriver):
    """Takes an answer DONE for the end of a reduction."""

    def _reduce(self, copy: Copy, position: Position, volume: Decimal, limits: Any) -> None:
        self._take_off(position, volume)


# --- orders that wait


class CancelsNothing(Absences):
    """Leaves an order in the broker's queue although its trade is over."""

    def _cancel_if_unwanted(self, copy: Copy, limits: Any) -> None:
        return None


class KnowsNoQueue(PositionDriver):
    """Sends a reduction again while the first one waits for the market to open."""

    def _is_waiting(self, copy: Copy, now: int) -> bool:
        return False


# --- stops


class ModifiesAllOrNothing(Over):
    """Sets both stops or none."""

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        accepts = self.terminal.accepts
        if accepts(position.side, "sl", sl) and accepts(position.side, "tp", tp):
            result: Result = self.terminal.modify(position, sl=sl, tp=tp)
            return result
        return Result(Outcome.REJECTED, 10016, "rejected")


class SetsStopsAtTheOpenOnly(PositionDriver):
    """Trusts that the open has set the stops."""

    def _move_stops(self, position: Position, *_: Any) -> None:
        pass


# --- accounts


class ReadsOwnTradesAsTargets(Copier):
    """Cannot read a snapshot with a trade of the account's own."""

    def _take_snapshot(self) -> int:
        if any(row["role"] == "master" and row["copy"] is None for row in self.desk.active()["trades"]):
            raise SnapshotRefused("a trade has no copy")
        return super()._take_snapshot()


class ClosesItsOwnPosition(Over):
    """Closes each copy by its own position, also where the broker closes oldest first."""


class KnowsNoBookings(Over):
    """Takes a rollover or a split for a close and an open."""


class KnowsNoCopies(PositionSync):
    """Publishes every position of the account, copies too."""

    def _is_foreign(self, magic: int) -> bool:
        return False


class WaitsForTheDeal(Netting):
    """Takes a copy for open until the broker shows the deal of its close."""

    def _assume(self, *_: Any) -> bool:
        return False


class SendsTheCloseAgain(WaitsForTheDeal):
    """Sends a close again if its deal does not come, whatever the net position says."""

    def _doubt(self, *_: Any) -> Decimal:
        return Decimal(0)


# --- rows at the desk


class ReportsByDealsOnly(Copier):
    """Gives a copy no row without its deals."""

    def _new_position_sync(self) -> PositionSync:
        position_sync: Any = super()._new_position_sync()
        position_sync._opening_by_list = lambda held: iter(())
        return position_sync


class ReportsWhatIsThere(Copier):
    """Reports a copy as soon as it is seen, although a part of its order may still be executed."""

    def _copied_trade(self, position: Position) -> Any:
        copy = self.followed[0].guard.by_magic(position.magic)
        return None if copy is None else {"strategy": self.followed[0].strategy, "trade_ref": copy.ref}


# --- the publisher


class WaitsForQuiet(PositionSync):
    """Publishes a close once no deal has come for a while."""

    def _closed_trades(self, position_id: str) -> Any:
        return super()._closed_trades(position_id) if self.terminal.is_settled() else []


class WaitsForEver(PositionSync):
    """Publishes no close without its deals."""

    def __post_init__(self) -> None:
        self.longest_wait_ms = 10**12
        super().__post_init__()


def guard(**parts: Any) -> Any:
    return {"guard": type("Planted", (Guard,), parts)}


def over(kind: Any) -> Any:
    """The copier's terminal, wrapped."""
    return {"copier": lambda desk, terminal, *rest, **more: Copier(desk, kind(terminal), *rest, **more)}


PLANTS: Any = [
    ("fits_to_limits", ("new_lots",), guard(driver=FitsToLimits), "unasked"),
    ("closes_in_one_order", ("largest",), over(ClosesInOneOrder), "late_close"),
    ("closes_below_the_least", ("new_lots",), guard(driver=ClosesBelowTheLeast), "unasked"),
    ("gives_up_at_once", ("lagging", "few_copies"), guard(absences=GivesUpAtOnce), "too_many"),
    ("gives_up_as_lost", ("lagging",), guard(absences=GivesUpAsLost), "contradicted"),
    ("reduces_again", ("lagging",), guard(driver=ReducesAgain), "unasked"),
    ("cancels_nothing", ("weekend",), guard(absences=CancelsNothing), "late_cancel"),
    ("knows_no_queue", ("weekend",), guard(driver=KnowsNoQueue), "unasked"),
    ("modifies_all_or_nothing", ("other_feed",), over(ModifiesAllOrNothing), "stops"),
    ("sets_stops_at_the_open_only", ("two_step",), guard(driver=SetsStopsAtTheOpenOnly), "stops"),
    ("reads_own_trades_as_targets", ("leading",), {"copier": ReadsOwnTradesAsTargets}, "late_close"),
    ("closes_its_own_position", ("fifo",), {"fifo": ClosesItsOwnPosition}, "late_close"),
    ("knows_no_bookings", ("rebooking",), {"rebooked": KnowsNoBookings}, "unpublished"),
    ("knows_no_copies", ("leading",), {"position_sync": KnowsNoCopies}, "echoed"),
    ("waits_for_the_deal", ("netting", "hiding"), {"netting": WaitsForTheDeal}, "late_row"),
    ("sends_the_close_again", ("netting", "hiding"), {"netting": SendsTheCloseAgain}, "orphans"),
    ("reports_by_deals_only", ("hiding",), {"copier": ReportsByDealsOnly}, "untold"),
    ("reports_what_is_there", ("fifo", "largest"), {"copier": ReportsWhatIsThere}, "untold"),
    ("waits_for_quiet", ("quiet",), {"position_sync": WaitsForQuiet}, "late_publish"),
    ("waits_for_ever", ("hiding",), {"position_sync": WaitsForEver}, "unpublished"),
]


@pytest.mark.model
@pytest.mark.parametrize(("traits", "plant", "loss"), [row[1:] for row in PLANTS], ids=[row[0] for row in PLANTS])
def test_a_planted_fault_is_counted(traits: tuple[str, ...], plant: dict[str, Any], loss: str) -> None:
    weather = WEATHERS["faulty"]
    seed = next(
        (seed for seed in range(SCHEDULES) if World(seed, weather, traits=traits, **plant).faults()[loss]), None
    )

    assert seed is not None
    assert World(seed, weather, traits=traits).faults() == {}


@pytest.mark.model
def test_a_publisher_that_takes_a_repeated_hour_for_the_present_one_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from copybot import position_sync

    worlds = lambda: (World(seed, WEATHERS["faulty"], traits=("clock",)) for seed in range(SCHEDULES))  # noqa: E731
    assert not any(world.faults() for world in worlds())

    assert position_sync.is_repeated is server_clock.is_repeated
    monkeypatch.setattr(position_sync, "is_repeated", lambda at_ms: False)
    assert any(world.faults()["late_open"] for world in worlds())
