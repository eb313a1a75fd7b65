"""Copies that share one net position: closing one must not touch another."""

import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry, Outcome, Result, Trace
from copybot.candles import Instrument
from copybot.netting import Netting, book_of, is_copy
from copybot.paper import PaperBroker
from copybot.tests.test_paper import HOUR, START, candles

D = Decimal
ONE, TWO, THREE = (0x43 << 56) + 1, (0x43 << 56) + 2, (0x43 << 56) + 3


class Desk:
    def __init__(self, folder: Any, spread: int = 10, **more: Any) -> None:
        self.now, self.ms = START, 0
        self.paper = PaperBroker(
            folder / "paper", [Instrument("EURUSD", candles(), spread)], lambda: self.now, is_hedging=False,
            **more,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        self.netting = Netting(self.paper, clock_ms=lambda: self.ms)

    def open(self, magic: Any, side: Any, volume: Any, through: Any = None) -> Any:
        order = {"magic": magic, "symbol": "EURUSD", "side": side, "volume": D(volume), "sl": None, "tp": None}
        return (through or self.netting).open(**order)

    def by_hand(self, side: Any, volume: Any) -> Any:
        return self.open(0, side, volume, through=self.paper)

    @property
    def held(self) -> dict[Any, Any]:
        return {position.magic: position for position in self.netting.positions()}

    @property
    def volumes(self) -> dict[Any, Any]:
        return {position.magic: (position.side, position.volume) for position in self.netting.positions()}

    @property
    def net(self) -> Any:
        return sum(
            position.volume if position.side == "BUY" else -position.volume for position in self.paper.positions()
        )

    def close(self, magic: Any, volume: Any) -> Any:
        return self.netting.close(self.held[magic], D(volume))


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    return Desk(tmp_path)


def test_opposite_copies_net_out_at_the_broker_and_stay_as_positions(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.3")
    desk.open(TWO, "SELL", "0.3")
    assert desk.paper.positions() == []
    assert desk.volumes == {ONE: ("BUY", D("0.3")), TWO: ("SELL", D("0.3"))}

    desk.close(ONE, "0.3")
    assert desk.net == D("-0.3")
    assert desk.volumes == {TWO: ("SELL", D("0.3"))}


def test_a_close_takes_no_more_than_the_copy_has(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.3")
    desk.open(TWO, "BUY", "0.2")
    desk.close(ONE, "5")
    assert desk.volumes == {TWO: ("BUY", D("0.2"))}
    assert desk.net == D("0.2")


def test_a_copy_that_is_closed_is_not_closed_again(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.3")
    held = desk.held[ONE]
    desk.netting.close(held, D("0.3"))
    assert desk.netting.close(held, D("0.3")) == Result(Outcome.REJECTED, 10036, "rejected")
    assert desk.net == 0


def test_each_copy_has_its_own_profit(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.1")  # at 1.10010
    desk.now += HOUR
    desk.open(TWO, "BUY", "0.1")  # at 1.10210
    desk.close(ONE, "0.1")  # at 1.10200
    assert [(deal.entry, deal.profit) for deal in desk.netting.deals(str(ONE))] == [
        (Entry.IN, 0),
        (Entry.OUT, D("19.00")),
    ]
    assert desk.held[TWO].open_price == D("1.10210")
    assert desk.held[TWO].profit == D("-1.00")


def test_an_open_that_was_filled_in_parts_has_the_mean_price(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.1")  # at 1.10010
    desk.now += HOUR
    desk.open(ONE, "BUY", "0.3")  # at 1.10210
    assert (desk.held[ONE].volume, desk.held[ONE].open_price) == (D("0.4"), D("1.10160"))


def test_commission_is_counted_once_also_where_a_deal_turns_a_position(desk: Any) -> None:
    desk.paper.instruments[0].__dict__["commission"] = D(3)
    desk.open(TWO, "BUY", "1")
    desk.open(ONE, "BUY", "0.1")
    desk.open(ONE, "SELL", "0.3")
    assert [deal.entry for deal in desk.netting.deals(str(ONE))] == [Entry.IN, Entry.OUT, Entry.IN]
    assert sum(deal.costs for deal in desk.netting.deals(str(ONE))) == D("-1.20")


def test_a_restart_finds_every_copy(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.3")
    desk.open(TWO, "SELL", "0.1")
    before = desk.netting.positions()
    desk.start()
    assert desk.netting.positions() == before


def test_stops_are_not_promised(desk: Any) -> None:
    assert desk.netting.spec("EURUSD").lots(D("0.129")) == D("0.12")
    assert desk.netting.spec("EURUSD").stop(D("1.09")) is None
    desk.open(ONE, "BUY", "0.1")
    assert desk.netting.modify(desk.held[ONE], sl=D("1.09"), tp=None).outcome is Outcome.REJECTED
    assert desk.netting.modify(desk.held[ONE], sl=None, tp=None).outcome is Outcome.DONE


def test_an_order_without_a_copys_magic_is_not_sent(desk: Any) -> None:
    with pytest.raises(ValueError, match="not a copy's magic"):
        desk.open(5, "BUY", "0.1")


# --- others on the same account


def test_a_close_by_hand_closes_the_oldest_copy(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.2")
    desk.by_hand("SELL", "0.3")
    assert desk.volumes == {TWO: ("BUY", D("0.1"))}
    assert desk.netting.deals(str(ONE))[-1].entry is Entry.OUT


def test_a_position_opened_by_hand_belongs_to_no_copy(desk: Any) -> None:
    desk.by_hand("SELL", "0.5")
    desk.open(ONE, "BUY", "0.2")
    desk.by_hand("BUY", "0.3")
    assert desk.volumes == {ONE: ("BUY", D("0.2"))}
    desk.close(ONE, "0.2")
    assert desk.net == D("-0.2")


def test_volume_added_by_hand_belongs_to_no_copy(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.2")
    desk.by_hand("BUY", "0.3")
    assert desk.volumes == {ONE: ("BUY", D("0.2"))}


def test_a_stop_out_closes_the_oldest_copies_and_nothing_is_reopened(tmp_path: Path) -> None:
    desk = Desk(tmp_path, deposit=D(3_000), stop_out_level=D("0.8"))
    desk.open(ONE, "BUY", "1.5")
    desk.open(TWO, "SELL", "0.5")
    desk.open(THREE, "BUY", "1")
    desk.now += 2 * HOUR
    assert desk.net == 0
    assert desk.volumes == {TWO: ("SELL", D("0.5")), THREE: ("BUY", D("0.5"))}
    assert [deal.reason for deal in desk.netting.deals(str(ONE))] == ["MANUAL", "STOP_OUT"]


# --- answers that are lost


class Deaf:
    """The paper broker, which can lose answers and delay orders on request."""

    def __init__(self, paper: Any) -> None:
        self.paper, self.is_deaf, self.waiting = paper, False, []

    def __getattr__(self, name: Any) -> Any:
        return getattr(self.paper, name)

    def open(self, **order: Any) -> Any:
        if not self.is_deaf:
            return self.paper.open(**order)
        self.waiting.append(order)
        return Result(Outcome.UNKNOWN, 10012)

    def executes(self) -> None:
        for order in self.waiting:
            self.paper.open(**order)
        self.waiting = []


@pytest.fixture
def deaf(desk: Any) -> Any:
    desk.deaf = Deaf(desk.paper)
    desk.netting.terminal = desk.deaf
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.3")
    desk.deaf.is_deaf = True
    return desk


def test_a_close_without_an_answer_is_not_resent_while_it_may_still_execute(deaf: Any) -> None:
    assert deaf.close(ONE, "0.2").outcome is Outcome.UNKNOWN
    deaf.deaf.is_deaf = False
    assert deaf.close(ONE, "0.2").outcome is Outcome.UNKNOWN
    deaf.deaf.executes()
    assert deaf.volumes == {TWO: ("BUY", D("0.3"))}
    assert deaf.net == D("0.3")


def test_a_close_that_never_executed_is_resent_in_the_end(deaf: Any) -> None:
    deaf.close(ONE, "0.2")
    deaf.deaf.is_deaf, deaf.deaf.waiting = False, []
    deaf.ms += deaf.netting.hold_ms
    assert deaf.close(ONE, "0.2").outcome is Outcome.DONE
    assert deaf.net == D("0.3")


def test_a_close_is_resent_also_where_the_history_is_never_complete(deaf: Any) -> None:
    """On an account with a deal each second."""
    deaf.close(ONE, "0.2")
    deaf.deaf.is_deaf, deaf.deaf.waiting = False, []
    deaf.deaf.is_settled = lambda: False
    deaf.ms += 2 * deaf.netting.hold_ms - 1
    assert deaf.close(ONE, "0.2").outcome is Outcome.UNKNOWN

    deaf.ms += 1
    assert deaf.close(ONE, "0.2").outcome is Outcome.DONE
    assert deaf.net == D("0.3")


def test_after_a_partial_close_the_rest_does_not_wait(deaf: Any) -> None:
    deaf.close(ONE, "0.1")
    deaf.deaf.is_deaf = False
    deaf.deaf.executes()
    assert deaf.close(ONE, "0.1").outcome is Outcome.DONE
    assert deaf.net == D("0.3")


def test_a_close_that_executed_twice_shows_as_a_position_and_is_reversed(deaf: Any) -> None:
    deaf.close(ONE, "0.2")
    deaf.start()  # killed: what was under way is forgotten
    assert deaf.close(ONE, "0.2").outcome is Outcome.DONE
    deaf.deaf.executes()
    assert deaf.volumes == {ONE: ("SELL", D("0.2")), TWO: ("BUY", D("0.3"))}
    deaf.close(ONE, "0.2")
    assert deaf.volumes == {TWO: ("BUY", D("0.3"))}
    assert deaf.net == D("0.3")


def test_a_pending_order_is_waited_for(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.2")
    desk.paper.trace = lambda magic: Trace.PENDING
    assert desk.close(ONE, "0.2").outcome is Outcome.UNKNOWN
    assert desk.net == D("0.2")


# --- a history that is not complete, and symbols with another name


def test_a_copy_whose_closing_deal_has_not_loaded_yet_is_not_closed_again(desk: Any) -> None:
    """A terminal that has just connected loads its history in portions."""
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.3")
    desk.close(ONE, "0.2")
    history, loaded = desk.paper.history, desk.paper.history()[:-1]
    desk.paper.history, desk.paper.is_settled = lambda: loaded, lambda: False
    desk.start()
    assert desk.close(ONE, "0.2") == Result(Outcome.REJECTED, 10031, "rejected")
    assert desk.net == D("0.3")

    desk.paper.history = history
    assert desk.volumes == {TWO: ("BUY", D("0.3"))}
    assert desk.close(TWO, "0.3").outcome is Outcome.DONE  # all deals are there, whether settled or not


def test_a_close_does_not_wait_for_ever_for_a_history_that_never_adds_up(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.3")
    loaded = desk.paper.history()[:1]
    desk.paper.history, desk.paper.is_settled = lambda: loaded, lambda: False
    assert desk.close(ONE, "0.2").outcome is Outcome.REJECTED
    desk.ms += 2 * desk.netting.hold_ms
    assert desk.close(ONE, "0.2").outcome is Outcome.DONE
    assert desk.net == D("0.3")


def test_a_copy_is_closed_under_its_symbols_new_name(desk: Any) -> None:
    desk.open(ONE, "BUY", "0.2")
    desk.open(TWO, "BUY", "0.3")
    deals = desk.paper.history()
    old = [replace(deal, symbol="EURUSD.old") for deal in deals]
    desk.paper.history = lambda: old + [deal for deal in desk.paper._store.deals("true") if deal not in deals]

    assert {position.symbol for position in desk.netting.positions()} == {"EURUSD"}
    assert desk.close(ONE, "0.2").outcome is Outcome.DONE
    assert desk.volumes == {TWO: ("BUY", D("0.3"))}
    assert desk.net == D("0.3")


# --- by seed


@pytest.mark.parametrize("seed", range(12))
def test_the_copies_and_others_always_sum_to_the_net_position_and_to_the_money(tmp_path: Path, seed: int) -> None:
    rng, desk = random.Random(seed), Desk(tmp_path, deposit=D(10**6), spread=seed)
    for step in range(60):
        desk.now += rng.randrange(120_000)
        held, kind = desk.netting.positions(), rng.random()
        if kind < 0.4:
            desk.open((0x43 << 56) + 100 + step, rng.choice(["BUY", "SELL"]), D(rng.randrange(1, 30)) / 100)
        elif kind < 0.5 and seed % 2:
            desk.by_hand(rng.choice(["BUY", "SELL"]), D(rng.randrange(1, 60)) / 100)
        elif held:
            position = rng.choice(held)
            desk.netting.close(position, min(position.volume, D(rng.randrange(1, 30)) / 100))
        book = book_of(desk.paper.history(), desk.paper.worth)
        assert book.net("EURUSD") == desk.net
        others = book.others.get("EURUSD", D(0))
        assert others == 0 or seed % 2
    for position in desk.netting.positions():
        assert desk.netting.close(position, position.volume).outcome is Outcome.DONE
    assert desk.netting.positions() == []
    assert desk.net == book_of(desk.paper.history(), desk.paper.worth).others.get("EURUSD", 0)
    if not seed % 2:
        magics = {deal.magic for deal in desk.paper.history()}
        earned = sum(deal.profit for magic in magics for deal in desk.netting.deals(str(magic)))
        assert abs(earned - (desk.paper.account().balance - 10**6)) < D("0.01") * len(desk.paper.history())


def test_only_the_guards_numbers_are_copies() -> None:
    assert is_copy((0x43 << 56) + (7 << 40) + 5)
    assert not any(map(is_copy, [0, 7, 234_000, 0x44 << 56]))


def test_a_query_that_fails_before_a_close_holds_up_no_later_close(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent, so there is nothing to wait for."""
    desk.open(ONE, "BUY", "0.3")
    held = desk.held[ONE]
    book, answers = desk.netting._book, iter([desk.paper.positions()])

    def positions() -> Any:
        answer = next(answers, None)
        if answer is None:
            raise ConnectionError
        return answer

    with monkeypatch.context() as away:
        away.setattr(desk.netting, "_book", lambda: loaded)
        loaded = book()
        away.setattr(desk.paper, "positions", positions)
        with pytest.raises(ConnectionError):
            desk.netting.close(held, D("0.3"))

    assert desk.close(ONE, "0.3").outcome is Outcome.DONE
    assert desk.net == 0
