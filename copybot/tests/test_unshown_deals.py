"""Closes on shared accounts whose deals the broker never shows: assumed after a bounded wait, and never sent again."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import RECONCILED, Deal, Entry, Outcome, Result, Trace
from copybot.deals import trades_of
from copybot.netting import Book
from copybot.tests.test_netting import ONE, THREE, TWO
from copybot.tests.test_netting import Desk as NettingDesk

D = Decimal


class Desk(NettingDesk):
    """A netting account that hides some deals. `sent`: the number of orders."""

    def __init__(self, folder: Any, **more: Any) -> None:
        super().__init__(folder, **more)
        self.hidden: set[str] = set()
        self.history, self.paper.history = self.paper.history, self.shown

    def shown(self) -> list[Deal]:
        return [deal for deal in self.history() if deal.id not in self.hidden]

    def hide_last(self) -> None:
        self.hidden.add(self.history()[-1].id)

    @property
    def sent(self) -> int:
        return len(self.history())

    def wait(self, share: Decimal | int = 1) -> dict[Any, Any]:
        """The copies after a share of the bounded wait, with a look each second as the guard does."""
        for _ in range(int(self.netting.hold_ms * share / 1000)):
            self.ms += 1000
            volumes = self.volumes
        return volumes


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Two copies, of which the first is closed by a deal that the broker does not show."""
    desk = Desk(tmp_path)
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.3")
    assert desk.close(ONE, "0.2").outcome is Outcome.DONE
    desk.hide_last()
    return desk


def test_a_close_that_was_answered_done_is_assumed_after_the_wait_and_told_as_such(desk: Desk) -> None:
    assert desk.wait(D("0.9")) == {ONE: ("BUY", D("0.2")), TWO: ("BUY", D("0.3"))}
    assert desk.close(ONE, "0.2").outcome is Outcome.UNKNOWN

    assert desk.wait(D("0.2")) == {TWO: ("BUY", D("0.3"))}
    (trade,) = trades_of(desk.netting.deals(str(ONE)))
    (part,) = trade.parts
    assert (part.remaining, part.reason) == (0, RECONCILED)
    assert "no deal for 0.2 lots" in part.note
    assert (desk.net, desk.sent) == (D("0.3"), 3)


def test_other_copies_are_closed_meanwhile(desk: Desk) -> None:
    assert desk.close(TWO, "0.3").outcome is Outcome.DONE
    assert desk.net == 0


def test_a_close_of_an_earlier_process_is_not_sent_again(desk: Desk) -> None:
    desk.start()
    for _ in range(59):
        desk.ms += 1000
        assert desk.close(ONE, "0.2").code == 10031
    desk.ms += 1000
    assert desk.close(TWO, "0.1").outcome is Outcome.REJECTED  # until it is known which one was closed

    assert desk.wait(D("0.1")) == {TWO: ("BUY", D("0.3"))}
    assert desk.close(TWO, "0.1").outcome is Outcome.DONE
    assert (desk.volumes, desk.net) == ({TWO: ("BUY", D("0.2"))}, D("0.2"))


def test_an_open_of_another_size_does_not_explain_what_an_earlier_process_closed(desk: Desk) -> None:
    """The open is under way, and neither its deal nor its position is shown yet."""
    desk.start()
    rows = desk.paper.positions()
    desk.open(THREE, "SELL", "0.9")
    desk.hide_last()
    desk.paper.positions = lambda: rows

    assert desk.close(ONE, "0.2").code == 10031


def test_an_order_that_is_shown_without_its_deal_is_waited_for_a_bounded_time(desk: Desk) -> None:
    trace = desk.paper.trace
    desk.paper.trace = lambda magic: Trace.PENDING if magic == ONE else trace(magic)
    desk.start()
    assert desk.close(ONE, "0.2").outcome is Outcome.UNKNOWN
    assert desk.wait(D("1.1")) == {TWO: ("BUY", D("0.3"))}

    desk.open(ONE + 10, "BUY", "0.1")
    desk.paper.trace = lambda magic: Trace.PENDING
    assert desk.close(ONE + 10, "0.1").outcome is Outcome.UNKNOWN
    desk.wait(2)
    assert desk.close(ONE + 10, "0.1").outcome is Outcome.DONE  # the net position says that it was never closed


def test_a_deal_that_is_shown_after_all_replaces_the_assumed_one(desk: Desk) -> None:
    desk.wait(D("1.1"))
    desk.hidden.clear()
    assert desk.wait(2) == {TWO: ("BUY", D("0.3"))}
    assert [deal.reason for deal in desk.netting.deals(str(ONE))] == ["MANUAL", "MANUAL"]
    assert desk.close(TWO, "0.3").outcome is Outcome.DONE
    assert desk.net == 0


