"""Copies on an account that closes the positions of a symbol oldest first."""

import random
from decimal import Decimal
from typing import Any

import pytest

from copybot.broker import Entry, Outcome, Result, Trace
from copybot.deals import trades_of
from copybot.fifo import Fifo
from copybot.mt5 import MetaTrader
from copybot.netting import Netting
from copybot.rebooking import Rebooked
from copybot.settings import SettingsError
from copybot.terminals import of_account
from copybot.tests.fake_mt5 import FakeMT5, Fate
from copybot.tests.guard_fixtures import Clock
from copybot.tests.test_mt5 import MAGIC, order, refused

D = Decimal
ONE, TWO, THREE = MAGIC, MAGIC + 1, MAGIC + 2


@pytest.fixture
def fake(fake: FakeMT5) -> FakeMT5:
    fake.fifo = True
    return fake


@pytest.fixture
def fifo(fake: FakeMT5, clock: Clock) -> Any:
    terminal = MetaTrader.connect(login=5001, module=fake)
    terminal.clock_ms = clock
    return Fifo(terminal, clock_ms=clock)


def open_(fifo: Any, magic: int, volume: str, side: str = "BUY") -> None:
    fifo.clock_ms.now += 1_000
    assert order(fifo, side=side, volume=volume, magic=magic).outcome is Outcome.DONE


def by_hand(fake: FakeMT5, volume: float, clock: Clock) -> int:
    clock.now += 1_000
    fake.selected.add("EURUSD")
    fake.order_send(dict(action=1, type=0, symbol="EURUSD", volume=volume, price=1.1, sl=1.05, type_filling=0))
    return list(fake.positions)[-1]


def close(fifo: Any, magic: int, volume: str) -> Any:
    fifo.clock_ms.now += 1_000
    (position,) = [position for position in fifo.positions() if position.magic == magic]
    return fifo.close(position, D(volume))


def copies(fifo: Any) -> dict[int, tuple[str, Decimal]]:
    return {position.magic: (position.side, position.volume) for position in fifo.positions()}


def held(fake: FakeMT5) -> list[float]:
    return [position.volume for position in fake.positions.values()]


def test_the_broker_refuses_a_close_out_of_turn(fifo: Any) -> None:
    open_(fifo, ONE, "0.30")
    open_(fifo, TWO, "0.20")
    second = fifo.terminal.positions()[1]
    assert refused(fifo.terminal.close(second, second.volume), 10045)


