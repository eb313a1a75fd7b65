"""A provider's positions at the desk: each trade opens once and closes once, with its profit, whichever call fails."""

import itertools
import secrets
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from copybot.errors import KeyRefused, OpensRefused
from copybot.position_sync import PositionSync
from copybot.publisher import Publisher
from copybot.tests.publisher_harness import SECOND, Crash, Desk, World


def day(world: Any) -> Any:
    """A trade with stops, a partial close and a target; one closed at its stop; one that stays."""
    terminal = world.terminal
    terminal.open("1", "1.0", "1.1", fee="-3.5")
    terminal.stops("1", "1.09")
    world.sync()
    terminal.open("2", "0.3", "1.2", side="SELL")
    world.sync()
    terminal.stops("1", "1.095", "1.12")
    world.sync()
    terminal.close("1", "0.4", "1.105", "20")
    terminal.stops("1", "1.1")
    terminal.close("2", "0.3", "1.21", "-30", reason="SL")
    world.sync()
    terminal.stops("1", "1.095", "1.12")  # as it was before: a change of its own
    terminal.open("3", "0.2", "1.3")
    world.sync()
    terminal.close("1", "0.1", "1.11", "10")
    terminal.close("1", "0.2", "1.112", "24")
    terminal.close("1", "0.3", "1.12", "60", reason="TP")
    return world.settle()


def assert_told_once(world: Any) -> None:
    desk = world.desk
    assert list(desk.active_rows) == ["3"]
    assert desk.zombies == 0  # the desk would hold it against the provider
    for ticket in "123":
        assert desk.times("open", ticket) == 1, desk.log
    assert (desk.times("close", "1"), desk.times("close", "2"), desk.times("reduce", "1")) == (1, 1, 3)
    assert desk.profit("1") == Decimal("110.5")
    assert desk.profit("2") == -30
    assert (desk.closed["1"]["close_price"], desk.closed["1"]["reason"]) == ("1.12000000", "TP")
    assert desk.closed["2"]["reason"] == "SL"


CALLS = day(World()).calls


def test_a_day_of_trading_is_reported_as_it_happened() -> None:
    world = day(World())

    assert_told_once(world)
    assert [entry[1:] for entry in world.desk.log if entry[0] == "reduce"] == [
        ("1", "0.60000000"), ("1", "0.50000000"), ("1", "0.30000000"),
    ]  # fmt: skip
    assert [entry[2] for entry in world.desk.log if entry[0] == "modify"] == ["1.09500000", "1.10000000", "1.09500000"]


@pytest.mark.parametrize("fault", [Crash, ConnectionError])
def test_each_trade_is_reported_once_whichever_call_fails(fault: Any) -> None:
    assert CALLS > 30
    for dies_at in range(1, CALLS + 1):
        assert_told_once(day(World(dies_at, fault)))


class Restless(World):
    """Dies over and over."""

    def point(self) -> None:
        self.calls += 1
        if self.calls % self.dies_at == 0:
            raise self.fault


@pytest.mark.parametrize("every", [11, 13, 17, 19])
def test_a_process_that_crashes_repeatedly_reports_the_same(every: int) -> None:
    world = day(Restless(every))
    for _ in range(20):
        world.sync()

    assert_told_once(world)


class Forgetful(PositionSync):
    """The control: gives each report a new idempotency key."""

    def _send(self, report: Any, key: Any) -> Any:
        return super()._send(report, f"{report.verb}-{secrets.token_hex(12)}")


def doubled(kind: Any) -> int:
    """The number of crash points that open a trade twice at a desk that does not check tickets."""
    doubles = 0
    for dies_at in range(1, CALLS + 1):
        world = World(dies_at, ConnectionError, kind)
        world.desk.active = lambda: {"trades": []} if world.calls < dies_at + 3 else Desk.active(world.desk)  # noqa: B023
        world.desk._open = _opens_anyway(world.desk)
        day(world)
        doubles += any(world.desk.times("open", ticket) > 1 for ticket in "123")
    return doubles


def _opens_anyway(desk: Any) -> Callable[..., Any]:
    def opened(ticket: Any, fields: Any) -> Any:
        return 201, desk._told("open", ticket, {"role": "master", "sl": None, "tp": None, **fields}, fields["volume"])

    return opened


def test_a_repeat_has_the_same_key_and_one_effect() -> None:
    assert doubled(PositionSync) == 0
    assert doubled(Forgetful) > 0


def test_closes_are_reported_before_opens() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    world.terminal.open("2", "1", "1.2")
    world.sync()

    assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("close", "1"), ("open", "2")]


