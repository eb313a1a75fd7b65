"""MetaTrader over a fake of its package, alone and under the real guard."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry, Outcome, Trace
from copybot.guard import ExecutionGuard
from copybot.mt5 import MetaTrader, OtherAccount
from copybot.netting import Netting
from copybot.state_store import State
from copybot.targets import Snapshot
from copybot.tests.fake_mt5 import AHEAD_MS, FakeMT5, Fate
from copybot.tests.guard_fixtures import LIMITS, SECRET, SUB, Clock
from copybot.tests.test_guard import target

D = Decimal
MAGIC = (0x43 << 56) + (7 << 40) + 99


@pytest.fixture
def fake() -> FakeMT5:
    return FakeMT5()


@pytest.fixture
def terminal(fake: FakeMT5, clock: Clock) -> Any:
    return MetaTrader.connect(login=5001, module=fake)


def order(
    terminal: Any,
    side: str = "BUY",
    volume: str = "0.10",
    magic: Any = MAGIC,
    symbol: str = "EURUSD",
    sl: Any = None,
    tp: Any = None,
) -> Any:
    stops = [None if stop is None else D(stop) for stop in (sl, tp)]
    return terminal.open(magic=magic, symbol=symbol, side=side, volume=D(volume), sl=stops[0], tp=stops[1])


def held(terminal: Any, **more: Any) -> Any:
    assert order(terminal, **more).outcome is Outcome.DONE
    return terminal.positions()[-1]


def refused(answer: Any, code: Any, why: str = "rejected") -> Any:
    return (answer.outcome, answer.code, answer.why) == (Outcome.REJECTED, code, why)


# --- floats


def test_a_position_is_what_was_ordered_to_the_last_digit(terminal: Any) -> None:
    position = held(terminal, sl="1.09123", tp="1.11321", volume="0.30")
    assert (position.side, position.magic, position.volume) == ("BUY", MAGIC, D("0.30"))
    assert (position.sl, position.tp, position.open_price) == (D("1.09123"), D("1.11321"), D("1.10010"))
    assert (position.sl, position.tp) == tuple(map(terminal.spec("EURUSD").stop, (D("1.09123"), D("1.11321"))))
    assert position.profit == D("-3.00")


def test_prices_lie_on_the_symbols_ticks(terminal: Any) -> None:
    spec = terminal.spec("GER40")
    assert (spec.lots(D("0.37")), spec.stop(D("18200.3")), spec.stop(D("18300.2"))) == (
        D("0.3"), D("18200.5"), D("18300.0"),
    )  # fmt: skip
    assert held(terminal, symbol="GER40", volume="0.3", sl="18200.5").sl == D("18200.5")


def test_volumes_are_rounded_down_and_to_zero_below_the_minimum(terminal: Any) -> None:
    assert terminal.spec("EURUSD").lots(D("0.129")) == D("0.12")
    assert terminal.spec("EURUSD").lots(D("0.0099")) == 0
    assert terminal.spec("EURUSD").lots(D(900)) == 500
    assert refused(order(terminal, volume="0.001"), 10014, "volume_too_small")


def test_money_has_the_accounts_digits(terminal: Any) -> None:
    account = terminal.account()
    assert (account.login, account.currency, account.balance) == ("5001", "USD", D("10000.00"))
    assert account.is_hedging and account.may_trade


# --- answers


@pytest.mark.parametrize(
    "code", [10004, 10006, 10007, *range(10013, 10025), 10026, 10027, 10029, 10033, 10034, 10040, 10046]
)
def test_a_clear_refusal_is_rejected(terminal: Any, fake: FakeMT5, code: Any) -> None:
    fake.fates = [code]
    assert order(terminal).outcome is Outcome.REJECTED
    assert fake.positions == {}


@pytest.mark.parametrize("code", [10008, 10011, 10012, 10028, 10031, 10039, 10025, 10099, 0])
def test_an_unclear_answer_is_unknown(terminal: Any, fake: FakeMT5, code: int) -> None:
    fake.fates = [code]
    assert order(terminal).outcome is Outcome.UNKNOWN


def test_a_missing_answer_is_unknown(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [Fate.DEAF]
    assert order(terminal).outcome is Outcome.UNKNOWN
    assert len(fake.positions) == 1


@pytest.mark.parametrize(
    ("code", "why"), [(10018, "market_closed"), (10019, "no_money"), (10004, "slippage"), (10006, "rejected")]
)
def test_a_refusal_has_a_reason(terminal: Any, fake: FakeMT5, code: int, why: str) -> None:
    fake.fates = [code]
    assert refused(order(terminal), code, why)


def test_an_unknown_symbol_differs_from_an_unreachable_terminal(terminal: Any, fake: FakeMT5) -> None:
    assert refused(order(terminal, symbol="GOLD"), 10013, "symbol_unknown")
    assert terminal.quote("GOLD") is None
    fake.is_up = False
    with pytest.raises(ConnectionError):
        order(terminal)
    with pytest.raises(ConnectionError):
        terminal.quote("USDJPY")


def test_a_refused_filling_mode_is_followed_by_the_next(terminal: Any, fake: FakeMT5) -> None:
    fake.symbols["EURUSD"].filling, fake.symbols["EURUSD"].exe = 0, 3
    assert order(terminal).outcome is Outcome.DONE
    fake.symbols["GER40"].filling = 2
    assert order(terminal, symbol="GER40").outcome is Outcome.DONE
    assert len(fake.sent) == 2  # each with one that the symbol names
    fake.symbols["EURUSD"].filling, fake.fates = 3, [10030]
    assert order(terminal).outcome is Outcome.DONE
    assert len(fake.positions) == 3


def test_a_partial_fill_is_done_with_what_was_filled(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [Fate.PARTIAL]
    assert order(terminal).outcome is Outcome.DONE
    assert terminal.positions()[0].volume == D("0.05")


def test_a_moved_price_is_slippage(terminal: Any, fake: FakeMT5) -> None:
    fake.symbols["EURUSD"].exe = 1
    tick = fake.symbol_info_tick
    fake.symbol_info_tick = lambda symbol: tick(symbol)._replace(ask=1.0990)
    assert refused(order(terminal), 10004, "slippage")


# --- a position and its names


def test_a_position_keeps_its_id_when_swaps_give_it_another_ticket(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal)
    fake.rollover()
    (same,) = terminal.positions()
    assert same.id == position.id != str(fake.positions[int(position.id)].ticket)
    assert same.profit == position.profit - D("0.70")
    assert terminal.modify(position, sl=D("1.09"), tp=None).outcome is Outcome.DONE
    assert terminal.close(position, D("0.04")).outcome is Outcome.DONE
    assert terminal.close(position, D("0.06")).outcome is Outcome.DONE
    assert terminal.positions() == []


def test_a_close_never_exceeds_the_position(terminal: Any) -> None:
    position = held(terminal)
    assert terminal.close(position, D("5")).outcome is Outcome.DONE
    assert refused(terminal.close(position, D("0.1")), 10036)
    assert terminal.positions() == []


def test_deals_give_a_positions_result(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, volume="0.30")
    fake.price("EURUSD", 1.105)
    fake.rollover()
    terminal.close(position, D("0.10"))
    fake.by_hand(int(position.id))
    deals = terminal.deals(position.id)
    assert [(deal.entry, deal.side, deal.volume, deal.magic) for deal in deals] == [
        (Entry.IN, "BUY", D("0.30"), MAGIC), (Entry.OUT, "SELL", D("0.10"), MAGIC), (Entry.OUT, "SELL", D("0.20"), 0),
    ]  # fmt: skip
    assert [deal.profit - deal.costs for deal in deals] == [0, D("49.00"), D("98.00")]
    assert sum(deal.costs for deal in deals).quantize(D("0.01")) == D("-0.70")
    assert {deal.order for deal in deals} != {deal.id for deal in deals}


def test_stop_target_and_stop_out_are_distinguished(terminal: Any, fake: FakeMT5) -> None:
    stopped, reached = held(terminal, sl="1.095"), held(terminal, tp="1.102")
    fake.price("EURUSD", 1.103)
    fake.price("EURUSD", 1.09)
    assert [terminal.deals(position.id)[-1].reason for position in (stopped, reached)] == ["SL", "TP"]
    assert terminal.deals(stopped.id)[-1].magic == MAGIC


# --- stops


def test_a_stop_that_is_too_close_is_moved_out_and_set_right_later(terminal: Any, fake: FakeMT5) -> None:
    fake.symbols["EURUSD"].stops = 50
    position = held(terminal, sl="1.09990")
    assert position.sl == D("1.09950")

    wanted = D("1.09990")
    assert refused(terminal.modify(position, sl=wanted, tp=None), 10016)  # what is there stays
    fake.price("EURUSD", 1.1020)
    assert terminal.modify(position, sl=wanted, tp=None).outcome is Outcome.DONE
    assert terminal.positions()[0].sl == wanted


def test_an_existing_stop_is_not_moved_to_a_price_that_was_not_requested(terminal: Any, fake: FakeMT5) -> None:
    fake.symbols["EURUSD"].stops = 50
    position = held(terminal, sl="1.09400")
    assert refused(terminal.modify(position, sl=D("1.09990"), tp=None), 10016)
    assert terminal.modify(position, sl=D("1.09990"), tp=D("1.2")).outcome is Outcome.DONE
    assert (terminal.positions()[0].sl, terminal.positions()[0].tp) == (D("1.09400"), D("1.2"))


def test_a_position_without_a_stop_gets_the_closest_allowed_one(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, side="SELL")
    fake.symbols["EURUSD"].stops = 50
    assert terminal.modify(position, sl=D("1.10020"), tp=D("1.05")).outcome is Outcome.DONE
    assert terminal.positions()[0].sl == D("1.10060")


def test_an_open_whose_stop_was_passed_is_not_sent(terminal: Any, fake: FakeMT5) -> None:
    assert refused(order(terminal, sl="1.1005"), 10016, "stop_passed")
    assert refused(order(terminal, side="SELL", tp="1.1005"), 10016, "stop_passed")
    assert fake.sent == []


def test_a_frozen_position_is_not_touched(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, sl="1.09990")
    fake.symbols["EURUSD"].freeze = 30
    assert refused(terminal.modify(position, sl=D("1.09"), tp=None), 10029)
    assert len(fake.sent) == 1


def test_a_stop_is_removed(terminal: Any) -> None:
    position = held(terminal, sl="1.09")
    assert terminal.modify(position, sl=None, tp=None).outcome is Outcome.DONE
    assert terminal.positions()[0].sl is None
    assert terminal.modify(position, sl=None, tp=None).code == 10025


# --- what the books say


def test_a_trace_is_found_in_any_time_zone_of_the_server(terminal: Any, fake: FakeMT5) -> None:
    assert terminal.trace(MAGIC) is Trace.NONE
    assert terminal.history() == []  # a deposit is no trade
    position = held(terminal)
    assert position.opened_ms > datetime.now(UTC).timestamp() * 1000 + AHEAD_MS - 60_000
    terminal.close(position, D("0.1"))
    assert terminal.trace(MAGIC) is Trace.DONE
    assert terminal.trace(MAGIC + 1) is Trace.NONE


def test_an_order_that_waits_is_traced_as_waiting(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [Fate.PLACED]
    assert order(terminal).outcome is Outcome.UNKNOWN
    assert terminal.trace(MAGIC) is Trace.WAITING
    fake.settle()
    assert terminal.positions()[0].magic == MAGIC


def test_an_unfilled_order_leaves_no_trace(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [Fate.PLACED]
    order(terminal)
    for state in (fake.ORDER_STATE_REJECTED, fake.ORDER_STATE_CANCELED, fake.ORDER_STATE_EXPIRED):
        fake.done_orders, fake.orders = [(fake.orders or fake.done_orders)[0]._replace(state=state)], []
        assert terminal.trace(MAGIC) is Trace.NONE


def test_a_partly_filled_order_leaves_a_trace(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [Fate.PLACED]
    order(terminal)
    fake.done_orders = [fake.orders.pop()._replace(state=fake.ORDER_STATE_CANCELED, volume_current=0.04)]
    assert terminal.trace(MAGIC) is Trace.PENDING


def test_a_deal_whose_position_is_not_listed_yet_is_pending(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal)
    shown, fake.positions = fake.positions, {}
    assert terminal.positions() == []
    assert terminal.trace(MAGIC) is Trace.PENDING
    fake.positions = shown
    terminal.close(position, D("0.1"))
    assert terminal.trace(MAGIC) is Trace.DONE


def test_history_is_complete_once_it_has_stopped_growing(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    terminal.clock_ms = clock
    for _ in range(5):
        order(terminal)
    fake.hidden = 3
    assert not terminal.is_settled()
    clock.now += 4_000
    fake.hidden = 1
    assert not terminal.is_settled()
    clock.now += 4_000
    assert not terminal.is_settled()
    clock.now += 4_000
    assert terminal.is_settled()
    fake.connected = False
    assert not terminal.is_settled()
    fake.connected = True
    assert not terminal.is_settled()


def test_none_is_an_error_and_not_an_empty_list(terminal: Any, fake: FakeMT5) -> None:
    held(terminal)
    fake.is_up = False
    for ask in (
        terminal.positions,
        terminal.history,
        terminal.is_settled,
        terminal.account,
        lambda: terminal.deals("1"),
    ):
        with pytest.raises(ConnectionError):
            ask()


def test_a_terminal_on_another_account_answers_and_orders_nothing(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal)
    fake.login_is, fake.positions = 7777, {}
    for ask in (
        terminal.positions,
        terminal.account,
        lambda: terminal.trace(MAGIC),
        lambda: terminal.close(position, D("0.1")),
    ):
        with pytest.raises(OtherAccount):
            ask()
    with pytest.raises(OtherAccount):
        order(terminal)
    assert len(fake.sent) == 1


def test_an_account_shows_whether_programs_may_trade(terminal: Any, fake: FakeMT5) -> None:
    fake.autotrading = False
    assert not terminal.account().may_trade


def test_a_missing_terminal_is_an_error_at_once(fake: FakeMT5) -> None:
    fake.is_up = False
    with pytest.raises(ConnectionError, match="IPC"):
        MetaTrader.connect(login=5001, module=fake)


@pytest.mark.skipif(sys.platform == "win32", reason="there it may be installed")
def test_a_missing_package_is_an_error() -> None:
    with pytest.raises(ImportError):
        MetaTrader.connect(login=5001)


# --- netting accounts


def test_a_deal_that_reversed_a_netting_position_is_split() -> None:
    terminal = MetaTrader.connect(login=5001, module=FakeMT5(hedging=False))
    position = held(terminal, volume="0.10")
    order(terminal, side="SELL", volume="0.30", magic=MAGIC + 1)
    deals = terminal.deals(position.id)
    assert [(deal.entry, deal.side, deal.volume) for deal in deals] == [
        (Entry.IN, "BUY", D("0.10")), (Entry.OUT, "SELL", D("0.10")), (Entry.IN, "SELL", D("0.20")),
    ]  # fmt: skip
    assert not terminal.account().is_hedging


def test_copies_share_a_netting_account() -> None:
    fake = FakeMT5(hedging=False)
    netting = Netting(MetaTrader.connect(login=5001, module=fake))
    order(netting, volume="0.10")
    order(netting, side="SELL", volume="0.30", magic=MAGIC + 1)
    first, second = netting.positions()
    assert (first.side, first.volume, second.side, second.volume) == ("BUY", D("0.10"), "SELL", D("0.30"))
    netting.close(first, first.volume)
    netting.close(second, second.volume)
    assert fake.positions == {}
    earned = sum(deal.profit for position in (first, second) for deal in netting.deals(position.id))
    assert earned == netting.account().balance - 10_000


# --- the guard over it


class Copier:
    guard: Any

    def __init__(self, folder: Any, fake: Any, clock: Any) -> None:
        self.path, self.fake, self.clock, self.guard, self.as_of = folder / "state", fake, clock, None, 0
        self.start()
        self.snapshot()

    def start(self) -> None:
        if self.guard is not None:
            self.guard.close()
        terminal = MetaTrader.connect(
            login=5001,
            module=self.fake,
        )
        terminal.clock_ms = self.clock
        self.guard = ExecutionGuard(self.path, SUB, {1: SECRET}, 7, terminal, self.clock, LIMITS)

    def snapshot(self, *targets: Any) -> None:
        self.as_of += 1
        self.guard.on_snapshot(
            Snapshot("1", self.as_of, {target.ref: target for target in targets}), asked_at=self.guard.seen
        )

    def wait(self, seconds: int = 30) -> None:
        for _ in range(seconds):
            self.clock.now += 1000
            self.guard.tick()

    @property
    def state(self) -> Any:
        return self.guard.copies()[0].state

    @property
    def opens(self) -> Any:
        return sum(deal.entry == 0 and deal.type < 2 for deal in self.fake.deals)


@pytest.fixture
def copier(tmp_path: Path, fake: FakeMT5, clock: Clock) -> Iterator[Copier]:
    copier = Copier(tmp_path, fake, clock)
    yield copier
    copier.guard.close()


T1 = target(volume="0.3", sl=D("1.09"))


def test_the_guard_opens_follows_and_closes(copier: Copier, fake: FakeMT5) -> None:
    copier.snapshot(T1)
    assert copier.state is State.HELD
    copier.snapshot(target(volume="0.1", sl=D("1.095")))
    copier.wait(3)
    (position,) = copier.guard.broker.positions()
    assert (position.volume, position.sl) == (D("0.1"), D("1.095"))
    copier.snapshot()
    copier.wait(10)
    assert fake.positions == {}
    assert copier.state is State.GONE


@pytest.mark.parametrize("fate", [Fate.TIMEOUT_DONE, Fate.DEAF, Fate.RAISES, Fate.TIMEOUT_LATER, Fate.PLACED])
def test_an_open_that_was_executed_without_an_answer_is_adopted(copier: Copier, fake: FakeMT5, fate: Any) -> None:
    fake.fates = [fate]
    copier.snapshot(T1)
    copier.wait(3)
    fake.settle()
    copier.wait()
    assert copier.state is State.HELD
    assert (copier.opens, len(fake.positions)) == (1, 1)


def test_an_open_that_timed_out_for_good_is_given_up_and_never_sent_again(copier: Copier, fake: FakeMT5) -> None:
    fake.fates = [Fate.TIMEOUT]
    copier.snapshot(T1)
    copier.wait()
    assert copier.state is State.DEAD
    copier.snapshot(T1)
    copier.wait()
    assert (copier.opens, len(fake.sent)) == (0, 1)


def test_an_open_that_executes_after_it_was_given_up_is_held(copier: Copier, fake: FakeMT5) -> None:
    fake.fates = [Fate.TIMEOUT_LATER]
    copier.snapshot(T1)
    copier.wait()
    fake.settle()
    copier.wait()
    assert copier.opens == 1


def test_a_killed_guard_finds_its_position(copier: Copier, fake: FakeMT5) -> None:
    fake.fates = [Fate.TIMEOUT_LATER]
    copier.snapshot(T1)
    copier.start()
    fake.settle()
    copier.snapshot(T1)
    copier.wait(3)
    assert copier.state is State.HELD
    assert copier.opens == 1


def test_a_rollover_closes_nothing_and_opens_nothing(copier: Copier, fake: FakeMT5) -> None:
    copier.snapshot(T1)
    orders = len(fake.sent)
    for _ in range(3):
        fake.rollover()
        copier.snapshot(T1)
        copier.wait(20)
    assert len(fake.sent) == orders
    assert [position.volume for position in fake.positions.values()] == [0.3]

    copier.snapshot()
    copier.wait(5)
    assert fake.positions == {}


def test_a_terminal_on_another_account_changes_nothing(copier: Copier, fake: FakeMT5) -> None:
    copier.snapshot(T1)
    mine, fake.positions, fake.login_is = fake.positions, {}, 7777
    copier.wait()
    assert copier.state is State.HELD
    fake.positions, fake.login_is = mine, 5001
    copier.snapshot()
    copier.wait(5)
    assert fake.positions == {}


def test_a_refused_close_is_repeated(copier: Copier, fake: FakeMT5) -> None:
    copier.snapshot(T1)
    fake.market_open = False
    copier.snapshot()
    copier.wait(5)
    assert len(fake.positions) == 1
    fake.market_open = True
    copier.wait(5)
    assert fake.positions == {}


def test_a_copy_closed_by_hand_is_not_reopened(copier: Copier, fake: FakeMT5) -> None:
    copier.snapshot(T1)
    fake.by_hand(next(iter(fake.positions)))
    copier.wait()
    copier.snapshot(T1)
    copier.wait()
    assert fake.positions == {}
    assert (copier.opens, copier.state) == (1, State.GONE)
