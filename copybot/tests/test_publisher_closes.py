"""When a provider's close is published: as soon as the deals prove it, and never because something is missing."""

from typing import Any

import pytest

from copybot.broker import Entry
from copybot.magic import magic_of
from copybot.mt5 import MetaTrader
from copybot.tests.fake_mt5 import FakeMT5
from copybot.tests.publisher_harness import Provider, World


class BusyAccount:
    """An account on which something else happens each second."""

    def __init__(self, provider: Provider) -> None:
        self.provider, self.other = provider, 0

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            provider = self.provider
            if self.other in provider.fake.positions:
                provider.fake.by_hand(self.other)
            else:
                self.other = provider.trade(0.01)
            provider.wait(1)


def test_a_close_is_published_with_the_next_sync_however_busy_the_account_is() -> None:
    provider = Provider()
    ticket = provider.trade(sl=1.0)
    provider.wait()
    assert str(ticket) in provider.active
    BusyAccount(provider).wait(60)
    provider.fake.by_hand(ticket)
    provider.wait()

    assert str(ticket) in provider.closed


def test_a_basket_is_closed_with_one_sync() -> None:
    provider = Provider()
    basket = [provider.trade(0.1) for _ in range(10)]
    provider.wait()
    for ticket in basket:
        provider.fake.by_hand(ticket)
    provider.wait()

    assert provider.closed.keys() == {str(ticket) for ticket in basket}


def test_an_open_on_a_busy_account_is_published_although_the_brokers_time_zone_is_unknown() -> None:
    provider = Provider(ahead_ms=lambda: None)
    BusyAccount(provider).wait(30)
    ticket = provider.trade()
    provider.wait()

    assert str(ticket) in provider.active


def test_an_incomplete_history_does_not_close_a_trade() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    complete = world.terminal.books
    world.terminal.books = {"1": [deal for deal in complete["1"] if deal.entry is Entry.IN]}
    world.settle()
    assert list(world.desk.active_rows) == ["1"]
    assert world.position_sync.findings["1"].kind == "waiting"

    world.terminal.books = complete
    world.settle()
    assert world.desk.closed["1"]["close_price"] == "1.20000000"
    assert world.position_sync.findings == {}


def test_complete_deals_prove_a_close_before_the_history_is_quiet() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.settled = False
    world.terminal.close("1", "1", "1.2", "5")
    world.sync()

    assert list(world.desk.closed) == ["1"]


def test_a_list_that_is_empty_for_a_moment_closes_nothing() -> None:
    """The deals are complete and show the position open, so the list is wrong."""
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    held, world.terminal.held = world.terminal.held, {}
    for _ in range(20):
        world.sync(1_000)
    world.terminal.held = held
    world.settle()

    assert list(world.desk.active_rows) == ["1"]
    assert world.desk.log == [("open", "1", "1.00000000")]


def test_deals_that_opened_less_than_was_published_prove_nothing() -> None:
    """A history that loads gradually may show an opening deal and its close, and not yet the deals between."""
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.terminal.open("1", "2", "1.1", order="1")
    world.sync()
    complete, world.terminal.held = world.terminal.books, {}
    world.terminal.books = {"1": [complete["1"][0]]}
    world.terminal._deal("1", Entry.OUT, "1", "1.2", order="c", side="SELL", profit="5")
    world.settle()

    assert list(world.desk.active_rows) == ["1"]


def test_a_terminal_that_shows_nothing_closes_nothing() -> None:
    """Another login, or a history that is not loaded: no positions and no deals."""
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.held, world.terminal.books = {}, {}
    world.settle()

    assert list(world.desk.active_rows) == ["1"]


@pytest.mark.parametrize("magic", [0, 7, (0x42 << 56) + 1])
def test_a_bots_own_positions_are_published(magic: int) -> None:
    provider = Provider()
    ticket = provider.trade(magic=magic)
    provider.wait()

    assert list(provider.active) == [str(ticket)]


def test_a_copy_is_never_published_as_an_own_trade() -> None:
    """Or two providers who follow each other would send one trade round in circles."""
    asked: list[Any] = []
    provider = Provider(of=lambda position: asked.append(position) or {})
    provider.trade(magic=magic_of(7, "ref"))
    provider.wait(5)

    assert (provider.active, asked) == ({}, [])


def test_on_a_netting_account_a_copy_in_the_same_symbol_is_not_published_and_its_close_closes_no_own_trade() -> None:
    provider = Provider(FakeMT5(hedging=False, balance=1e7))
    provider.trade(0.1)
    provider.wait()
    provider.trade(0.2, magic=magic_of(7, "ref"))
    provider.wait(2)
    assert [row["volume"] for row in provider.active.values()] == ["0.10000000"]

    provider.trade(0.2, side=1, magic=magic_of(7, "ref"))
    provider.wait(2)
    assert [row["volume"] for row in provider.active.values()] == ["0.10000000"]

    provider.fake.by_hand(*provider.fake.positions)
    provider.wait(2)
    assert (provider.active, len(provider.closed)) == ({}, 1)


# --- prices at and below zero, and volumes off the broker's present step


def wti(provider: Provider) -> int:
    provider.fake.add("WTI", bid=1.0, digits=2, spread=3, contract=1000.0)
    ticket = provider.trade(1.0, symbol="WTI")
    provider.wait(1)
    return ticket


def test_closes_below_zero_are_published_with_their_loss() -> None:
    provider = Provider()
    ticket = wti(provider)
    provider.fake.price("WTI", -10.0)
    provider.fake.by_hand(ticket, 0.5)
    provider.wait()
    assert provider.active[str(ticket)]["volume"] == "0.50000000"

    provider.fake.price("WTI", -37.63)
    provider.fake.by_hand(ticket)
    provider.wait()
    assert provider.closed == {str(ticket): ("-37.63000000", "MANUAL")}
    sent = [text for text, _ in provider.desk.state.answers.values() if "('profit'" in text]
    assert ["('close_price', '-10.00000000')" in sent[0], "('profit', '-5515.00000000')" in sent[0]] == [True, True]
    assert "('profit', '-19330.00000000')" in sent[1]


@pytest.mark.parametrize("bid", [0.0, -0.01])
def test_what_ends_at_nothing_is_published(bid: float) -> None:
    provider = Provider()
    ticket = wti(provider)
    provider.fake.price("WTI", bid)
    provider.fake.by_hand(ticket)
    provider.wait()

    assert provider.closed == {str(ticket): (f"{bid:.8f}", "MANUAL")}


def test_a_half_that_is_off_the_brokers_new_step_is_published_as_it_is() -> None:
    provider = Provider()
    ticket = provider.trade(0.14)
    provider.wait()
    provider.fake.symbols["EURUSD"].step = provider.fake.symbols["EURUSD"].least = 0.1
    provider.terminal = MetaTrader.connect(login=provider.fake.login_is, module=provider.fake)
    provider.restart()
    provider.fake.by_hand(ticket, 0.07)
    provider.wait()
    assert provider.active[str(ticket)]["volume"] == "0.07000000"

    provider.fake.by_hand(ticket)
    provider.wait()
    assert list(provider.closed) == [str(ticket)]
