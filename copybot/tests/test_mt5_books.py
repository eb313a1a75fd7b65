"""MetaTrader's books while they load, and while they are behind the answers to orders."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from copybot.broker import Outcome, Trace
from copybot.mt5 import MetaTrader, OtherAccount
from copybot.netting import Netting
from copybot.tests.fake_mt5 import FakeMT5, Fate
from copybot.tests.guard_fixtures import Clock
from copybot.tests.test_mt5 import MAGIC, held, order, refused

D = Decimal


def connected(fake: FakeMT5, clock: Clock) -> Any:
    terminal = MetaTrader.connect(login=5001, module=fake)
    terminal.clock_ms = clock
    return terminal


@pytest.fixture
def terminal(fake: FakeMT5, clock: Clock) -> Any:
    return connected(fake, clock)


def pass_time(clock: Clock, seconds: int, each: Callable[[], Any]) -> list[Any]:
    seen = []
    for _ in range(seconds):
        clock.now += 1_000
        seen.append(each())
    return seen


# --- settled


def test_a_busy_account_is_settled_once_its_history_was_loaded(terminal: Any, clock: Clock) -> None:
    pass_time(clock, 6, terminal.is_settled)
    for number in range(30):
        order(terminal, volume="0.01", magic=MAGIC + number)
        assert all(pass_time(clock, 4, terminal.is_settled))


def test_an_account_that_is_never_quiet_is_settled_a_minute_after_the_connection(terminal: Any, clock: Clock) -> None:
    settled = list[bool]()
    for number in range(30):
        order(terminal, volume="0.01", magic=MAGIC + number)
        settled += pass_time(clock, 4, terminal.is_settled)
    assert (settled[50:60], settled[61:]) == ([False] * 10, [True] * 59)


def test_history_that_still_loads_is_not_settled(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    for number in range(30):
        order(terminal, volume="0.01", magic=MAGIC + number)
    for fake.hidden in range(30, 0, -1):
        assert not any(pass_time(clock, 1, terminal.is_settled))
    fake.hidden = 0
    assert pass_time(clock, 6, terminal.is_settled)[-1]


@pytest.mark.parametrize("break_", ["connection", "account", "history"])
def test_a_break_unsettles(terminal: Any, fake: FakeMT5, clock: Clock, break_: str) -> None:
    order(terminal)
    pass_time(clock, 8, terminal.is_settled)
    if break_ == "connection":
        fake.connected = False
        terminal.positions()  # whoever asks notices
        fake.connected = True
    elif break_ == "account":
        fake.login_is = 7
        with pytest.raises(OtherAccount):
            terminal.is_settled()
        fake.login_is = 5001
    else:
        fake.hidden = 1
    assert pass_time(clock, 6, terminal.is_settled) == [False] * 5 + [True]


def test_a_gap_in_which_nobody_looked_unsettles_once(terminal: Any, clock: Clock) -> None:
    pass_time(clock, 8, terminal.is_settled)
    clock.now += 20_000
    assert pass_time(clock, 6, terminal.is_settled) == [False] * 5 + [True]
    assert any(pass_time(clock, 1, terminal.is_settled) or clock.__setattr__("now", clock.now + 6_000) for _ in "ab")


def test_the_position_list_is_a_look(terminal: Any, clock: Clock) -> None:
    pass_time(clock, 8, terminal.is_settled)
    pass_time(clock, 60, terminal.positions)
    assert terminal.is_settled()


# --- books behind the answers


def test_an_order_that_is_done_shows_later(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    fake.lag_ms = 800
    assert order(terminal).outcome is Outcome.DONE
    assert (terminal.positions(), terminal.history(), terminal.trace(MAGIC)) == ([], [], Trace.NONE)
    clock.now += 500
    order(terminal, magic=MAGIC + 1)
    clock.now += 300
    assert [position.magic for position in terminal.positions()] == [MAGIC]
    assert terminal.trace(MAGIC) is Trace.PENDING
    clock.now += 500
    assert [position.magic for position in terminal.positions()] == [MAGIC, MAGIC + 1]


def test_an_order_whose_deal_is_to_come_is_pending(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal)
    terminal.close(position, D("0.1"))
    assert terminal.trace(MAGIC) is Trace.DONE
    fake.hidden = 1
    assert terminal.trace(MAGIC) is Trace.PENDING


@pytest.fixture
def netting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = FakeMT5(balance=1e7, hedging=False)
    monkeypatch.setattr(fake, "_now_ms", clock)
    return Netting(connected(fake, clock), clock_ms=clock)


def by_magic(netting: Any) -> dict[int, tuple[str, Decimal]]:
    return {position.magic: (position.side, position.volume) for position in netting.positions()}


def test_a_close_that_is_done_is_not_sent_again_while_the_books_are_behind(netting: Any, clock: Clock) -> None:
    fake = netting.terminal.module
    for magic in (MAGIC, MAGIC + 1):
        order(netting, volume="0.20", magic=magic)
    fake.lag_ms = 5_000
    position = netting.positions()[0]
    assert netting.close(position, position.volume).outcome is Outcome.DONE
    for _ in range(4):
        clock.now += 1_000
        assert netting.close(position, position.volume).outcome is Outcome.UNKNOWN
    clock.now += 1_000
    assert by_magic(netting) == {MAGIC + 1: ("BUY", D("0.2"))}
    assert len(fake.sent) == 3


def test_a_close_in_pieces_waits_for_all_of_them(netting: Any, clock: Clock) -> None:
    fake = netting.terminal.module
    order(netting, volume="3.00")
    order(netting, volume="1.00", magic=MAGIC + 1)
    fake.symbols["EURUSD"].most, fake.lag_ms = 1.0, 900
    clock.now += 3_000
    position, send = netting.positions()[0], fake.order_send

    def slow(request: Any) -> Any:
        clock.now += 400
        return send(request)

    fake.order_send = slow
    assert netting.close(position, D(3)).outcome is Outcome.DONE
    clock.now += 300  # one piece shows
    assert by_magic(netting)[MAGIC] == ("BUY", D(2))
    assert netting.close(netting.positions()[0], D(2)).outcome is Outcome.UNKNOWN
    clock.now += 2_000
    assert by_magic(netting) == {MAGIC + 1: ("BUY", D(1))}
    assert [request["volume"] for request in fake.sent[2:]] == [1.0, 1.0, 1.0]


def test_a_refused_piece_is_not_waited_for(netting: Any, clock: Clock) -> None:
    fake = netting.terminal.module
    order(netting, volume="3.00")
    fake.symbols["EURUSD"].most, fake.fates = 1.0, [None, 10018]
    clock.now += 3_000
    assert netting.close(netting.positions()[0], D(3)).code == 10018
    assert netting.close(netting.positions()[0], D(2)).outcome is Outcome.DONE
    assert fake.positions == {}


def test_a_copy_off_the_new_step_closes_with_the_last_of_the_net_position(netting: Any, clock: Clock) -> None:
    fake = netting.terminal.module
    order(netting, volume="0.05")
    fake.symbols["EURUSD"].step = fake.symbols["EURUSD"].least = 0.1
    clock.now += 60_000
    order(netting, volume="0.10", magic=MAGIC + 1)
    first, second = netting.positions()
    assert refused(netting.close(first, first.volume), 10014, "volume_too_small")
    assert netting.close(second, second.volume).outcome is Outcome.DONE
    assert netting.close(first, first.volume).outcome is Outcome.DONE
    assert (fake.positions, netting.positions()) == ({}, [])


def test_a_close_that_waits_for_the_market_is_not_sent_again(netting: Any, clock: Clock) -> None:
    fake = netting.terminal.module
    order(netting, volume="0.20")
    order(netting, volume="0.30", magic=MAGIC + 1)
    fake.market_open, fake.queues = False, True
    position = netting.positions()[0]
    for _ in range(30):
        clock.now += 3_600_000
        assert netting.close(position, position.volume).outcome is Outcome.UNKNOWN
    assert len(fake.orders) == 1
    assert refused(netting.cancel(MAGIC), 10013)
    fake.opens()
    assert by_magic(netting) == {MAGIC + 1: ("BUY", D("0.3"))}


# --- orders that wait


def test_a_waiting_order_is_cancelled_and_never_filled(terminal: Any, fake: FakeMT5) -> None:
    fake.market_open, fake.queues = False, True
    assert order(terminal).outcome is Outcome.UNKNOWN
    assert terminal.trace(MAGIC) is Trace.WAITING
    assert terminal.cancel(MAGIC).outcome is Outcome.DONE
    assert terminal.trace(MAGIC) is Trace.NONE
    fake.opens()
    assert (fake.positions, terminal.positions()) == ({}, [])


def test_only_the_orders_of_this_magic_are_cancelled(terminal: Any, fake: FakeMT5) -> None:
    fake.market_open, fake.queues = False, True
    order(terminal)
    order(terminal, magic=MAGIC + 1)
    assert terminal.cancel(MAGIC).outcome is Outcome.DONE
    assert [waiting.magic for waiting in fake.orders] == [MAGIC + 1]


def test_nothing_to_cancel_is_a_refusal(terminal: Any, fake: FakeMT5) -> None:
    assert refused(terminal.cancel(MAGIC), 10013)
    fake.market_open, fake.queues = False, True
    order(terminal)
    fake.opens()
    assert refused(terminal.cancel(MAGIC), 10013)
    assert len(fake.positions) == 1


@pytest.mark.parametrize(
    ("fate", "outcome"), [(10029, Outcome.REJECTED), (10025, Outcome.UNKNOWN), (Fate.TIMEOUT, Outcome.UNKNOWN),
                          (Fate.DEAF, Outcome.UNKNOWN), (Fate.TIMEOUT_DONE, Outcome.UNKNOWN)],
)  # fmt: skip
def test_a_cancel_without_a_clear_answer_is_unknown(terminal: Any, fake: FakeMT5, fate: Any, outcome: Outcome) -> None:
    fake.market_open, fake.queues = False, True
    order(terminal)
    fake.fates = [fate]
    assert terminal.cancel(MAGIC).outcome is outcome


def test_a_removal_under_way_is_not_sent_again(terminal: Any, fake: FakeMT5) -> None:
    fake.market_open, fake.queues = False, True
    order(terminal)
    fake.orders[0] = fake.orders[0]._replace(state=fake.ORDER_STATE_REQUEST_CANCEL)
    assert terminal.cancel(MAGIC).outcome is Outcome.UNKNOWN
    assert len(fake.sent) == 1


def test_the_rest_of_an_order_filled_in_part_is_cancelled(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [Fate.PLACED]
    order(terminal, volume="0.30")
    fake.settle(share=0.3)
    assert [position.volume for position in terminal.positions()] == [D("0.09")]
    assert terminal.trace(MAGIC) is Trace.WAITING
    assert terminal.cancel(MAGIC).outcome is Outcome.DONE
    fake.settle()
    assert [position.volume for position in terminal.positions()] == [D("0.09")]
    terminal.close(terminal.positions()[0], D("0.09"))
    assert terminal.trace(MAGIC) is Trace.DONE


def test_a_close_that_waits_is_not_cancelled(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal)
    fake.market_open, fake.queues = False, True
    assert terminal.close(position, position.volume).outcome is Outcome.UNKNOWN
    assert refused(terminal.cancel(MAGIC), 10013)
    fake.opens()
    assert fake.positions == {}
