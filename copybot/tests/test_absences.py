"""Copies without a position at the broker: books that are behind, orders that wait, orders that are lost."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from copybot.broker import Outcome, Position, Result, Trace
from copybot.state_store import State
from copybot.tests.guard_fixtures import LIMITS
from copybot.tests.guard_harness import SECOND, T1, Desk, answering

D = Decimal


class Behind:
    """The books of a broker are behind its answers. `shows` brings them up to date."""

    def __init__(self, broker: Any) -> None:
        self.broker, self.real = broker, (broker.positions, broker.trace)
        held, traces = list(broker.held.values()), {magic: broker.trace(magic) for magic in broker.opens}
        broker.positions = lambda: list(held)
        broker.trace = lambda magic: traces.get(magic, Trace.NONE)

    def shows(self) -> None:
        self.broker.positions, self.broker.trace = self.real


def events(desk: Any) -> list[tuple[str, str]]:
    return [(event.event, event.why) for event in desk.guard.outbox()]


def only(desk: Any) -> Position:
    (position,) = desk.broker.held.values()
    return position


# --- an answer DONE that the books do not show yet


def test_an_open_that_was_answered_done_is_held_until_the_books_show_it(desk: Any) -> None:
    books = Behind(desk.broker)
    desk.send(1, "OPEN", T1)
    desk.wait(1)
    assert (desk.state("t1"), events(desk)) == (State.HELD, [])

    books.shows()
    desk.guard.tick()
    assert (desk.state("t1"), events(desk)) == (State.HELD, [("opened", "")])


def test_an_open_answered_done_that_the_books_never_show_ends_after_a_bounded_time(desk: Any) -> None:
    answering(desk, Result(Outcome.DONE, 10009))
    desk.send(1, "OPEN", T1)
    desk.wait(LIMITS.settle_ms // SECOND)
    assert desk.state("t1") is State.HELD  # a second look is still to come

    desk.wait(LIMITS.second_look_ms // SECOND)
    assert (desk.state("t1"), events(desk)) == (State.GONE, [("closed", "")])


def test_an_open_answered_done_and_stopped_out_at_once_ends_at_once(desk: Any) -> None:
    books = Behind(desk.broker)
    desk.send(1, "OPEN", T1)
    desk.broker.held.clear()
    books.shows()
    desk.guard.tick()

    assert (desk.state("t1"), events(desk)) == (State.GONE, [("closed", "")])


def test_a_close_before_the_books_show_the_open_is_executed_as_they_do(desk: Any) -> None:
    books = Behind(desk.broker)
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    assert desk.state("t1") is State.HELD

    books.shows()
    desk.wait(1)
    assert desk.volumes == []
    desk.settle()
    assert (desk.state("t1"), events(desk)) == (State.GONE, [("opened", ""), ("closed", "")])


# --- a position that is no longer among the open ones


def test_a_position_whose_deals_show_its_end_is_gone_at_once(desk: Any) -> None:
    """Also while other deals come so quickly that the history never counts as complete."""
    desk.send(1, "OPEN", T1)
    desk.broker.is_settled = lambda: False
    desk.broker.held.clear()
    desk.guard.tick()

    assert (desk.state("t1"), events(desk)) == (State.GONE, [("opened", ""), ("closed", "")])


@pytest.mark.parametrize("trace", [Trace.NONE, Trace.PENDING])
def test_a_position_without_the_deals_of_its_end_is_waited_for_a_bounded_time(desk: Any, trace: Trace) -> None:
    desk.send(1, "OPEN", T1)
    position = only(desk)
    desk.broker.trace = lambda magic: trace
    desk.broker.held.clear()
    desk.guard.tick()
    desk.wait(LIMITS.settle_ms // SECOND - 1)
    assert desk.state("t1") is State.HELD

    desk.broker.held[position.id] = position  # the list of positions had only been behind
    desk.wait(1)
    desk.broker.held.clear()
    desk.wait(1)
    assert desk.state("t1") is State.HELD

    desk.wait(LIMITS.settle_ms // SECOND)
    assert desk.state("t1") is State.GONE
    assert desk.opened == 1


def test_a_terminal_that_is_not_connected_ends_no_copy(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    desk.broker.trace = lambda magic: Trace.NONE
    desk.broker.is_settled = lambda: False
    desk.broker.held.clear()
    desk.wait(600)

    assert desk.state("t1") is State.HELD


# --- reductions and closes answered DONE


def closes(desk: Any) -> list[Decimal]:
    """Record the volumes of the orders that close."""
    sent: list[Decimal] = []
    real = desk.broker.close
    desk.broker.close = lambda position, volume: (sent.append(volume), real(position, volume))[1]
    return sent


def test_a_reduction_answered_done_is_not_sent_again_before_the_books_show_it(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    books, sent = Behind(desk.broker), closes(desk)
    desk.send(2, "REDUCE", replace(T1, volume=D("0.4")))
    desk.wait(2)
    desk.send(3, "REDUCE", replace(T1, volume=D("0.1")))
    assert sent == [D("0.6")]

    books.shows()
    desk.wait(1)
    assert (sent, desk.volumes) == ([D("0.6"), D("0.3")], [D("0.1")])


def test_a_reduction_filled_in_part_is_completed_as_the_books_show_it(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real = desk.broker.close
    desk.broker.close = lambda position, volume: (real(position, D("0.2")), Result(Outcome.DONE, 10010))[1]
    desk.send(2, "REDUCE", replace(T1, volume=D("0.4")))
    desk.broker.close = real
    desk.wait(1)

    assert desk.volumes == [D("0.4")]


def test_a_reduction_answered_done_that_the_books_never_show_is_sent_again(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real = desk.broker.close
    desk.broker.close = lambda position, volume: Result(Outcome.DONE, 10009)
    desk.send(2, "REDUCE", replace(T1, volume=D("0.4")))
    desk.broker.close = real
    desk.wait(LIMITS.settle_ms // SECOND - 1)
    assert desk.volumes == [D("1.0")]

    desk.wait(1)
    assert desk.volumes == [D("0.4")]


def test_a_reduction_is_sent_again_also_where_the_history_is_never_complete(desk: Any) -> None:
    """On an account with a deal each second."""
    desk.send(1, "OPEN", T1)
    real = desk.broker.close
    desk.broker.close = lambda position, volume: Result(Outcome.UNKNOWN, 10012)
    desk.broker.is_settled = lambda: False
    desk.send(2, "REDUCE", replace(T1, volume=D("0.4")))
    desk.broker.close = real
    desk.wait(2 * LIMITS.settle_ms // SECOND - 1)
    assert desk.volumes == [D("1.0")]

    desk.wait(1)
    assert desk.volumes == [D("0.4")]


def test_a_close_answered_done_is_sent_again_only_if_the_books_do_not_show_it(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real, sent = desk.broker.close, []
    desk.broker.close = lambda position, volume: (sent.append(volume), Result(Outcome.DONE, 10009))[1]
    desk.send(2, "CLOSE", T1)
    desk.wait(4)
    assert sent == [D("1.0")]

    desk.broker.close = real
    desk.wait(1)
    assert desk.volumes == []


def test_a_close_filled_in_part_goes_on_at_once(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    real = desk.broker.close
    desk.broker.close = lambda position, volume: (real(position, D("0.2")), Result(Outcome.DONE, 10010))[1]
    desk.send(2, "CLOSE", T1)
    desk.broker.close = real
    desk.wait(1)

    assert desk.volumes == []


# --- orders that wait at the broker


class Queue:
    """A broker that queues opens, as over a weekend. `refuses`: cancellations."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.waiting, self.refuses, self.cancels = desk, {}, False, 0
        self.real, self.trace = desk.broker.open, desk.broker.trace
        desk.broker.open, desk.broker.trace, desk.broker.cancel = self.open, self.traced, self.cancel

    waiting: dict[int, Any]

    def open(self, *, magic: int, **order: Any) -> Result:
        self.waiting[magic] = order
        return Result(Outcome.UNKNOWN, 10008)

    def traced(self, magic: int) -> Trace:
        return Trace.WAITING if magic in self.waiting else self.trace(magic)

    def cancel(self, magic: int) -> Result:
        self.cancels += 1
        if self.refuses or magic not in self.waiting:
            return Result(Outcome.REJECTED, 10018, "market_closed")
        del self.waiting[magic]
        return Result(Outcome.DONE, 10009)

    def fills(self) -> None:
        for magic, order in self.waiting.items():
            self.real(magic=magic, **order)
        self.waiting.clear()


