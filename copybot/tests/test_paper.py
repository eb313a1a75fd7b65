"""The paper broker: prices, the order of stops, money to the cent, and what survives a killed process."""

import random
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry, Outcome, Trace
from copybot.candles import Bar, Candles, Clock, Instrument
from copybot.paper import Faults, PaperBroker

ROOT = Path(__file__).resolve().parent.parent.parent
HOUR = 3_600_000
START = 1_767_571_200_000  # a Monday, at midnight
D = Decimal

BARS = [
    (0, "1.10000", "1.10500", "1.09500", "1.10200"),  # rises: down to 1.095 first
    (1, "1.10200", "1.10300", "1.09000", "1.09100"),  # falls: up to 1.103 first
    (2, "1.09100", "1.09200", "1.09000", "1.09150"),
    (10, "1.08000", "1.08100", "1.07900", "1.08050"),  # after a closed market, lower
    (11, "1.08050", "1.08100", "1.07900", "1.08000"),
]


def candles(rows: Any = BARS, **more: Any) -> Candles:
    return Candles([Bar(START + hour * HOUR, *map(D, prices)) for hour, *prices in rows], digits=5, **more)


class Desk:
    """A broker, and the market's clock, which the test moves."""

    def __init__(self, folder: Any, **more: Any) -> None:
        self.now = START
        self.path, self.more = folder / "paper", {"instruments": [Instrument("EURUSD", candles(), 10)]} | more
        self.start()

    def start(self) -> None:
        self.broker = PaperBroker(self.path, now_ms=lambda: self.now, **self.more)

    def at(self, hours: Any) -> Any:
        self.now = START + int(D(hours) * HOUR)
        return self.broker

    def open(
        self,
        side: str = "BUY",
        volume: str = "1",
        magic: int = 7,
        sl: Any = None,
        tp: Any = None,
        symbol: str = "EURUSD",
    ) -> Any:
        stops = [None if stop is None else D(stop) for stop in (sl, tp)]
        return self.broker.open(magic=magic, symbol=symbol, side=side, volume=D(volume), sl=stops[0], tp=stops[1])

    def held(self, **more: Any) -> Any:
        """Open a position now."""
        assert self.open(**more).outcome is Outcome.DONE
        return self.broker.positions()[-1]

    @property
    def ends(self) -> list[Any]:
        return [
            (deal.reason, deal.price, (deal.at_ms - START) / HOUR)
            for deal in self.broker.history()
            if deal.entry is Entry.OUT
        ]


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    return Desk(tmp_path)


def refused(answer: Any, why: Any) -> Any:
    return (answer.outcome, answer.why) == (Outcome.REJECTED, why)


# --- prices