def test_a_reduction_without_its_deal_is_assumed_once(desk: Desk) -> None:
    desk.close(TWO, "0.1")
    desk.hide_last()
    assert desk.wait(D("1.1")) == {TWO: ("BUY", D("0.2"))}
    assert desk.close(TWO, "0.1").outcome is Outcome.DONE
    assert desk.wait(3) == {TWO: ("BUY", D("0.1"))}
    assert desk.net == D("0.1")


def test_an_answer_done_that_the_net_position_contradicts_is_no_close(tmp_path: Path) -> None:
    """A broker answered DONE and executed nothing, or a part only."""
    desk = Desk(tmp_path)
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.3")
    take_off, send = desk.paper.take_off, desk.paper.open
    desk.paper.open = desk.paper.take_off = lambda *_, **__: Result(Outcome.DONE, 10009)
    assert desk.close(ONE, "0.2").outcome is Outcome.DONE
    desk.paper.open, desk.paper.take_off = send, take_off
    assert desk.wait(3) == {ONE: ("BUY", D("0.2")), TWO: ("BUY", D("0.3"))}

    assert desk.close(ONE, "0.2").outcome is Outcome.DONE
    assert (desk.volumes, desk.net) == ({TWO: ("BUY", D("0.3"))}, D("0.3"))


def test_an_open_without_its_deal_is_a_copy_at_the_price_when_it_was_sent(desk: Desk) -> None:
    desk.open(THREE, "SELL", "0.1")
    desk.hide_last()
    assert desk.wait(D("1.1")) == {TWO: ("BUY", D("0.3")), THREE: ("SELL", D("0.1"))}
    (trade,) = trades_of(desk.netting.deals(str(THREE)))
    assert trade.price == D("1.10000")
    assert "no deal for 0.1 lots" in trade.note

    assert desk.close(THREE, "0.1").outcome is Outcome.DONE
    assert desk.net == D("0.3")


def test_the_only_copy_of_an_account_is_known_without_its_deal(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.open(ONE, "BUY", "0.2")
    desk.hide_last()
    assert desk.wait(D("1.1")) == {ONE: ("BUY", D("0.2"))}


def test_nothing_is_assumed_while_the_terminal_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = desk.paper.account
    monkeypatch.setattr(desk.paper, "account", lambda: replace(real(), is_connected=False))
    desk.start()
    assert desk.wait(5) == {ONE: ("BUY", D("0.2")), TWO: ("BUY", D("0.3"))}


def test_orders_of_another_process_do_not_turn_a_copy_round_for_ever(tmp_path: Path) -> None:
    """Two processes closed one copy, and the books were seconds behind: each tick closed what the last but one had
    opened. Found by the simulation."""
    desk = Desk(tmp_path)
    desk.open(ONE, "BUY", "0.2")
    desk.open(ONE, "SELL", "0.2", through=desk.paper)
    desk.open(ONE, "SELL", "0.2", through=desk.paper)
    history = desk.paper.history
    behind: list[list[Deal]] = [history()[:1], history()[:2]]
    desk.paper.history = lambda: behind[0]
    for _ in range(20):
        for position in desk.netting.positions():
            desk.netting.close(position, position.volume)
        desk.ms += 1000
        behind = [*behind[1:], history()]

    assert (desk.net, desk.volumes) == (0, {})
    assert desk.sent == 4


def test_a_difference_does_not_last_longer_than_there_is_a_copy(tmp_path: Path) -> None:
    """The list of positions was behind as the only copy was closed, and is behind again long after that."""
    desk = Desk(tmp_path)
    positions = desk.paper.positions
    desk.open(ONE, "BUY", "0.2", through=desk.paper)
    desk.paper.positions = list
    assert desk.volumes == {ONE: ("BUY", D("0.2"))}
    desk.open(ONE, "SELL", "0.2", through=desk.paper)
    assert desk.volumes == {}

    desk.paper.positions = positions
    desk.ms += 10 * desk.netting.hold_ms
    desk.open(TWO, "BUY", "0.2", through=desk.paper)
    desk.paper.positions = list
    assert desk.volumes == {TWO: ("BUY", D("0.2"))}


def deal(number: int, magic: int, side: str, volume: str, reason: str = "MANUAL", entry: Entry = Entry.IN) -> Deal:
    order = str(number)
    return Deal(order, order, "net", entry, magic, "EURUSD", side, D(volume), D("1.1"), D(0), number, reason)


def test_a_stop_out_that_closes_more_than_there_seems_to_be_opens_nothing() -> None:
    """The close of ONE is not shown. The broker stopped out the 0.5 lots that were left of TWO."""
    book = Book(lambda _: D(100_000))
    book.take(deal(1, ONE, "BUY", "0.3"))
    book.take(deal(2, TWO, "SELL", "0.5"))
    book.take(deal(3, 0, "BUY", "0.5", "STOP_OUT", Entry.OUT))

    assert {magic: held.volume for magic, held in book.virtuals.items()} == {ONE: D("0.3"), TWO: 0}
    assert book.others["EURUSD"] == 0
