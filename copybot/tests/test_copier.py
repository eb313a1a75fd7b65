"""What a copier opens and skips, what it reports to the desk, and what a restart finds."""

import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot import runner
from copybot.broker import Entry, Outcome, Result
from copybot.copier import Pace
from copybot.desk_model import COPIER, STRATEGY, SUB_ID
from copybot.errors import KeyRefused
from copybot.paper import Faults
from copybot.state_store import State
from copybot.stream import Connected, Gap, Lost, Message
from copybot.subscriptions import IndexTaken, Subscription
from copybot.tests.copier_harness import HOUR, ME, MONDAY, SECOND, CopierHarness, raising

D = Decimal


# --- normal operation


def test_a_trade_is_copied_changed_and_closed_and_the_desk_has_every_report(office: CopierHarness) -> None:
    ticket = office.copied(sl="1.09000000")
    office.step(2)
    (position,) = office.broker.positions()
    assert (position.volume, position.sl) == (D("0.50"), D("1.09000"))
    row = office.rows[position.id]
    assert (row["copies"], row["volume"], row["sl"]) == (office.guard.copies()[0].ref, "0.50000000", "1.09000000")

    office.reduce(ticket, "0.40000000")
    office.hear()
    office.step(2)
    assert office.rows[position.id]["volume"] == "0.20000000"

    office.close(ticket)
    office.hear()
    office.step(2)
    assert (office.volumes, office.rows) == ([], {})
    assert office.desk.state.closed[COPIER, position.id] == ("1.10000000", "MANUAL")
    assert office.guard.outbox() == []


def test_an_execution_report_has_requested_and_filled_price_and_times(office: CopierHarness) -> None:
    office.copied(price="1.09990000")
    office.step()

    (order,) = office.asked("/api/v2/trades/orders")
    at = str(office.now - SECOND)
    for said in [
        ("requested_price", "1.09990000"), ("executed_price", "1.10010000"), ("volume", "0.50000000"),
        ("heard_ms", at), ("sent_ms", at), ("filled_ms", at), ("status", "executed"), ("type", "BUY"),
        ("ticket_id", office.broker.positions()[0].id),
    ]:  # fmt: skip
        assert str(said) in order


def test_a_stopped_out_copy_is_reported_with_price_and_reason(office: CopierHarness) -> None:
    office.copied()
    office.step()
    (position,) = office.broker.positions()
    office.broker.close(position, position.volume)
    office.step(2)

    assert office.rows == {}
    assert office.desk.state.closed[COPIER, position.id][1] == "MANUAL"
    assert office.guard.copies()[0].state is State.GONE


def test_a_copy_that_opened_and_closed_between_two_looks_is_reported(office: CopierHarness) -> None:
    ticket = office.copied()
    (position,) = office.broker.positions()
    office.close(ticket)
    office.hear()
    assert office.rows == {}  # nobody had the time to tell of it
    office.step(2)

    assert office.desk.opened[f"{COPIER} {position.id}"] == 1
    assert office.desk.state.closed[COPIER, position.id] == ("1.10000000", "MANUAL")


def test_trades_that_the_desk_does_not_open_are_skipped_and_held_copies_follow(office: CopierHarness) -> None:
    office.copied()
    office.desk.paused_for = "paused"
    office.open()
    office.hear()
    office.step(31)
    assert len(office.volumes) == 1
    assert office.skips == ["paused"]

    office.desk.paused_for = ""
    office.step(31)
    assert len(office.volumes) == 1
    office.desk.closes_all = True
    office.step(31)
    assert office.volumes == []


def test_copies_of_an_unlisted_strategy_are_left_open_and_shown(office: CopierHarness) -> None:
    office.copied()
    body = office.line.active() | {"as_of": {}, "trades": [], "count": 0}
    office.line.active = lambda: body
    office.step(40)

    assert len(office.volumes) == 1
    assert STRATEGY in office.copier.faults["ended"]


def test_two_subscriptions_are_separate_and_need_different_indexes(office: CopierHarness, tmp_path: Path) -> None:
    other = Subscription("mara-gold", "s-2", {1: "ab" * 32})
    with pytest.raises(IndexTaken):
        office.start(ME, replace(other, sub_id=SUB_ID), folder=tmp_path / "two")
    office.start(ME, other, folder=tmp_path / "three")

    assert sorted(file.name for file in (tmp_path / "three").glob("*.sqlite3")) == ["s-1.sqlite3", "s-2.sqlite3"]
    assert office.copier.followed[0].guard.index != office.copier.followed[1].guard.index


