"""Rollovers and splits that a server books as a close and an open: to bots nothing happened."""

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Deal, Entry, Outcome, Trace
from copybot.copier import Copier
from copybot.desk_model import COPIER, MASTER, DeskModel, UnreliableLine
from copybot.fifo import Fifo
from copybot.limits import Limits
from copybot.mt5 import MetaTrader
from copybot.netting import Netting
from copybot.position_sync import PositionSync
from copybot.rebooking import Rebooked, chains_of
from copybot.simulation import NOON
from copybot.tests.copier_harness import ME
from copybot.tests.fake_mt5 import AHEAD_MS, FakeMT5
from copybot.tests.guard_fixtures import Clock
from copybot.tests.test_mt5 import MAGIC, order

D = Decimal
Booking = Callable[[FakeMT5], None]

ROLLOVERS: dict[str, Booking] = {
    "same ids": lambda fake: fake.rollover_rebooked(),
    "new ids": lambda fake: fake.rollover_rebooked(new_ids=True),
    "new ids without magic": lambda fake: fake.rollover_rebooked(new_ids=True, keeps_magic=False),
}
SPLITS: dict[str, Booking] = {
    "split": lambda fake: fake.split("EURUSD", 2),
    "split, new ids": lambda fake: fake.split("EURUSD", 2, new_ids=True),
}


def raw(fake: FakeMT5, clock: Clock) -> MetaTrader:
    terminal = MetaTrader.connect(login=fake.login_is, module=fake)
    terminal.clock_ms = clock
    return terminal


@pytest.fixture
def terminal(fake: FakeMT5, clock: Clock) -> Any:
    return Rebooked(raw(fake, clock), clock)


def shown(terminal: Any) -> Any:
    """All of the positions except the floating profit."""
    return [(p.id, p.magic, p.side, p.volume, p.sl, p.tp, p.open_price, p.opened_ms) for p in terminal.positions()]


@pytest.mark.parametrize("name", [*ROLLOVERS, *SPLITS])
def test_a_booking_changes_no_position_and_no_deal(terminal: Any, fake: FakeMT5, clock: Clock, name: str) -> None:
    order(terminal, volume="0.30", sl="1.05", tp="1.2")
    order(terminal, "SELL", volume="0.10", magic=MAGIC + 1)
    before, ids = shown(terminal), [position.id for position in terminal.positions()]
    deals = [terminal.deals(number) for number in ids]
    for _ in range(3):
        clock.now += 60_000
        (ROLLOVERS | SPLITS)[name](fake)
        assert shown(terminal) == before
        assert [terminal.deals(number) for number in ids] == deals
        assert [terminal.trace(magic) for magic in (MAGIC, MAGIC + 1)] == [Trace.PENDING, Trace.PENDING]
        assert [terminal.position_under(magic) for magic in (MAGIC, MAGIC + 1)] == ids
        assert Rebooked(terminal.terminal, clock).positions() == terminal.positions()  # a restart sees the same


@pytest.mark.parametrize("name", [*ROLLOVERS, *SPLITS])
def test_a_close_after_a_booking_closes_all_and_the_profit_adds_up(
    terminal: Any, fake: FakeMT5, clock: Clock, name: str
) -> None:
    order(terminal, volume="0.30")
    (position,) = terminal.positions()
    fake.price("EURUSD", 1.15)
    fake.rollover()  # charges a swap
    (ROLLOVERS | SPLITS)[name](fake)
    clock.now += 60_000
    assert terminal.close(position, D("0.10")).outcome is Outcome.DONE
    assert [position.volume for position in terminal.positions()] == [D("0.20")]
    assert terminal.close(position, D("0.20")).outcome is Outcome.DONE
    assert (terminal.positions(), fake.positions) == ([], {})
    deals = terminal.deals(position.id)
    assert [(deal.entry, deal.volume, deal.reason) for deal in deals] == [
        (Entry.IN, D("0.3"), "MANUAL"), (Entry.OUT, D("0.1"), "MANUAL"), (Entry.OUT, D("0.2"), "MANUAL"),
    ]  # fmt: skip
    assert abs(sum(deal.profit for deal in deals) - D(str(round(fake.balance - 1e7, 2)))) < D("0.01")
    assert terminal.trace(MAGIC) is Trace.DONE
    refused = terminal.close(position, D("0.20"))
    assert (refused.outcome, refused.code) == (Outcome.REJECTED, 10036)


@pytest.mark.parametrize("name", SPLITS)
def test_stops_are_in_the_units_of_the_open(terminal: Any, fake: FakeMT5, clock: Clock, name: str) -> None:
    order(terminal, sl="1.05")
    SPLITS[name](fake)
    (position,) = terminal.positions()
    clock.now += 60_000
    assert terminal.modify(position, sl=D("1.06"), tp=D("1.2")).outcome is Outcome.DONE
    assert [(round(held.sl, 5), round(held.tp, 5)) for held in fake.positions.values()] == [(0.53, 0.6)]
    assert (terminal.positions()[0].sl, terminal.positions()[0].tp) == (D("1.06"), D("1.2"))
    assert terminal.modify(position, sl=D("1.06"), tp=D("1.2")).code == 10025