def test_an_order_that_waits_is_cancelled_when_its_trade_closes(desk: Any) -> None:
    queue = Queue(desk)
    desk.send(1, "OPEN", T1)
    desk.wait(1)
    assert len(queue.waiting) == 1

    desk.send(2, "CLOSE", T1)
    assert queue.waiting == {}
    desk.wait(1)
    desk.wait(LIMITS.second_look_ms // SECOND)
    assert (desk.state("t1"), events(desk)) == (State.DEAD, [("skipped", "closed")])


def test_an_order_that_waits_is_cancelled_when_the_subscription_is_wound_up(desk: Any) -> None:
    queue = Queue(desk)
    desk.send(1, "OPEN", T1)
    desk.guard.wind_up()
    desk.settle()

    assert (queue.waiting, desk.state("t1"), desk.opened) == ({}, State.DEAD, 0)


def test_an_order_that_has_waited_beyond_the_age_of_an_open_is_cancelled(desk: Any) -> None:
    queue = Queue(desk)
    desk.send(1, "OPEN", T1)
    desk.wait(LIMITS.max_open_age_ms // SECOND)
    assert len(queue.waiting) == 1  # it may still be filled at the provider's price

    desk.settle()
    assert (queue.waiting, desk.state("t1"), events(desk)) == ({}, State.DEAD, [("skipped", "missed")])
    desk.snapshot(1, T1)
    assert desk.opened == 0


def test_an_order_that_cannot_be_cancelled_is_watched_and_closed_as_it_is_filled(desk: Any) -> None:
    queue = Queue(desk)
    queue.refuses = True
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    for _ in range(3600):
        desk.wait(1)
    assert desk.state("t1") is State.INTENT
    assert queue.cancels < 300
    (finding,) = desk.guard.findings()
    assert (finding.kind, finding.ref) == ("order_waits", "t1")

    queue.fills()
    desk.wait(1)
    assert desk.volumes == []
    desk.wait(1)
    assert (desk.state("t1"), desk.guard.findings()) == (State.GONE, [])


def test_the_rest_of_an_order_filled_in_part_is_cancelled_after_the_position_is_closed(desk: Any) -> None:
    desk.send(1, "OPEN", T1)
    queue, magic = Queue(desk), only(desk).magic
    queue.waiting[magic] = {"symbol": "EURUSD", "side": "BUY", "volume": D("0.5"), "sl": None, "tp": None}
    desk.send(2, "CLOSE", T1)
    desk.wait(1)
    assert (desk.volumes, queue.waiting) == ([], {})

    desk.wait(1)
    assert desk.state("t1") is State.GONE


def test_a_cancelled_order_that_was_filled_in_the_meantime_is_closed(desk: Any) -> None:
    queue = Queue(desk)
    desk.send(1, "OPEN", T1)
    order = dict(queue.waiting)
    desk.send(2, "CLOSE", T1)
    queue.waiting.update(order)
    queue.fills()
    desk.wait(1)
    desk.wait(1)

    assert (desk.volumes, desk.state("t1")) == ([], State.GONE)


def test_a_cancelled_order_is_reported_so_after_a_restart(desk: Any) -> None:
    queue = Queue(desk)
    desk.send(1, "OPEN", T1)
    desk.send(2, "CLOSE", T1)
    desk.start()
    desk.settle()

    assert (queue.waiting, events(desk)) == ({}, [("skipped", "closed")])


def test_after_a_clock_was_set_back_an_end_is_seen_within_a_bounded_time(desk: Any) -> None:
    answering(desk, Result(Outcome.DONE, 10009))
    desk.now += 3_600_000
    desk.send(1, "OPEN", replace(T1, born_ms=desk.now))
    desk.wait(LIMITS.settle_ms // SECOND)
    desk.now -= 3_600_000
    for _ in range(2 * (LIMITS.settle_ms + LIMITS.second_look_ms) // SECOND):
        desk.wait(1)

    assert desk.state("t1") is State.GONE