# --- when nothing is opened


def expect_skip(office: Any, why: Any, **trade: Any) -> None:
    office.open(**trade)
    office.hear()
    office.step(12)
    assert office.volumes == []
    assert office.skips == [why]


def test_a_price_beyond_the_slippage_limit_is_skipped(office: CopierHarness) -> None:
    office.desk.terms = {"max_slippage_bps": "1.00000000"}
    office.step(31)
    office.copied(price="1.10000000")  # asks 1.10010: 0.9 of a basis point worse
    office.open(price="1.09990000")
    office.open(price="1.20000000", side="BUY")  # better than hers
    office.open(price="1.10020000", side="SELL")
    office.hear()
    office.step(2)

    assert office.skips == ["slippage", "slippage"]
    assert len(office.volumes) == 2


def test_a_symbol_that_the_broker_does_not_have_is_skipped(office: CopierHarness) -> None:
    expect_skip(office, "symbol_unknown", symbol="XAUUSD")


def test_a_trade_in_a_closed_market_is_skipped(office: CopierHarness) -> None:
    office.now = MONDAY + 100 * HOUR
    office.step(2)
    expect_skip(office, "market_closed")


def test_a_trade_is_skipped_while_the_broker_gives_no_price(office: CopierHarness) -> None:
    office.broker.quote = raising(ConnectionError("the terminal is away"))
    expect_skip(office, "market_closed")


def test_a_volume_below_the_smallest_lot_is_skipped(office: CopierHarness) -> None:
    expect_skip(office, "volume_too_small", volume="0.01000000")


def test_a_trade_whose_stop_the_broker_has_passed_is_skipped_with_that_reason(office: CopierHarness) -> None:
    office.broker.open = lambda **_: Result(Outcome.REJECTED, 10016, "stop_passed")
    expect_skip(office, "stop_passed")


def test_a_trade_without_margin_is_skipped(office: CopierHarness) -> None:
    expect_skip(office, "no_money", volume="90.00000000")


def test_opens_no_more_copies_than_allowed(office: CopierHarness) -> None:
    office.desk.terms = {"max_open_trades": 2}
    office.step(31)
    first, *_ = office.copied(), office.copied()
    office.open()
    office.hear()
    office.step()
    assert (len(office.volumes), office.skips) == (2, ["too_many_open"])

    office.close(first)
    office.hear()
    office.copied()


def test_an_open_without_an_answer_is_looked_up_and_not_resent(office: CopierHarness) -> None:
    office.broker.faults = Faults(timeout=1.0, seed=1)
    for _ in range(12):
        office.open()
        office.hear()
    office.step(10)
    held = {position.magic for position in office.broker.positions()}

    assert len(held) == len(office.volumes)
    assert sorted({copy.state for copy in office.guard.copies()}) == [State.DEAD, State.HELD]
    assert set(office.skips) == {"lost"}


# --- a desk that fails


def test_an_unreachable_desk_stops_no_guard_and_is_not_flooded(office: CopierHarness) -> None:
    ticket = office.copied(sl="1.09000000")
    office.broker.close = raising(ConnectionError("the terminal is away"))
    office.close(ticket)
    office.hear()
    requests = []
    office.line.send = office.line.active = lambda *args, **more: (
        requests.append(office.now) or raising(OSError("away"))()
    )
    office.step(120)
    assert len(office.volumes) == 1
    assert len(requests) < 60
    assert max(requests[i + 1] - requests[i] for i in range(len(requests) - 1)) <= 16 * SECOND

    del office.broker.close
    office.step()
    assert office.volumes == []


@pytest.mark.parametrize("body", [{}, {"trades": []}, {"count": 3, "trades": [], "as_of": {STRATEGY: "9"}}])
def test_an_answer_that_is_no_snapshot_changes_nothing(office: CopierHarness, body: dict[str, Any]) -> None:
    office.copied()
    office.line.active = lambda: body
    office.copier.lost_touch()
    office.step(3)

    assert len(office.volumes) == 1
    assert office.guard.needs_snapshot