def test_a_position_whose_second_booking_is_to_come_is_not_closed(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    order(terminal)
    (position,) = terminal.positions()
    (held,) = fake.positions.values()
    fake._book_out(held, 7)
    assert (terminal.positions(), terminal.trace(MAGIC)) == ([], Trace.PENDING)
    assert [deal.entry for deal in terminal.deals(position.id)] == [Entry.IN]
    clock.now += 1_000
    fake._book_in(held, 7, held.volume, fake._ending(held), new_ids=True)
    assert [position.id for position in terminal.positions()] == [position.id]


def test_a_position_that_is_never_booked_in_again_was_closed(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    order(terminal)
    (position,) = terminal.positions()
    fake._book_out(next(iter(fake.positions.values())), 7)
    assert terminal.trace(MAGIC) is Trace.PENDING
    clock.now += terminal.wait_ms
    assert terminal.trace(MAGIC) is Trace.DONE
    closed = terminal.deals(position.id)[-1]
    assert (closed.entry, closed.volume, closed.reason) == (Entry.OUT, D("0.1"), "MANUAL")


def test_a_new_id_whose_deals_are_to_come_is_not_taken_for_a_second_position(
    terminal: Any, fake: FakeMT5, clock: Clock
) -> None:
    order(terminal)
    (position,) = terminal.positions()
    fake.rollover_rebooked(new_ids=True)
    fake.hidden = 2
    assert terminal.positions() == []
    fake.hidden = 0
    assert [one.id for one in terminal.positions()] == [position.id]


def test_a_position_without_deals_is_shown_in_the_end(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    order(terminal)
    fake.hidden = 1
    assert terminal.positions() == []
    clock.now += terminal.deals_wait_ms
    assert len(terminal.positions()) == 1


def test_each_of_many_positions_goes_on_as_itself() -> None:
    """Equal volumes go by magic, then by order; a split by its own volume."""
    rng = random.Random(5)
    for _ in range(200):
        magics = [rng.choice([0, MAGIC, MAGIC + 1]) for _ in range(4)]
        volumes = [D(rng.randrange(1, 4)) / 10 for _ in range(4)]
        opens = [_deal(n, str(n), Entry.IN, magics[n], volumes[n], "MANUAL") for n in range(4)]
        outs = [_deal(10 + n, str(n), Entry.OUT, magics[n], volumes[n], "ROLLOVER") for n in range(4)]
        back = list(range(4))
        rng.shuffle(back)
        ins = [_deal(20 + n, str(20 + n), Entry.IN, magics[n], volumes[n], "ROLLOVER") for n in back]
        chains = chains_of([*opens, *outs, *ins])
        assert all(not chain.away and chain.lots == chain.remaining for chain in chains.values())
        for n in range(4):
            chain = chains[str(20 + n)]
            assert (chain.magic, chain.remaining) == (magics[n], volumes[n])
        assert len({id(chains[str(20 + n)]) for n in range(4)}) == 4


def _deal(number: int, position: str, entry: Entry, magic: int, volume: Decimal, reason: str) -> Deal:
    side = "BUY" if entry is Entry.IN else "SELL"
    return Deal(
        str(number), str(number), position, entry, magic, "EURUSD", side, volume, D("1.1"), D(0), number, reason
    )


# --- copies that share an account


@pytest.mark.parametrize("kind", ["netting", "fifo"])
@pytest.mark.parametrize("name", [*ROLLOVERS, *SPLITS])
def test_shared_accounts_keep_their_copies(clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    fake = FakeMT5(balance=1e7, hedging=kind == "fifo")
    fake.fifo = kind == "fifo"
    monkeypatch.setattr(fake, "_now_ms", clock)
    copies: Any = (Fifo if fake.fifo else Netting)(raw(fake, clock), clock_ms=clock)
    for number, volume in enumerate(("0.30", "0.20", "0.10")):
        clock.now += 1_000
        order(copies, volume=volume, magic=MAGIC + number)
    before = shown(copies)
    for _ in range(2):
        clock.now += 86_400_000
        (ROLLOVERS | SPLITS)[name](fake)
        assert shown(copies) == before
    clock.now += 1_000
    order(copies, volume="0.40", magic=MAGIC + 9)  # in the units of today
    assert copies.positions()[-1].volume == D("0.4")
    for position in copies.positions():
        assert copies.close(position, position.volume / 2).outcome is Outcome.DONE
    assert [position.volume for position in copies.positions()] == [D("0.15"), D("0.1"), D("0.05"), D("0.2")]
    for position in copies.positions():
        assert copies.close(position, position.volume).outcome is Outcome.DONE
    assert (copies.positions(), fake.positions) == ([], {})


# --- both sides


class Pair:
    """lena's publisher and finn's copier, each on a MetaTrader server of its own. A step is half a second."""

    def __init__(self, folder: Path) -> None:
        self.now, self.heard = NOON, 0
        self.lena, self.finn = FakeMT5(login=6001, balance=1e7), FakeMT5(balance=1e7)
        for fake in (self.lena, self.finn):
            fake._now_ms = lambda: self.now + AHEAD_MS
        clock = lambda: self.now  # noqa: E731
        self.desk = DeskModel(clock, lease_ms=45_000)
        ahead: dict[str, Any] = {"clock_ms": clock, "ahead_ms": lambda: AHEAD_MS}
        line = UnreliableLine(self.desk, MASTER, random.Random(1), 0.0)
        self.publisher = PositionSync(line, Rebooked(raw(self.lena, clock), clock), max_age_ms=60_000, **ahead)
        self.copier = Copier(
            UnreliableLine(self.desk, COPIER, random.Random(1), 0.0), Rebooked(raw(self.finn, clock), clock), [ME],
            folder, limits=Limits(), monotonic_ms=clock, jitter=lambda: 0.5, **ahead,
        )  # fmt: skip
        self.pass_time(20)

    def pass_time(self, seconds: int) -> None:
        for half in range(seconds * 2):
            self.now += 500
            self.publisher.sync()
            for message in self.desk.sent[self.heard :]:
                self.copier.on_message(message)
            self.heard = len(self.desk.sent)
            if half % 2:
                self.copier.step()

    def open(self, **stops: float) -> int:
        self.lena.selected.add("EURUSD")
        request = dict(action=1, type=0, symbol="EURUSD", volume=0.2, price=1.1, type_filling=0)
        assert self.lena.order_send(request | stops).retcode == 10009
        return list(self.lena.positions)[-1]


@pytest.mark.parametrize("name", [*ROLLOVERS, *SPLITS])
def test_nothing_is_published_or_closed_over_a_booking_and_a_close_afterwards_closes_all(
    tmp_path: Path, name: str
) -> None:
    pair, book = Pair(tmp_path), (ROLLOVERS | SPLITS)[name]
    pair.open(sl=1.05)
    pair.pass_time(20)
    assert [held.volume for held in pair.finn.positions.values()] == [0.1]
    published, orders, rows = len(pair.desk.sent), len(pair.finn.sent), dict(pair.desk.state.rows)
    for _ in range(3):
        book(pair.lena)
        book(pair.finn)
        pair.pass_time(90)
        assert (len(pair.desk.sent), len(pair.finn.sent)) == (published, orders)
        assert pair.desk.state.rows == rows
    (held,) = pair.lena.positions
    pair.lena.by_hand(held)
    pair.pass_time(30)
    assert (pair.finn.positions, pair.desk.state.rows) == ({}, {})
    assert len(pair.desk.state.closed) == 2
    pair.copier.close()


def test_the_history_is_read_once_for_all_positions_of_a_rollover(
    terminal: Any, fake: FakeMT5, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        order(terminal, volume="0.01", magic=MAGIC + number)
    terminal.positions()
    fake.rollover_rebooked(new_ids=True)
    readings, history = list[int](), terminal.terminal.history
    monkeypatch.setattr(terminal.terminal, "history", lambda: readings.append(1) or history())
    assert len(terminal.positions()) == 20
    assert len(terminal.positions()) == 20
    assert len(readings) == 1


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_that_the_list_shows_before_the_deals_changes_nothing(
    fake: FakeMT5, terminal: Any, clock: Clock, name: str
) -> None:
    """Twice the lots would be taken for too many, and half of the copy would be closed."""
    order(terminal, volume="0.10")
    (before,) = terminal.positions()
    known, real = len(fake.deals), fake.history_deals_get
    SPLITS[name](fake)
    late = {deal.ticket for deal in fake.deals[known:]}
    fake.history_deals_get = lambda *args, **more: tuple(
        deal for deal in real(*args, **more) if deal.ticket not in late
    )
    clock.now += 1_000
    assert [(row.id, row.volume) for row in terminal.positions()] in ([(before.id, D("0.10"))], [])

    fake.history_deals_get = real
    clock.now += 1_000
    assert [(row.id, row.volume) for row in terminal.positions()] == [(before.id, D("0.10"))]


def test_after_a_split_a_part_that_the_broker_rounds_up_to_all_is_not_closed(
    terminal: Any, fake: FakeMT5, clock: Clock
) -> None:
    """Ten lots became one, and the copy holds the least lot: the provider who closes a part is still in."""
    order(terminal, volume="0.10")
    fake.split("EURUSD", 0.1)
    (position,) = terminal.positions()
    answer = terminal.close(position, D("0.06"))
    assert (answer.outcome, answer.why) == (Outcome.REJECTED, "volume_too_small")
    assert shown(terminal)[0][3] == D("0.10")

    assert terminal.close(position, D("0.10")).outcome is Outcome.DONE
    assert terminal.positions() == []
