"""The MQL5 reference's guard under crashes, lost answers, gaps and forgeries, with a scripted broker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from copybot.tests.mql5_program import NOON, PACKET_SECRET, SUB, fields_of, signed, terminals


@pytest.fixture
def run() -> Iterator[Any]:
    with terminals() as start:
        yield start


@pytest.fixture
def terminal(run: Any) -> Any:
    return run()


class Guard:
    """A terminal with an open state file, a clock, and the desk's active trades."""

    def __init__(self, terminal: Any, path: Any) -> None:
        self.terminal, self.now, self.seq, self.active = terminal, NOON, 0, {}
        assert terminal("open", path, SUB, PACKET_SECRET, 1, 3) == "open"

    def packet(
        self, action: Any, ref: Any, volume: str = "0.10000000", *, seq: Any = None, at_ms: Any = None, **more: Any
    ) -> Any:
        self.seq += 1
        fields = fields_of(seq or self.seq, at_ms or self.now, action, ref, volume, **more)
        if action == "CLOSE":
            self.active.pop(ref, None)
        else:
            self.active[ref] = (volume, self.seq)
        return self.terminal("feed", self.now, *fields, signed(fields))

    def snapshot(self, *, epoch: str = "1", as_of: Any = None, asked_at: Any = None, born_ms: Any = None) -> Any:
        asked = self.terminal("seen") if asked_at is None else asked_at
        rows = [
            (ref, "EURUSD", "BUY", volume, "1.09", "0", seq, born_ms or self.now, 1)
            for ref, (volume, seq) in self.active.items()
        ]
        flat = [word for row in rows for word in row]
        return self.terminal("snapshot", epoch, self.seq if as_of is None else as_of, asked, self.now, len(rows), *flat)

    def wait(self, ms: Any) -> None:
        """Let `ms` pass, with a tick every second."""
        for _ in range(ms // 1000):
            self.now += 1000
            self.terminal("tick", self.now)

    def book(self) -> list[Any]:
        return [line.split(" ")[1] for line in self.terminal("book").split(";") if line]

    def __getattr__(self, name: Any) -> Callable[..., Any]:
        return lambda *words: self.terminal(name, *words)


@pytest.fixture
def guard(terminal: Any, tmp_path: Path) -> Guard:
    guard = Guard(terminal, tmp_path / "state.sqlite")
    guard.snapshot()
    guard.wait(6000)
    return guard


def test_copies_a_trade_from_its_open_to_its_close(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    assert (guard.book(), guard.state("t1")) == (["0.10"], "HELD")
    guard.packet("REDUCE", "t1", "0.04000000")
    assert guard.book() == ["0.04"]
    guard.packet("MODIFY", "t1", "0.04000000", sl="1.09500000")
    assert guard.terminal("book").split(" ")[2] == "1.09500"
    guard.packet("CLOSE", "t1")
    guard.wait(2000)
    assert (guard.book(), guard.state("t1"), guard.opened()) == ([], "GONE", "1")


def test_what_is_held_follows_its_target_also_when_the_step_changes(guard: Guard) -> None:
    guard.packet("OPEN", "t1", "0.25000000")
    guard.packet("OPEN", "t2", "0.05000000")
    guard.terminal("volume_step", "0.1")
    guard.wait(5000)
    assert guard.book() == ["0.25", "0.05"]

    guard.packet("REDUCE", "t1", "0.12000000")
    assert guard.book() == ["0.05", "0.05"]
    guard.packet("CLOSE", "t1")
    guard.packet("CLOSE", "t2")
    assert guard.book() == []


def test_the_least_lot_stays_until_the_trade_is_closed(guard: Guard) -> None:
    guard.packet("OPEN", "t1", "0.01000000")
    guard.packet("REDUCE", "t1", "0.00900000", sl="1.09500000")
    guard.wait(5000)
    assert guard.book() == ["0.01"]
    assert guard.terminal("book").split(" ")[2] == "1.09500"

    guard.packet("CLOSE", "t1")
    assert guard.book() == []


def test_a_closed_trade_is_never_opened_again(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.packet("CLOSE", "t1")
    guard.wait(2000)
    guard.packet("OPEN", "t1")
    guard.snapshot()
    guard.wait(3000)

    assert (guard.book(), guard.opened()) == ([], "1")


def test_a_close_before_its_open_leaves_the_trade_dead(guard: Guard) -> None:
    guard.packet("CLOSE", "t1")
    guard.packet("OPEN", "t1")

    assert (guard.state("t1"), guard.orders()) == ("DEAD", "0")


@pytest.mark.parametrize("code", [0, 10008, 10012, 10031])
def test_an_order_that_was_executed_without_an_answer_is_found(guard: Guard, code: int) -> None:
    guard.plan(code, "y")
    guard.packet("OPEN", "t1")
    guard.wait(3000)

    assert (guard.state("t1"), guard.opened(), guard.orders()) == ("HELD", "1", "1")


def test_an_order_that_was_lost_is_given_up_and_never_sent_again(guard: Guard) -> None:
    guard.plan(10012, "n")
    guard.packet("OPEN", "t1")
    guard.snapshot()
    guard.wait(55_000)
    assert guard.state("t1") == "INTENT"
    guard.wait(20_000)
    guard.snapshot(born_ms=guard.now)
    guard.wait(5_000)

    assert (guard.state("t1"), guard.orders()) == ("DEAD", "1")


def test_a_position_that_opens_late_follows_its_target(guard: Guard) -> None:
    guard.plan(10012, "l")
    guard.packet("OPEN", "t1")
    guard.wait(90_000)
    assert guard.state("t1") == "DEAD"
    guard.late()
    guard.packet("CLOSE", "t1")
    guard.wait(2_000)

    assert (guard.book(), guard.opened()) == ([], "1")


def test_a_refused_open_is_retried_a_limited_number_of_times(guard: Guard) -> None:
    for _ in range(3):
        guard.plan(10016, "n")
    guard.packet("OPEN", "t1")
    guard.wait(10_000)

    assert (guard.state("t1"), guard.orders()) == ("DEAD", "3")


def test_a_refusal_is_not_followed_by_a_stale_open(guard: Guard) -> None:
    for _ in range(2):
        guard.plan(10016, "n")
    guard.packet("OPEN", "t1", at_ms=guard.now - 4_500)
    guard.wait(3_000)

    assert (guard.state("t1"), guard.orders()) == ("DEAD", "2")  # the third would have been too late


def test_a_volume_never_grows(guard: Guard) -> None:
    for _ in range(2):
        guard.plan(10016, "n")
    guard.packet("OPEN", "t1")
    guard.packet("MODIFY", "t1", "0.50000000")

    assert guard.book() == ["0.10"]


def test_two_trades_with_one_magic_are_not_confused(guard: Guard) -> None:
    """These two trades have the same magic number out of 2^40."""
    first, second = "t210179", "t1692729"
    assert guard.magic(3, first) == guard.magic(3, second)
    guard.packet("OPEN", first)
    guard.packet("OPEN", second)
    assert (guard.book(), guard.state(second), guard.ill()) == (["0.10"], "DEAD", "no")
    guard.packet("CLOSE", second)
    assert guard.book() == ["0.10"]
    guard.packet("CLOSE", first)
    assert guard.book() == []


def test_a_late_signal_is_missed(guard: Guard) -> None:
    guard.packet("OPEN", "t1", at_ms=guard.now - 5_001)

    assert (guard.state("t1"), guard.orders()) == ("DEAD", "0")


def test_a_reduction_without_an_answer_is_not_sent_twice(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.plan(10012, "l")
    guard.packet("REDUCE", "t1", "0.06000000")
    guard.wait(30_000)
    guard.late()
    guard.wait(60_000)

    assert (guard.book(), guard.orders()) == (["0.06"], "2")


def test_after_a_gap_nothing_is_opened_until_a_snapshot_and_closes_pass(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.seq += 1
    guard.packet("OPEN", "t2")
    assert (guard.needs(), guard.state("t2"), guard.seen()) == ("yes", "", "1")
    guard.packet("CLOSE", "t1")
    assert guard.book() == []
    guard.snapshot()
    assert (guard.needs(), guard.state("t2"), guard.seen()) == ("no", "HELD", "4")


def test_a_gapfill_closes_a_gap(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    fields = [SUB, "2", str(NOON), "-", "-", "0.00000000", "0.00000000", "", "", "GAPFILL", "3", "1"]
    assert guard.feed(guard.now, *fields, signed(fields)) == ""
    guard.seq = 2
    guard.packet("OPEN", "t2")

    assert (guard.needs(), guard.book()) == ("no", ["0.10", "0.10"])


def test_a_new_installation_opens_no_old_trade(terminal: Any, tmp_path: Path) -> None:
    guard = Guard(terminal, tmp_path / "state.sqlite")
    guard.active["t1"] = ("0.10000000", 1)
    guard.seq = 1
    guard.snapshot()
    guard.packet("OPEN", "t2")

    assert (guard.state("t1"), guard.state("t2"), guard.opened()) == ("DEAD", "HELD", "1")


def test_a_lost_state_file_finds_its_positions_again(guard: Guard, tmp_path: Path) -> None:
    guard.packet("OPEN", "t1")
    guard.packet("OPEN", "t2")
    guard.active.pop("t2")
    again = Guard(guard.terminal, tmp_path / "new.sqlite")
    again.active, again.seq, again.now = guard.active, 2, guard.now
    again.snapshot()
    again.wait(3000)

    assert (again.book(), again.state("t1"), again.opened()) == (["0.10"], "HELD", "2")


def test_a_restart_keeps_the_state(guard: Guard, run: Any, tmp_path: Path) -> None:
    guard.packet("OPEN", "t1")
    guard.packet("CLOSE", "t1")
    guard.terminal.kill()
    again = Guard(run(), tmp_path / "state.sqlite")
    again.active, again.seq, again.now = {"t1": ("0.10000000", 1)}, 2, guard.now
    again.snapshot()

    assert (again.seen(), again.opened()) == ("2", "0")


def test_a_desk_that_went_back_in_time_holds_the_guard_until_a_new_epoch(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.packet("OPEN", "t2")
    guard.active.clear()
    assert guard.snapshot(as_of=1) == "not taken"
    guard.wait(3000)
    assert (guard.standing(), guard.book()) == ("HOLD", ["0.10", "0.10"])
    guard.snapshot(epoch="2")
    guard.wait(3000)
    assert (guard.standing(), guard.book()) == ("LIVE", [])


def test_two_packets_of_one_number_halt_opens_but_not_closes(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.packet("OPEN", "t9", seq=1)
    guard.seq = 1
    assert guard.standing() == "HALT"
    guard.packet("OPEN", "t2")
    guard.packet("CLOSE", "t1")
    guard.wait(2000)
    assert (guard.book(), guard.opened()) == ([], "1")


def test_an_empty_snapshot_must_be_confirmed(guard: Guard) -> None:
    for number in range(8):
        guard.packet("OPEN", f"t{number}")
    guard.active.clear()
    assert guard.snapshot() == "not taken"
    assert len(guard.book()) == 8
    guard.now += 2000
    assert guard.snapshot() == "taken"
    assert guard.book() == []


def test_no_order_is_sent_before_its_row_is_on_disk(guard: Guard) -> None:
    guard.disk_fails(1)
    guard.packet("OPEN", "t1")
    assert (guard.orders(), guard.ill()) == ("0", "yes")
    guard.disk_fails(0)
    guard.packet("OPEN", "t2")
    assert guard.orders() == "0"


def test_a_disconnected_terminal_decides_nothing(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.connected(0)
    guard.lose_position()
    guard.wait(10_000)
    assert guard.state("t1") == "HELD"
    guard.connected(1)
    guard.wait(3_000)
    assert guard.state("t1") == "HELD"
    guard.wait(4_000)
    assert guard.state("t1") == "GONE"


def test_a_terminal_without_its_history_decides_nothing(guard: Guard) -> None:
    guard.packet("OPEN", "t1")
    guard.plan(10012, "n")
    guard.packet("OPEN", "t2")
    guard.history_comes(0)
    guard.lose_position()
    guard.wait(90_000)
    assert (guard.state("t1"), guard.state("t2")) == ("HELD", "INTENT")
    guard.history_comes(1)
    guard.wait(10_000)
    assert (guard.state("t1"), guard.state("t2")) == ("GONE", "DEAD")


def test_a_file_that_is_not_durable_is_refused(terminal: Any, tmp_path: Path) -> None:
    terminal("disk_is_weak", 1)

    assert terminal("open", tmp_path / "state.sqlite", SUB, PACKET_SECRET, 1, 3) == "refused"


def test_serves_hedging_accounts_and_its_own_subscription_only(terminal: Any, run: Any, tmp_path: Path) -> None:
    Guard(terminal, tmp_path / "state.sqlite")
    terminal.kill()
    other = run()
    assert other("open", tmp_path / "state.sqlite", "s-2", PACKET_SECRET, 1, 3) == "refused"
    other("hedging", 0)
    assert other("open", tmp_path / "another.sqlite", SUB, PACKET_SECRET, 1, 3) == "refused"


def test_requests_are_numbered_upwards_across_restarts(guard: Guard, run: Any, tmp_path: Path) -> None:
    first, second = int(guard.terminal("seq", "ck.1", NOON)), int(guard.terminal("seq", "ck.1", NOON))
    assert (first, second) == (NOON * 1000, NOON * 1000 + 1)
    guard.passed("ck.1", NOON * 1000 + 50)
    guard.terminal.kill()
    again = Guard(run(), tmp_path / "state.sqlite").terminal

    assert int(again("seq", "ck.1", NOON - 5)) == NOON * 1000 + 51
    assert int(again("seq", "ck.2", NOON)) == NOON * 1000