def test_a_snapshot_on_the_stream_is_only_a_hint(office: CopierHarness) -> None:
    """Stream messages other than packets are unsigned."""
    for _ in range(3):
        office.copied()
    requests = []
    office.line.active = lambda real=office.line.active: requests.append(1) or real()
    office.copier.on_message(
        {"type": "snapshot", "stream_epoch": "1", "as_of": {STRATEGY: "99"}, "count": 0, "trades": []}
    )
    office.step()

    assert len(office.volumes) == 3
    assert requests
    assert office.guard.seen == 3


@pytest.mark.parametrize(
    "message",
    [{}, {"type": 5}, {"type": "heartbeat", "as_of": [1]}, {"type": "trade.opened", "packet": "no"},
     {"type": "trade.opened", "packet": {}}, {"type": "trade.opened", "packet": {"sub_id": SUB_ID, "gen": 1}}],
)  # fmt: skip
def test_an_invalid_message_does_no_harm(office: CopierHarness, message: dict[str, Any]) -> None:
    office.copier.on_message(message)
    office.copied()


def test_a_heartbeat_with_a_newer_number_makes_a_snapshot_due(office: CopierHarness) -> None:
    office.open()  # its packet is lost
    office.copier.on_message({"type": "heartbeat", "as_of": {STRATEGY: "1"}})
    office.step()

    assert len(office.volumes) == 1


def test_a_failed_report_is_repeated_under_the_same_key(office: CopierHarness) -> None:
    real, keys = office.line.send, []

    def half(method: Any, path: Any, fields: Any = None, *, query: Any = None, idempotency_key: str = "") -> Any:
        keys.append((path, idempotency_key))
        answer = real(method, path, fields, query=query, idempotency_key=idempotency_key)
        if path.endswith("orders") and len([key for key in keys if key[0] == path]) < 3:
            raise ConnectionError("the answer is lost")
        return answer

    office.line.send = half
    office.copied()
    office.step(10)

    orders = [key for path, key in keys if path.endswith("orders")]
    assert len(orders) == 3
    assert len(set(orders)) == 1
    assert office.guard.outbox() == []


def test_reports_are_repeated_to_a_restored_desk(office: CopierHarness) -> None:
    office.broker.faults = Faults(reject=1.0)
    office.open()
    office.hear()
    backup = office.desk.state.copy()
    office.step(8)
    assert office.skips == ["rejected"]

    office.desk.state, office.desk.epoch = backup, "2"
    office.broker.faults = Faults()
    office.step(60)
    assert office.skips == ["rejected"]
    assert office.copier.followed[0].terms.sync == "in_sync"


# --- restarts


def test_a_restart_keeps_the_held_copies(office: CopierHarness) -> None:
    ticket = office.copied()
    office.step(2)
    rows = office.rows
    office.start()
    office.step(3)
    assert (len(office.volumes), office.rows) == (1, rows)

    office.close(ticket)
    office.step(31)
    assert (office.volumes, office.rows) == ([], {})


def test_without_state_files_active_copies_are_kept_and_no_trade_is_opened(
    office: CopierHarness, tmp_path: Path
) -> None:
    office.copied()
    gone = office.copied()
    office.step(2)
    office.close(gone)
    office.start(folder=tmp_path / "new")
    office.open()
    office.step(50)

    assert len(office.volumes) == 1
    assert "new_install" in office.skips
    assert len(office.rows) == 1


def test_a_copys_profit_comes_from_its_deals_to_the_cent(office: CopierHarness) -> None:
    ticket = office.copied()
    office.step(2)
    office.close(ticket)
    office.hear()
    office.step(2)
    closes = [deal for deal in office.broker.history() if deal.entry is Entry.OUT]
    closes_sent = office.asked(f"/api/v2/trades/active/{closes[0].position}")

    assert str(("profit", f"{closes[0].profit:.8f}")) in closes_sent[-1]


# --- the loop


class Script:
    """A stream that delivers these events, then none, then stops the loop. `restarts`: how often it began again."""

    def __init__(self, office: Any, stop: Any, *events: Any, stops: bool = True) -> None:
        self.office, self.stop, self.events, self.stops, self.restarts = office, stop, list(events), stops, 0

    def next(self, timeout_s: Any) -> Any:
        self.office.now += SECOND
        if not self.events:
            if self.stops:
                self.stop.set()
            return None
        event = self.events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event() if callable(event) else event

    def restart(self) -> None:
        self.restarts += 1