@pytest.mark.parametrize(("side", "sl", "tp"), [("BUY", "1.15", "1.3"), ("SELL", "1.05", "1.0")])
def test_a_stop_that_was_moved_into_profit_before_the_publisher_looked_follows_the_open(
    side: str, sl: str, tp: str
) -> None:
    """The desk refuses an open whose stop is past its price."""
    world = World()
    world.terminal.open("1", "1", "1.1", side=side)
    world.terminal.stops("1", sl, tp)

    world.sync()
    world.sync()

    assert [entry[0] for entry in world.desk.log] == ["open", "modify"]
    row = world.desk.active_rows["1"]
    assert (Decimal(row["sl"]), Decimal(row["tp"])) == (Decimal(sl), Decimal(tp))


def test_an_unchanged_state_sends_nothing() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.stops("1", "1.0")
    world.terminal.close("1", "0.4", "1.2", "5")
    world.sync()
    asked = world.desk.asked
    world.settle()
    world.position_sync = world.fresh()
    world.settle()

    assert world.desk.asked == asked


def test_the_row_of_an_excluded_position_stays_until_the_position_ends() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.position_sync.of = lambda _: None
    world.settle()
    assert (list(world.desk.active_rows), world.position_sync.findings) == (["1"], {})

    world.terminal.close("1", "1", "1.2", "5")
    world.settle()
    assert list(world.desk.closed) == ["1"]


def test_a_trade_closed_by_staff_is_an_alarm_and_not_reopened() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.desk._close("1", {"close_price": "1.15", "profit": "0", "reason": "STAFF"})
    for restarted in (False, True):
        if restarted:
            world.position_sync = world.fresh()
        world.sync(20 * SECOND)
        world.sync(20 * SECOND)
        assert world.position_sync.findings["1"].kind == "zombie"
    assert world.desk.times("open", "1") == 1
    assert world.desk.zombies == 0


def test_trades_that_a_restored_desk_forgot_are_published_again_unless_closed() -> None:
    world = World(max_age_ms=60_000)
    for ticket in "12":
        world.terminal.open(ticket, "0.3", "1.1")
        world.sync()
    world.sync(after_ms=3_600_000)
    world.desk.active_rows, world.desk.kept = {}, {}
    world.desk.closed["2"] = {}
    world.sync(after_ms=20_000)
    assert world.position_sync.findings["1"].kind == "zombie"  # by the same desk it was closed

    world.desk.epoch = "2"
    world.sync(after_ms=20_000)
    world.sync(after_ms=20_000)
    assert list(world.desk.active_rows) == ["1"]
    assert world.position_sync.findings["2"].kind == "zombie"
    assert world.desk.zombies == 0


def test_the_first_close_stands() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.desk._close("1", {"close_price": "1.15", "profit": "0", "reason": "STAFF"})
    world.terminal.close("1", "1", "1.2", "5")
    world.settle()

    assert world.desk.closed["1"]["reason"] == "STAFF"
    assert world.position_sync.counts["conflict"] == 1
    assert world.position_sync.findings == {}


def test_a_close_only_strategy_is_retried_slowly_under_another_key() -> None:
    world = World()
    world.desk.status = "CLOSE_ONLY"
    world.terminal.open("1", "1", "1.1")
    for _ in range(20):
        world.sync()
    assert sum(key.startswith("open-") for key in world.desk.kept) == 1
    assert world.position_sync.findings["1"].words == "the desk refused the open: strategy_close_only"

    world.desk.status = "ACTIVE"
    world.sync(31 * SECOND)
    assert list(world.desk.active_rows) == ["1"]
    world.sync()
    assert world.position_sync.findings == {}


def test_one_refused_report_does_not_hold_up_the_others() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.terminal.open("2", "1", "1.1")
    world.sync()
    real = world.desk._close
    world.desk._close = lambda ticket, fields: (422, {"code": "invalid"}) if ticket == "1" else real(ticket, fields)
    world.terminal.close("1", "1", "1.2", "5")
    world.terminal.close("2", "1", "1.2", "5")
    world.sync()

    assert list(world.desk.active_rows) == ["1"]


def test_a_refused_key_is_not_blamed_on_a_trade() -> None:
    world = World()
    world.desk._open = lambda ticket, fields: (401, {"code": "key_revoked"})
    world.terminal.open("1", "1", "1.1")

    with pytest.raises(KeyRefused, match="key_revoked"):
        world.position_sync.sync()


def test_a_deactivated_owners_closes_are_reported_by_the_rows_that_were_read_before() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.terminal.open("2", "1", "1.1")
    world.sync()
    refusal = {"code": "owner_inactive"}
    world.desk.active = lambda: (_ for _ in ()).throw(OpensRefused(403, refusal))
    world.desk._open = lambda ticket, fields: (403, refusal)
    world.position_sync.forget()
    world.terminal.open("3", "1", "1.1")
    world.terminal.close("1", "1", "1.2", "5")

    world.sync()

    assert list(world.desk.active_rows) == ["2"]
    assert world.position_sync.findings["3"].words == "the desk refused the open: owner_inactive"