def test_the_second_copy_closes_first(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.20")
    open_(fifo, TWO, "0.20")
    assert close(fifo, TWO, "0.20").outcome is Outcome.DONE
    assert copies(fifo) == {ONE: ("BUY", D("0.2"))}
    assert [(deal.entry, deal.magic) for deal in fifo.deals(str(TWO))] == [(Entry.IN, TWO), (Entry.OUT, TWO)]
    assert (fifo.trace(ONE), fifo.trace(TWO)) == (Trace.PENDING, Trace.DONE)
    assert close(fifo, ONE, "0.20").outcome is Outcome.DONE
    assert (copies(fifo), fake.positions) == ({}, {})


def test_a_close_goes_through_as_many_positions_as_it_needs(fifo: Any, fake: FakeMT5) -> None:
    for magic, volume in ((ONE, "0.10"), (TWO, "0.20"), (THREE, "0.30")):
        open_(fifo, magic, volume)
    assert close(fifo, THREE, "0.25").outcome is Outcome.DONE
    assert (copies(fifo)[THREE], held(fake)) == (("BUY", D("0.05")), [0.05, 0.3])
    assert [request["volume"] for request in fake.sent[3:]] == [0.1, 0.15]
    for magic, volume in ((TWO, "0.20"), (ONE, "0.10"), (THREE, "0.05")):
        assert close(fifo, magic, volume).outcome is Outcome.DONE
    assert (copies(fifo), fake.positions) == ({}, {})


def test_each_copy_has_its_own_profit_and_the_sum_is_the_accounts(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.10")
    fake.price("EURUSD", 1.11)
    open_(fifo, TWO, "0.10")
    fake.price("EURUSD", 1.12)
    close(fifo, TWO, "0.10")
    assert sum(deal.profit for deal in fifo.deals(str(TWO))) == D("99.00")
    close(fifo, ONE, "0.10")
    assert sum(deal.profit for deal in fifo.deals(str(ONE))) == D("199.00")
    assert round(fake.balance - 1e7, 2) == 298.00


def test_copies_carry_no_stops(fifo: Any, fake: FakeMT5) -> None:
    assert fifo.spec("EURUSD").stop(D("1.09")) is None
    assert order(fifo, sl="1.09").outcome is Outcome.DONE
    assert [position.sl for position in fake.positions.values()] == [0.0]


def test_a_restart_finds_every_copy(fifo: Any) -> None:
    open_(fifo, ONE, "0.30")
    open_(fifo, TWO, "0.20")
    close(fifo, TWO, "0.10")
    assert Fifo(fifo.terminal).positions() == fifo.positions()


def test_opposite_copies_never_stand_against_each_other_at_the_broker(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.30")
    open_(fifo, TWO, "0.10", "SELL")
    assert (copies(fifo), held(fake)) == ({ONE: ("BUY", D("0.3")), TWO: ("SELL", D("0.1"))}, [0.2])
    assert close(fifo, ONE, "0.30").outcome is Outcome.DONE
    assert [(position.type, position.volume) for position in fake.positions.values()] == [(1, 0.1)]
    assert close(fifo, TWO, "0.10").outcome is Outcome.DONE
    assert (copies(fifo), fake.positions) == ({}, {})


@pytest.mark.parametrize(("fate", "outcome"), [(10019, Outcome.DONE), (Fate.TIMEOUT, Outcome.UNKNOWN)])
def test_an_open_that_is_done_in_part_is_no_refusal(fifo: Any, fake: FakeMT5, fate: Any, outcome: Outcome) -> None:
    """A refusal would be sent again, and open the copy twice."""
    open_(fifo, ONE, "0.10")
    fake.fates = [None, fate]
    answer = order(fifo, side="SELL", volume="0.30", magic=TWO)
    assert (answer.outcome, copies(fifo)[TWO]) == (outcome, ("SELL", D("0.1")))


# --- answers that are lost, books that are behind


def test_a_close_that_is_done_is_not_sent_again_while_the_books_are_behind(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.30")
    open_(fifo, TWO, "0.20")
    fake.lag_ms = 5_000
    assert close(fifo, TWO, "0.20").outcome is Outcome.DONE
    assert close(fifo, TWO, "0.20").outcome is Outcome.UNKNOWN
    fifo.clock_ms.now += 5_000
    assert (copies(fifo), held(fake)) == ({ONE: ("BUY", D("0.3"))}, [0.1, 0.2])


def test_a_close_that_executed_twice_is_made_good(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.50")
    open_(fifo, TWO, "0.20")
    fake.fates = [Fate.TIMEOUT_LATER]
    assert close(fifo, TWO, "0.20").outcome is Outcome.UNKNOWN
    restarted = Fifo(fifo.terminal, clock_ms=fifo.clock_ms)  # killed: what was under way is forgotten
    assert close(restarted, TWO, "0.20").outcome is Outcome.DONE
    fake.settle()
    assert copies(restarted) == {ONE: ("BUY", D("0.5")), TWO: ("SELL", D("0.2"))}
    assert close(restarted, TWO, "0.20").outcome is Outcome.DONE
    assert (copies(restarted), round(sum(held(fake)), 2)) == ({ONE: ("BUY", D("0.5"))}, 0.5)


def test_a_refused_order_ends_the_close(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.10")
    open_(fifo, TWO, "0.20")
    fake.fates = [None, 10018]
    assert refused(close(fifo, TWO, "0.20"), 10018, "market_closed")
    assert copies(fifo) == {ONE: ("BUY", D("0.1")), TWO: ("BUY", D("0.1"))}


# --- others on the same account


def test_a_position_by_hand_is_no_copy_and_is_closed_in_its_turn(fifo: Any, fake: FakeMT5, clock: Clock) -> None:
    number = by_hand(fake, 0.5, clock)
    open_(fifo, ONE, "0.20")
    assert copies(fifo) == {ONE: ("BUY", D("0.2"))}
    assert close(fifo, ONE, "0.20").outcome is Outcome.DONE  # it is the older one, so the broker demands it
    assert (copies(fifo), fake.positions[number].volume, held(fake)) == ({}, 0.3, [0.3, 0.2])
    fake.by_hand(number)
    assert copies(fifo) == {}


def test_a_close_by_hand_closes_the_oldest_copy(fifo: Any, fake: FakeMT5) -> None:
    open_(fifo, ONE, "0.20")
    open_(fifo, TWO, "0.30")
    fake.by_hand(next(iter(fake.positions)), 0.1)
    assert copies(fifo) == {ONE: ("BUY", D("0.1")), TWO: ("BUY", D("0.3"))}
    close(fifo, TWO, "0.30")
    fake.by_hand(next(iter(fake.positions)))  # what is left is ONE's, whoever opened it
    assert copies(fifo) == {}


def test_a_close_by_hand_of_a_position_by_hand_closes_no_copy(fifo: Any, fake: FakeMT5, clock: Clock) -> None:
    open_(fifo, ONE, "0.20")
    number = by_hand(fake, 0.5, clock)
    fake.by_hand(number, 0.2)
    assert copies(fifo) == {ONE: ("BUY", D("0.2"))}


@pytest.mark.parametrize("seed", range(10))
def test_copies_and_others_always_sum_to_the_positions_and_every_close_gets_through(
    fifo: Any, fake: FakeMT5, clock: Clock, seed: int
) -> None:
    rng = random.Random(seed)
    fake.symbols["EURUSD"].most = rng.choice([0.2, 500.0])
    for step in range(60):
        luck, open_now = rng.random(), fifo.positions()
        clock.now += 4_000
        if luck < 0.4:
            open_(fifo, MAGIC + 100 + step, f"{rng.randrange(1, 20) / 100}", rng.choice(["BUY", "SELL"]))
        elif luck < 0.5 and seed % 2:
            by_hand(fake, rng.randrange(1, 20) / 100, clock)
        elif luck < 0.6 and seed % 2 and fake.positions:
            fake.by_hand(rng.choice(list(fake.positions)))
        elif luck < 0.65:
            fake.rollover_rebooked(new_ids=bool(step % 2))
        elif open_now:
            position = rng.choice(open_now)
            part = min(position.volume, D(rng.randrange(1, 30)) / 100)
            assert fifo.close(position, part).outcome is Outcome.DONE
        assert len({one.type for one in fake.positions.values()}) < 2
        net = sum(D(str(round(one.volume, 8))) * (1 - 2 * one.type) for one in fake.positions.values())
        assert fifo._book().net("EURUSD") == net
    for position in fifo.positions():
        assert fifo.close(position, position.volume).outcome is Outcome.DONE
    assert fifo.positions() == []
    assert fake.positions == {} or seed % 2


# --- which terminal an account needs


@pytest.mark.parametrize(
    ("hedging", "is_fifo", "copies_", "kind"),
    [(True, True, True, Fifo), (True, False, True, Rebooked), (False, False, True, Netting),
     (True, True, False, Rebooked)],
)  # fmt: skip
def test_the_account_itself_says_which_terminal_it_needs(
    hedging: bool, is_fifo: bool, copies_: bool, kind: Any
) -> None:
    fake = FakeMT5(hedging=hedging)
    fake.fifo = is_fifo
    terminal = MetaTrader.connect(login=5001, module=fake)
    assert terminal.account().is_fifo is is_fifo
    assert type(of_account(terminal, copies=copies_, netting=not hedging)) is kind


def test_copies_do_not_start_among_other_positions(fifo: Any, fake: FakeMT5, clock: Clock) -> None:
    by_hand(fake, 0.5, clock)
    with pytest.raises(SettingsError, match="oldest first"):
        of_account(fifo.terminal, copies=True, netting=False)
    open_(fifo, ONE, "0.20")
    assert type(of_account(fifo.terminal, copies=True, netting=False)) is Fifo  # a copy is open, and must be closable


def test_a_copy_that_several_orders_opened_is_one_trade(fifo: Any) -> None:
    open_(fifo, ONE, "0.30")
    open_(fifo, TWO, "0.50", side="SELL")  # closes the position of the other side, and opens the rest

    (trade,) = trades_of(fifo.deals(str(TWO)))
    assert (trade.ticket, trade.volume) == (str(TWO), D("0.50"))
    close(fifo, TWO, "0.50")
    (trade,) = trades_of(fifo.deals(str(TWO)))
    assert trade.remaining == 0


def test_a_copier_starts_before_the_deals_of_its_copies_have_loaded(fifo: Any, fake: FakeMT5, clock: Clock) -> None:
    """Without the copier nothing closes its copies, which have no stops on such an account."""
    open_(fifo, ONE, "0.20")
    fifo.terminal.history = list
    assert type(of_account(fifo.terminal, copies=True, netting=False)) is Fifo


def test_copies_opened_before_a_servers_clock_went_back_are_closed_in_turn(
    fifo: Any, fake: FakeMT5, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older position has the later time."""
    open_(fifo, ONE, "0.20")
    monkeypatch.setattr(fake, "_now_ms", lambda: clock.now - 3_600_000)
    open_(fifo, TWO, "0.10")
    open_(fifo, THREE, "0.20")

    assert close(fifo, TWO, "0.10").outcome is Outcome.DONE
    assert copies(fifo) == {ONE: ("BUY", D("0.20")), THREE: ("BUY", D("0.20"))}
    assert close(fifo, ONE, "0.20").outcome is Outcome.DONE
    assert close(fifo, THREE, "0.20").outcome is Outcome.DONE
    assert held(fake) == []


def test_a_close_that_is_refused_after_its_first_order_is_not_sent_again(
    fifo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest position was filled in part, so the next one is out of turn."""
    open_(fifo, ONE, "0.10")
    open_(fifo, TWO, "0.30")
    real, asked = fifo.terminal.take_off, []

    def take_off(position: Any, volume: Any, *, magic: Any) -> Result:
        asked.append(volume)
        return real(position, volume / 2, magic=magic) if len(asked) == 1 else Result(Outcome.REJECTED, 10045)

    monkeypatch.setattr(fifo.terminal, "take_off", take_off)

    answer = close(fifo, TWO, "0.20")
    assert (answer.outcome, answer.code) == (Outcome.REJECTED, 10045)
    assert asked == [D("0.10"), D("0.10")]
    assert copies(fifo)[TWO] == ("BUY", D("0.25"))