def test_the_loop_takes_messages_and_ends_in_order(office: CopierHarness) -> None:
    stop = threading.Event()
    ticket = office.open()
    opened = Message(office.desk.sent[-1])
    office.close(ticket)
    closed = Message(office.desk.sent[-1])
    events = [Connected(), opened, None, closed, None, Gap(STRATEGY), None, Lost("away")]
    runner.run(office.copier, Script(office, stop, *events), stop, step_s=0)

    assert office.volumes == []
    assert office.desk.state.leased_until <= office.now
    office.copier = None
    office.start()
    assert [copy.state for copy in office.guard.copies()] == [State.GONE]


# --- a key that the desk refuses

REVOKED = KeyRefused(401, {"code": "key_revoked", "retry": "rotate", "detail": ""})
UNSIGNED = KeyRefused(401, {"code": "signature_invalid", "retry": "never", "detail": ""}, is_proven=False)


def refused(office: Any, refusal: Any) -> None:
    office.line.send = office.line.active = raising(refusal)


def run(office: Any, *events: Any, stops_after_s: float = 1.0) -> Script:
    """Run the loop until it ends by itself, or is stopped."""
    stop = threading.Event()
    timer = threading.Timer(stops_after_s, stop.set)
    timer.start()
    script = Script(office, stop, *events, stops=False)
    try:
        runner.run(office.copier, script, stop, step_s=0.01, again_s=0.05)
    finally:
        timer.cancel()
        office.copier = None
        office.start()
    return script


@pytest.mark.parametrize("refusal", [REVOKED, UNSIGNED])
def test_the_loop_ends_with_the_refusal_if_nothing_is_held(office: CopierHarness, refusal: Any) -> None:
    office.start()
    refused(office, refusal)

    with pytest.raises(KeyRefused) as end:
        run(office)
    assert end.value is refusal


def test_guards_go_on_closing_after_the_key_is_refused_and_then_the_loop_ends(office: CopierHarness) -> None:
    """The close was decided before, and the broker was away: it still reaches the broker."""
    office.close(office.copied())
    office.broker.close = raising(ConnectionError("away"))
    office.hear()
    del office.broker.close
    refused(office, REVOKED)

    with pytest.raises(KeyRefused):
        run(office, REVOKED)
    assert office.volumes == []


def test_a_copier_that_holds_copies_goes_on_after_its_key_is_refused_and_says_so(
    office: CopierHarness, caplog: pytest.LogCaptureFixture
) -> None:
    office.copied()
    refused(office, REVOKED)
    copier = office.copier
    script = run(office, REVOKED)

    assert script.restarts > 0  # the refusal of a handshake is not signed, so it is tried again
    assert "key_revoked" in copier.faults["stream"]
    (words,) = {record.message for record in caplog.records if "copy is open" in record.message}
    assert "no longer closes it when the provider does" in words
    assert len([record for record in caplog.records if record.message == words]) == 1


def test_an_unsigned_refusal_on_the_way_does_not_end_a_copier_that_the_desk_has_accepted(
    office: CopierHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.step(2)
    refused(office, UNSIGNED)
    run(office)  # until it is stopped

    monkeypatch.setattr(runner, "UNSIGNED_S", 0.1)
    office.step(2)
    refused(office, UNSIGNED)
    with pytest.raises(KeyRefused):  # it lasts
        run(office, stops_after_s=5)


def test_a_refused_handshake_alone_does_not_end_the_loop(office: CopierHarness) -> None:
    copier = office.copier
    script = run(office, UNSIGNED, Connected())

    assert script.restarts == 1
    assert "stream" not in copier.faults


def test_requests_keep_their_intervals(office: CopierHarness) -> None:
    """Heartbeats every 15 s, snapshots every 30 s with a stream and every 5 s without; more would flood the desk."""
    office.copier.on_message({"type": "heartbeat", "as_of": {}})
    asked = []
    office.line.active = lambda real=office.line.active: asked.append(office.now) or real()
    beats = len(office.asked("/api/v2/copier/beat"))
    office.step(60)

    assert len(office.asked("/api/v2/copier/beat")) - beats == 4
    assert 4 <= len(asked) <= 8  # including the position sync
    assert Pace().heartbeat_ms == 15 * SECOND
