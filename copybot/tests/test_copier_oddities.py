"""A copier after a machine's sleep, on a full disk, for a strategy that is no longer listed, and at an older desk."""

import sqlite3
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot import runner
from copybot.broker import Entry, Outcome, Result
from copybot.desk_model import COPIER, STRATEGY
from copybot.errors import refusal
from copybot.lease import Lease
from copybot.netting import Netting
from copybot.stream import Message
from copybot.tests.copier_harness import LIMITS, NOON, SECOND, CopierHarness, raising

GRANTED: dict[str, Any] = {"fence": "1", "lease_ms": 45_000, "may_open_in_ms": 0}


def test_a_lease_does_not_outlast_the_sleep_of_its_machine() -> None:
    """During sleep only the time of day advances, and another instance may have got the lease."""
    here, there = 1_000, NOON
    lease = Lease("a-place-of-ours-", lambda: here, lambda: there)
    lease.grant(GRANTED, sent=lease.now())
    assert lease.is_live

    there += 60_000
    assert not lease.is_live
    sent, there = (here, NOON), NOON + 60_000  # it fell asleep between the question and its answer
    lease.grant(GRANTED, sent=sent)
    assert not lease.is_live


def test_a_lease_does_not_last_longer_because_the_time_of_day_was_set_back() -> None:
    here, there = 1_000, NOON
    lease = Lease("a-place-of-ours-", lambda: here, lambda: there)
    lease.grant(GRANTED, sent=lease.now())
    here, there = 46_000, NOON - 3_600_000

    assert not lease.is_live


def test_closes_go_on_if_a_state_file_cannot_be_written(office: CopierHarness) -> None:
    ticket = office.copied()
    office.step(2)
    office.guard._store.durable = raising(sqlite3.OperationalError("database or disk is full"))
    office.open()
    office.close(ticket)
    office.hear()
    office.step(6)

    assert office.volumes == []
    assert "disk is full" in office.copier.faults[f"state of {STRATEGY}"]
    assert office.copier.lease.is_live

    del office.guard._store.durable
    office.step(31)
    assert f"state of {STRATEGY}" not in office.copier.faults
    assert office.rows == {}


def test_copies_of_an_unlisted_strategy_are_closed_on_request(office: CopierHarness) -> None:
    office.copied()
    office.step(2)
    body = office.line.active() | {"as_of": {}}
    body["trades"] = [row for row in body["trades"] if row["role"] == "copy"]
    office.line.active = lambda: body | {"count": len(body["trades"])}
    office.step(31)
    assert len(office.volumes) == 1
    assert "--close-ended" in office.copier.faults["ended"]

    office.copier.closes_ended = True
    office.step(62)
    assert office.volumes == []
    assert "ended" not in office.copier.faults


def test_a_copy_that_ended_before_it_was_seen_is_reported_with_its_price(office: CopierHarness) -> None:
    office.broker.positions = raising(ConnectionError("away"))
    office.open()
    office.hear()
    del office.broker.positions
    (position,) = office.broker.positions()
    office.broker.close(position, position.volume)
    office.step(5)

    assert office.skips == []
    assert office.desk.state.closed[COPIER, position.id] == ("1.10000000", "MANUAL")
    assert [deal.entry for deal in office.broker.deals(position.id)] == [Entry.IN, Entry.OUT]


class Flood:
    """A stream that always has another event; each event advances the broker's clock."""

    def __init__(self, stop: Any) -> None:
        self.stop, self.said = stop, 0

    def next(self, timeout_s: Any) -> Message | None:
        self.said += 1
        if self.said > 3_000:
            self.stop.set()
            return None
        time.sleep(0.001)
        return Message({"type": "trade.opened"})


def test_a_stream_that_never_pauses_keeps_no_step_waiting(
    office: CopierHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, stop = [], threading.Event()
    monkeypatch.setattr(office.copier, "step", lambda: steps.append(flood.said))
    flood = Flood(stop)
    runner.run(office.copier, flood, stop, step_s=0.1)

    assert len(steps) >= 3
    office.copier = None
    office.start()


def test_an_older_desk_is_told_of_a_passed_stop_in_its_own_words(
    office: CopierHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of reasons lacks this one, so it answers 422."""
    take = office.desk._skip

    def skip(fields: Any) -> Any:
        if fields["reason"] == "stop_passed":
            raise refusal(422, {"code": "invalid", "retry": "never"})
        return take(fields)

    monkeypatch.setattr(office.desk, "_skip", skip)
    office.broker.open = lambda **_: Result(Outcome.REJECTED, 10016, "stop_passed")
    office.open()
    office.hear()
    office.step(4)

    assert office.skips == ["rejected"]
    assert "had already passed the stop loss" in office.asked("/api/v2/copier/skips")[-1]
    assert list(office.guard.outbox()) == []


def netting(folder: Path) -> Any:
    office: Any = CopierHarness(folder, is_hedging=False)
    office.broker = Netting(office.broker, clock_ms=lambda: office.now)
    office.start()
    office.step()
    return office


def test_a_close_on_a_netting_account_whose_deal_never_comes_is_told_at_the_desk(tmp_path: Path) -> None:
    office = netting(tmp_path)
    ticket, paper = office.copied(), office.broker.terminal
    office.copied()
    office.step(2)
    history = paper.history
    office.close(ticket)
    office.hear()
    hidden = history()[-1].id
    paper.history = lambda: [deal for deal in history() if deal.id != hidden]
    office.step(58)
    assert len(office.rows) == 2

    office.step(6)
    assert (len(office.rows), office.volumes) == (1, [Decimal("0.50")])
    assert [reason for (owner, _), (_, reason) in office.desk.state.closed.items() if owner == COPIER] == ["RECONCILED"]
    (alarm,) = office.desk.alarms[COPIER]
    assert (alarm["kind"], alarm["strategy"]) == ("reconciled", STRATEGY)
    assert "no deal for 0.5 lots" in alarm["detail"]
    assert len(history()) == 3
    office.copier.close()


def test_the_row_of_a_copy_whose_order_was_filled_late_has_the_whole_volume(tmp_path: Path) -> None:
    """On an account with shared positions an open is several orders, and a row at the desk never grows."""
    office = netting(tmp_path)
    fill, left = office.broker.terminal.open, list[dict[str, Any]]()

    def half(**order: Any) -> Result:
        left.append(order | {"volume": order["volume"] / 2})
        fill(**left[0])
        return Result(Outcome.UNKNOWN, 10012)

    office.broker.terminal.open = half
    office.open()
    office.hear()
    office.step(LIMITS.settle_ms // SECOND - 1)
    assert (office.volumes, office.rows) == ([Decimal("0.25")], {})

    fill(**left[0])
    office.step(2)
    assert [row["volume"] for row in office.rows.values()] == ["0.50000000"]
    office.copier.close()