def test_without_any_row_a_refused_read_is_an_error() -> None:
    world = World()
    world.desk.active = lambda: (_ for _ in ()).throw(OpensRefused(403, {"code": "owner_inactive"}))

    with pytest.raises(OpensRefused):
        world.position_sync.sync()


def test_a_position_that_opened_and_closed_during_an_outage_is_counted_and_not_published() -> None:
    world = World()
    world.desk.active = lambda: (_ for _ in ()).throw(ConnectionError)
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    world.position_sync.watch()

    assert world.position_sync.counts["unpublished"] == 1
    assert world.desk.log == []


def test_positions_outside_the_strategy_are_not_published() -> None:
    world = World(of=lambda position: {} if position.id == "1" else None)
    world.terminal.open("1", "1", "1.1")
    world.terminal.open("2", "1", "1.1")
    world.sync()

    assert list(world.desk.active_rows) == ["1"]


def netting_day(world: Any) -> Any:
    terminal = world.terminal
    terminal.open("1", "1", "1.10")
    world.sync()
    terminal.open("1", "2", "1.20", order="7")
    world.sync()
    terminal.close("1", "1.5", "1.30", "30")
    world.sync()
    terminal.close("1", "1.5", "1.25", "15", order="8")
    terminal.open("1", "0.4", "1.25", side="SELL", order="8")
    world.sync()
    terminal.close("1", "0.4", "1.2", "20", reason="TP")
    return world.settle()


def test_a_netting_account_is_reported_once_whatever_is_lost() -> None:
    calls = netting_day(World()).calls
    for dies_at, fault in itertools.product(range(calls + 1), (Crash, ConnectionError)):
        desk = netting_day(World(dies_at, fault)).desk
        assert desk.active_rows == {}
        assert set(desk.closed) == {"1", "7", "8"}
        assert all(desk.times(verb, ticket) == 1 for verb in ("open", "close") for ticket in "178")
        assert sum(desk.profit(ticket) for ticket in "178") == 65
        assert desk.closed["8"]["reason"] == "TP"


def test_the_loop_survives_an_outage_and_ends_on_request() -> None:
    world, stop = World(), threading.Event()
    real, away = world.desk.active, iter([ConnectionError, OSError])

    def active() -> Any:
        for fault in away:
            raise fault
        return real()

    world.desk.active = active
    world.terminal.open("1", "1", "1.1")
    faults = []

    def sync(fault: Any) -> None:
        faults.append(fault)
        if not fault:
            stop.set()

    Publisher(world.position_sync, poll_s=0.001, on_sync=sync).run(stop)
    assert faults == ["ConnectionError", "OSError", ""]
    (worth,) = world.desk.worth
    assert (worth["balance"], worth["equity"], worth["currency"]) == ("1000.00000000", "1001.50000000", "USD")
    assert list(world.desk.active_rows) == ["1"]


# --- reports that the desk refuses


def refused_at(world: World, verb: str, hours: int) -> list[int]:
    """Refuse a verb each time; the times of its attempts in seconds from the first."""
    at: list[int] = []

    def refuse(ticket: Any, fields: Any) -> Any:
        at.append(world.terminal.now // SECOND)
        return 422, {"code": "invalid"}

    setattr(world.desk, f"_{verb}", refuse)
    for _ in range(hours * 360):
        world.sync(10 * SECOND)
    return [moment - at[0] for moment in at]


def test_a_refused_close_is_retried_every_two_minutes_for_as_long_as_it_takes() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    real = world.desk._close
    world.terminal.close("1", "1", "1.2", "5")
    attempts = refused_at(world, "close", 24)
    assert attempts[:5] == [0, 30, 90, 210, 330]
    assert attempts[-1] >= 24 * 3600 - 120
    finding = world.position_sync.findings["1"]
    assert (finding.kind, finding.words) == ("refused", "the desk refused the close: invalid")

    world.desk._close = real
    world.sync(120 * SECOND)
    assert list(world.desk.closed) == ["1"]
    assert world.position_sync.findings == {}


def test_a_refused_close_is_retried_although_the_clock_was_set_back() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    real = world.desk._close
    world.desk._close = lambda *_: (422, {"code": "invalid"})
    world.terminal.close("1", "1", "1.2", "5")
    world.sync()
    world.desk._close = real
    world.sync(-3_600 * SECOND)

    assert list(world.desk.closed) == ["1"]


def test_a_refused_open_is_retried_more_and_more_slowly() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    attempts = refused_at(world, "open", 2)

    assert attempts[:6] == [0, 30, 90, 210, 450, 930]
    assert max(after - before for before, after in itertools.pairwise(attempts)) == 600


def test_a_refusal_is_shown_with_the_sync_that_met_it() -> None:
    world = World()
    world.desk._open = lambda ticket, fields: (422, {"code": "symbol_grammar"})
    world.terminal.open("1", "1", "1.1")
    world.position_sync.sync()

    assert world.position_sync.findings["1"].words == "the desk refused the open: symbol_grammar"