def test_a_price_goes_from_open_to_close_by_both_extremes() -> None:
    prices = candles()
    third = HOUR // 3
    assert [prices.bid(START + n * third) for n in range(3)] == [D("1.10000"), D("1.09500"), D("1.10500")]
    assert [prices.bid(START + HOUR + n * third) for n in range(3)] == [D("1.10200"), D("1.10300"), D("1.09000")]
    assert prices.bid(START + third // 2) == D("1.09750")


def test_a_price_never_leaves_its_bar() -> None:
    prices, rng = candles(), random.Random(1)
    for _ in range(3_000):
        at = START + rng.randrange(3 * HOUR)
        bar = prices.bars[(at - START) // HOUR]
        assert bar.low <= prices.bid(at) <= bar.high


def test_the_market_is_closed_without_a_bar(desk: Any) -> None:
    assert desk.at("2.999").quote("EURUSD").bid == D("1.09150")
    assert desk.at(3).quote("EURUSD") is None
    assert refused(desk.open(), "market_closed")
    assert desk.at(10).quote("EURUSD").bid == D("1.08000")


def test_bars_that_repeat_keep_the_days_of_the_week() -> None:
    prices, week = candles(repeats=True), 7 * 24 * HOUR
    assert prices.bid(START + 3 * week + HOUR) == prices.bid(START + HOUR) == D("1.10200")
    assert not prices.is_open(START + week - HOUR)
    assert list(prices.instants(START + 12 * HOUR, START + week)) == [START + week]


def test_two_clocks_of_one_market_agree_and_one_may_be_read_backwards() -> None:
    wall = [1_000]
    first, second = (Clock(START, 600, 500, lambda: wall[0]) for _ in range(2))
    assert first() == second() == START + 500 * 600
    assert first.wall_at(first()) == 1_000


def test_the_real_bars_are_read() -> None:
    prices = Candles.read(ROOT / "market" / "data" / "eurusd-1h-2017-2018.csv", digits=5, repeats=True)
    assert prices.length_ms == HOUR
    assert prices.bid(prices.starts_at) == D("1.0716")


# --- orders


def test_a_trade_is_bought_at_the_ask_and_sold_at_the_bid(desk: Any) -> None:
    held = desk.held(volume="0.50")
    assert (held.open_price, held.magic, held.volume, held.profit) == (D("1.10010"), 7, D("0.50"), D("-5.00"))

    desk.at(1)
    assert desk.broker.close(held, D("0.20")).outcome is Outcome.DONE
    assert desk.broker.close(desk.broker.positions()[0], D("0.30")).outcome is Outcome.DONE
    deals = desk.broker.deals(held.id)
    assert [(deal.entry, deal.side, deal.volume, deal.profit) for deal in deals] == [
        (Entry.IN, "BUY", D("0.50"), 0),
        (Entry.OUT, "SELL", D("0.20"), D("38.00")),
        (Entry.OUT, "SELL", D("0.30"), D("57.00")),
    ]
    assert desk.broker.account().balance == D("10095.00") == desk.broker.account().equity


def test_refusals_say_why(desk: Any) -> None:
    assert refused(desk.open(symbol="GOLD"), "symbol_unknown")
    assert refused(desk.open(volume="0.001"), "volume_too_small")
    assert refused(desk.open(volume="0.015"), "rejected")
    assert refused(desk.open(volume="10"), "no_money")
    assert refused(desk.open(sl="1.10000"), "stop_passed")  # not below the bid
    assert refused(desk.open("SELL", tp="1.10010"), "stop_passed")
    assert desk.broker.history() == []
    assert desk.broker.trace(7) is Trace.NONE


def test_a_close_never_exceeds_the_position(desk: Any) -> None:
    held = desk.held()
    assert refused(desk.broker.close(held, D("1.01")), "rejected")
    desk.broker.close(held, D(1))
    assert refused(desk.broker.close(held, D(1)), "rejected")
    assert len(desk.broker.history()) == 2


def test_lots_round_down_and_are_zero_below_the_least(desk: Any) -> None:
    spec = desk.broker.spec("EURUSD")
    assert (spec.lots(D("0.129")), spec.stop(D("1.100004")), spec.stop(None)) == (D("0.12"), D("1.10000"), None)
    assert spec.lots(D("0.009")) == 0
    assert spec.lots(D("250")) == 100
    assert desk.broker.spec("GOLD") is None


def test_commission_is_within_profit(tmp_path: Path) -> None:
    desk = Desk(tmp_path, instruments=[Instrument("EURUSD", candles(), 0, commission=D(3))])
    held = desk.held()
    desk.broker.close(held, D(1))
    assert [(deal.profit, deal.costs) for deal in desk.broker.history()] == [(D("-3.00"), D("-3.00"))] * 2
    assert desk.broker.account().balance == D(9_994)


def test_another_currency_is_converted_to_the_accounts(tmp_path: Path) -> None:
    yen = candles([(0, "150", "151", "149", "150.5"), (1, "150.5", "151", "149", "149.5")])
    desk = Desk(tmp_path, instruments=[Instrument("USDJPY", yen, 0)])
    held = desk.held(symbol="USDJPY", volume="0.1")
    desk.at(1).close(held, D("0.1"))
    assert desk.broker.history()[-1].profit == D("33.22")  # 5,000 yen at 150.5


def test_refuses_a_currency_that_no_instrument_converts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="converts EUR"):
        Desk(tmp_path, instruments=[Instrument("EURCHF", candles())])


# --- stops, targets, margin


def test_a_rising_bar_touches_the_stop_below_before_the_target_above(desk: Any) -> None:
    desk.open(sl="1.09600", tp="1.10400")
    assert desk.at(1).positions() == []
    ((reason, price, hours),) = desk.ends
    assert (reason, price) == ("SL", D("1.09600"))
    assert 0.26 < hours < 0.27


def test_a_falling_bar_touches_the_target_above_first(desk: Any) -> None:
    desk.at(1)
    desk.open(sl="1.09600", tp="1.10290")
    desk.at(2)
    assert desk.ends[0][:2] == ("TP", D("1.10290"))


def test_a_short_position_is_stopped_at_the_ask(desk: Any) -> None:
    desk.open("SELL", sl="1.10510")  # the bid's high is 1.10500, the ask's 1.10510
    desk.at(1)
    assert desk.ends[0][:2] == ("SL", D("1.10510"))


def test_a_stop_in_a_gap_is_filled_behind_it(desk: Any) -> None:
    desk.at("2.9")
    desk.open(sl="1.08900", magic=1)
    desk.open("SELL", tp="1.08900", magic=2)
    desk.at(9)
    assert desk.ends == []
    desk.at("10.5")
    assert desk.ends == [("SL", D("1.08000"), 10), ("TP", D("1.08010"), 10)]


def test_stops_do_not_depend_on_how_often_a_process_looks(tmp_path: Path) -> None:
    def run(name: Any, looks: Any) -> list[Any]:
        folder = tmp_path / name
        folder.mkdir()
        desk = Desk(folder)
        for number, (sl, tp) in enumerate([("1.0960", "1.1045"), ("1.0901", None), (None, "1.1049"), ("1.0794", None)]):
            desk.open(sl=sl, tp=tp, volume="0.1", magic=number)
        for hours in sorted(looks):
            desk.at(hours).positions()
        desk.at(12).positions()
        return [(deal.magic, deal.reason, deal.price, deal.at_ms, deal.profit) for deal in desk.broker.history()]

    once = run("once", [])
    rng = random.Random(5)
    for number in range(5):
        assert run(f"often-{number}", [D(rng.randrange(12_000)) / 1000 for _ in range(60)]) == once
    assert len(once) == 8
    assert sorted(at for _, _, _, at, _ in once) == [at for _, _, _, at, _ in once]


def test_a_stop_at_the_very_close_is_touched_though_the_next_bar_opens_elsewhere(tmp_path: Path) -> None:
    bars = [(0, "1.10000", "1.10100", "1.09000", "1.09050"), (1, "1.08900", "1.08950", "1.08800", "1.08850")]
    desk = Desk(tmp_path, instruments=[Instrument("EURUSD", candles(bars), 10)])
    desk.at("0.9")
    desk.open("SELL", sl="1.09060")
    desk.at("1.5").positions()
    assert [end[:2] for end in desk.ends] == [("SL", D("1.09060"))]


def test_of_two_stops_the_one_that_was_touched_first_is_filled_first(desk: Any) -> None:
    desk.open(sl="1.09920", magic=1)
    desk.open(sl="1.09960", magic=2)
    desk.at(1).positions()
    assert [deal.magic for deal in desk.broker.history()] == [1, 2, 2, 1]


def test_a_stop_is_moved_and_a_repeat_succeeds(desk: Any) -> None:
    held = desk.held()
    assert desk.broker.modify(held, sl=D("1.09"), tp=None).outcome is Outcome.DONE
    assert desk.broker.positions()[0].sl == D("1.09")
    assert desk.broker.modify(held, sl=D("1.09"), tp=None).code == 10025
    assert refused(desk.broker.modify(held, sl=D("1.2"), tp=None), "stop_passed")
    assert desk.broker.positions()[0].sl == D("1.09")


def test_a_stop_out_closes_the_largest_loss_first(tmp_path: Path) -> None:
    desk = Desk(tmp_path, deposit=D(3_000), stop_out_level=D("0.8"))
    desk.open("SELL", "0.1", magic=1)
    desk.open("BUY", "2", magic=2)
    desk.at(2)
    assert [(deal.magic, deal.reason) for deal in desk.broker.history() if deal.entry is Entry.OUT] == [(2, "STOP_OUT")]
    assert [position.magic for position in desk.broker.positions()] == [1]
    assert desk.broker.account().balance > 0


# --- netting


def test_a_netting_account_has_one_position_per_symbol(tmp_path: Path) -> None:
    desk = Desk(tmp_path, is_hedging=False)
    first = desk.held(volume="0.3", magic=1)
    desk.open("BUY", "0.1", magic=2)
    desk.open("SELL", "0.1", magic=3)
    assert [(position.volume, position.side) for position in desk.broker.positions()] == [(D("0.3"), "BUY")]

    desk.open("SELL", "0.5", magic=4)
    (turned,) = desk.broker.positions()
    assert (turned.id, turned.side, turned.volume, turned.open_price) == (first.id, "SELL", D("0.2"), D("1.10000"))
    assert [(deal.magic, deal.entry, deal.volume) for deal in desk.broker.deals(first.id)] == [
        (1, Entry.IN, D("0.3")),
        (2, Entry.IN, D("0.1")),
        (3, Entry.OUT, D("0.1")),
        (4, Entry.OUT, D("0.3")),
        (4, Entry.IN, D("0.2")),
    ]


def test_a_reduction_needs_no_margin(tmp_path: Path) -> None:
    desk = Desk(tmp_path, is_hedging=False, deposit=D(3_000))
    desk.open(volume="2")
    desk.now += HOUR // 3
    assert desk.broker.account().equity < D(2_080)  # what the rest binds
    assert desk.open("SELL", "0.1").outcome is Outcome.DONE
    assert refused(desk.open("BUY", "0.1"), "no_money")


def test_a_fifo_account_closes_the_oldest_position_of_a_side_first(tmp_path: Path) -> None:
    desk = Desk(tmp_path, is_fifo=True)
    first, second = desk.held(volume="0.3", magic=1), desk.held(volume="0.2", magic=2)
    assert desk.broker.account().is_fifo
    assert desk.broker.close(second, D("0.2")).code == 10045

    assert desk.broker.close(first, D("0.3")).outcome is Outcome.DONE
    assert desk.broker.close(second, D("0.2")).outcome is Outcome.DONE


# --- faults


def test_the_same_seed_gives_the_same_faults(tmp_path: Path) -> None:
    def run(name: Any, seed: Any) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        faults = Faults(seed, reject=0.2, timeout=0.3, partial=0.3, slippage_points=5, late_ms=60_000)
        desk = Desk(folder, faults=faults)
        answers = []
        for number in range(60):
            desk.now += 60_000
            answers.append(desk.open(volume="0.02", magic=number).code)
        return answers, [(deal.magic, deal.volume, deal.price, deal.at_ms - START) for deal in desk.broker.history()]

    assert run("a", 1) == run("b", 1)
    assert run("c", 2) != run("a2", 1)


def test_an_order_that_timed_out_executes_now_later_or_never(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faults=Faults(4, timeout=1.0, late_ms=60_000))
    for number in range(60):
        assert desk.open(volume="0.02", magic=number).outcome is Outcome.UNKNOWN
    at_once = len(desk.broker.positions())
    desk.at("0.02")
    later = len(desk.broker.positions())
    assert 10 < at_once < later < 50
    assert {position.magic for position in desk.broker.positions()} == {
        n for n in range(60) if desk.broker.trace(n) is Trace.DONE
    }


def test_slippage_is_always_against_the_order(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faults=Faults(4, slippage_points=8))
    for number in range(20):
        desk.open(("BUY", "SELL")[number % 2], "0.02")
    prices = {"BUY": [], "SELL": []}
    for deal in desk.broker.history():
        prices[deal.side].append(deal.price)
    assert min(prices["BUY"]) >= D("1.10010") < max(prices["BUY"])
    assert max(prices["SELL"]) <= D("1.10000") > min(prices["SELL"])


def test_a_partial_fill_is_reported_as_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faults=Faults(4, partial=1.0))
    assert desk.open(volume="1").code == 10010
    (held,) = desk.broker.positions()
    assert D("0.01") <= held.volume < 1


def test_an_order_takes_its_latency(tmp_path: Path) -> None:
    slept = []
    desk = Desk(tmp_path, faults=Faults(latency_ms=(100, 100)), sleep=slept.append)
    desk.open()
    assert slept == [0.05, 0.05]


# --- the file


def test_executed_orders_survive_a_restart(desk: Any) -> None:
    held = desk.held(sl="1.09600")
    desk.broker.close_file()
    desk.start()
    assert desk.broker.positions() == [held]
    desk.at(1)
    assert desk.ends[0][0] == "SL"  # also one that was touched while nobody looked


def test_market_time_does_not_go_back(desk: Any) -> None:
    desk.at(1).positions()
    desk.at(0)
    desk.open()
    assert desk.broker.positions()[0].opened_ms == START + HOUR


def test_tickets_of_a_new_file_are_new(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = Desk(tmp_path / "a"), Desk(tmp_path / "b", stamp=lambda ms: ms + 5)
    assert first.held().id != second.held().id


VICTIM = """
import sys
from copybot.tests.test_paper import *
broker = PaperBroker(sys.argv[1], [Instrument("EURUSD", candles(), 10)], lambda: START, deposit=D(10**9))
for number in range(10_000):
    answer = broker.open(magic=number, symbol="EURUSD", side="BUY", volume=D("0.01"), sl=None, tp=None)
    print(number, answer.outcome.value, flush=True)
"""


@pytest.mark.crash
def test_a_killed_process_loses_no_answered_order(tmp_path: Path) -> None:
    for life in range(4):
        path = tmp_path / f"paper-{life}"
        command = [sys.executable, "-c", VICTIM, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as victim:
            victim.stdout.readline()
            time.sleep(0.05 + 0.07 * life)
            victim.send_signal(signal.SIGKILL)
            answered = 1 + sum(line.endswith("DONE\n") for line in victim.stdout)
        broker = PaperBroker(path, [Instrument("EURUSD", candles(), 10)], lambda: START, deposit=D(10**9))
        magics = [position.magic for position in broker.positions()]
        assert answered <= len(magics) <= answered + 1
        assert magics == list(range(len(magics))) == [deal.magic for deal in broker.history()]
        broker.close_file()
