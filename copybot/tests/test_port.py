"""The contract of the broker port: one suite over each implementation, and over two broken ones."""

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry, Outcome, Trace
from copybot.candles import Instrument
from copybot.fifo import Fifo
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.mt5 import MetaTrader
from copybot.netting import Netting
from copybot.paper import Faults, PaperBroker
from copybot.rebooking import Rebooked
from copybot.symbols import Named, Names
from copybot.targets import Snapshot
from copybot.tests.fake_mt5 import FakeMT5
from copybot.tests.guard_fixtures import NOON, SECRET, SUB
from copybot.tests.test_guard import target
from copybot.tests.test_paper import START, candles

D = Decimal
ONE, TWO = (0x43 << 56) + (7 << 40) + 1, (0x43 << 56) + (7 << 40) + 2
VIP = Names(suffix=".vip")


def paper(folder: Any, symbol: str = "EURUSD", **more: Any) -> PaperBroker:
    return PaperBroker(folder / "paper", [Instrument(symbol, candles(), 10)], lambda: START, deposit=D(100_000), **more)


def metatrader(symbol: str = "EURUSD", **more: Any) -> Any:
    fake = FakeMT5(balance=100_000.0, **more)
    if symbol not in fake.symbols:
        fake.add(symbol, bid=1.1, digits=5, spread=10)
    return MetaTrader.connect(login=5001, module=fake)


def fifo_account() -> Any:
    terminal = metatrader()
    terminal.module.fifo = True
    return terminal


TERMINALS: dict[str, Any] = {
    "paper": paper,
    "paper, netting": lambda folder: Netting(paper(folder, is_hedging=False)),
    "paper, named": lambda folder: Named(paper(folder, "EURUSD.vip"), VIP),
    "metatrader": lambda folder: metatrader(),
    "metatrader, netting": lambda folder: Netting(metatrader(hedging=False)),
    "metatrader, rebooked": lambda folder: Rebooked(metatrader()),
    "metatrader, fifo": lambda folder: Fifo(fifo_account()),
    "metatrader, named": lambda folder: Named(metatrader("EURUSD.vip"), VIP),
    "metatrader, netting, named": lambda folder: Named(Netting(metatrader("EURUSD.vip", hedging=False)), VIP),
}


@pytest.fixture(params=TERMINALS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return TERMINALS[request.param](tmp_path)


def opened(
    terminal: Any,
    magic: Any = ONE,
    side: str = "BUY",
    volume: str = "0.30",
    symbol: str = "EURUSD",
    sl: Any = None,
    tp: Any = None,
) -> Any:
    spec = terminal.spec(symbol)
    if spec is not None:
        volume, sl, tp = spec.lots(D(volume)), spec.stop(sl), spec.stop(tp)
    return terminal.open(magic=magic, symbol=symbol, side=side, volume=D(volume), sl=sl, tp=tp)


def held(terminal: Any, magic: Any = ONE) -> Any:
    (position,) = [position for position in terminal.positions() if position.magic == magic]
    return position


def test_an_open_gives_a_position_with_its_magic(terminal: Any) -> None:
    assert terminal.trace(ONE) is Trace.NONE
    assert opened(terminal).outcome is Outcome.DONE
    position = held(terminal)
    assert (position.symbol, position.side, position.volume) == ("EURUSD", "BUY", D("0.30"))
    assert position.open_price == terminal.quote("EURUSD").of("BUY")
    assert position.opened_ms > 0
    assert position.profit == D("-3.00")  # the spread
    assert position.id.isdecimal()
    assert len(position.id) <= 19


def test_partial_closes_add_up(terminal: Any) -> None:
    before = terminal.account().balance
    opened(terminal)
    number = held(terminal).id
    for part in ("0.10", "0.20"):
        assert terminal.close(held(terminal), D(part)).outcome is Outcome.DONE
    assert terminal.positions() == []
    assert terminal.trace(ONE) is Trace.DONE

    deals, volumes = terminal.deals(number), Counter()
    for deal in deals:
        volumes[deal.entry] += deal.volume
        assert (deal.symbol, deal.position, deal.magic, deal.reason) == ("EURUSD", number, ONE, "MANUAL")
    assert volumes[Entry.IN] == volumes[Entry.OUT] == D("0.30")
    assert [deal.side for deal in deals] == ["BUY", "SELL", "SELL"]
    assert sum(deal.profit for deal in deals) == terminal.account().balance - before == D("-3.00")


def test_two_copies_of_a_symbol_are_two_positions_also_on_opposite_sides(terminal: Any) -> None:
    opened(terminal)
    opened(terminal, TWO, "SELL", "0.10")
    assert terminal.close(held(terminal), D("0.30")).outcome is Outcome.DONE
    assert [(position.magic, position.side, position.volume) for position in terminal.positions()] == [
        (TWO, "SELL", D("0.10"))
    ]
    assert [deal.volume for deal in terminal.deals(held(terminal, TWO).id)] == [D("0.10")]


def test_a_second_close_is_refused_and_changes_nothing(terminal: Any) -> None:
    opened(terminal)
    opened(terminal, TWO)
    position = held(terminal)
    terminal.close(position, position.volume)
    again = terminal.close(position, position.volume)
    assert (again.outcome, again.why) == (Outcome.REJECTED, "rejected")
    assert [(position.magic, position.volume) for position in terminal.positions()] == [(TWO, D("0.30"))]


def test_volume_steps_are_respected(terminal: Any) -> None:
    assert terminal.spec("EURUSD").lots(D("0.129")) == D("0.12")
    assert terminal.spec("EURUSD").lots(D("0.009")) == 0
    assert terminal.spec("EURUSD").lots(D(0)) == 0
    spec = terminal.spec("EURUSD")
    assert spec.lots(spec.lots(D("0.1299"))) == spec.lots(D("0.1299"))
    assert spec.stop(spec.stop(D("1.091234567"))) == spec.stop(D("1.091234567"))


def test_too_small_a_volume_is_refused_by_name(terminal: Any) -> None:
    answer = terminal.open(magic=ONE, symbol="EURUSD", side="BUY", volume=D("0.001"), sl=None, tp=None)
    assert (answer.outcome, answer.why) == (Outcome.REJECTED, "volume_too_small")


def test_an_unknown_symbol_is_refused_by_name_and_closes_nothing(terminal: Any) -> None:
    answer = opened(terminal, symbol="NOPE")
    assert (answer.outcome, answer.why) == (Outcome.REJECTED, "symbol_unknown")
    assert terminal.quote("NOPE") is None
    assert terminal.spec("NOPE") is None
    assert terminal.trace(ONE) is Trace.NONE


def test_fitted_stops_equal_the_positions_stops(terminal: Any) -> None:
    sl, tp = map(terminal.spec("EURUSD").stop, (D("1.091234567"), D("1.2")))
    opened(terminal, sl=D("1.091234567"), tp=D("1.2"))
    assert (held(terminal).sl, held(terminal).tp) == (sl, tp)

    sl, tp = map(terminal.spec("EURUSD").stop, (D("1.08"), None))
    assert terminal.modify(held(terminal), sl=sl, tp=tp).outcome is Outcome.DONE
    assert (held(terminal).sl, held(terminal).tp) == (sl, tp)
    assert terminal.modify(held(terminal), sl=None, tp=None).outcome is Outcome.DONE
    assert (held(terminal).sl, held(terminal).tp) == (None, None)


def test_an_unknown_position_has_no_deals(terminal: Any) -> None:
    assert terminal.deals("4711") == []


# --- the guard over each of them


def changed(rng: Any, copy_target: Any) -> Any:
    luck = rng.random()
    if luck < 0.3:
        return replace(copy_target, volume=copy_target.volume * D(rng.randrange(1, 10)) / 10)
    if luck < 0.6:
        away = D(rng.randrange(1_000, 3_000)) / 100_000
        return replace(copy_target, sl=D("1.1") - away if copy_target.side == "BUY" else D("1.1") + away)
    return copy_target


def held_of(spec: Any, volume: Any, *, closes: bool) -> Any:
    """The lots held for a target after its reductions. The least lot stays until the target is zero, or is closed."""
    return spec.lots(volume) or (spec.volume_min if volume and not closes else D(0))


def strayed(terminal: Any, folder: Any, seed: Any, *, closes: bool = False) -> Any:
    """Run the guard through seeded snapshots; return how many positions differ from the last one."""
    rng, now, targets = random.Random(seed), [NOON], {}
    limits = Limits(settle_ms=2_000, second_look_ms=1_000, brake_least=1_000, closes_below_least=closes)
    guard = ExecutionGuard(folder / f"state-{seed}", SUB, {1: SECRET}, 7, terminal, lambda: now[0], limits)
    for as_of in range(1, 30):
        now[0] += 5_000
        targets = {ref: changed(rng, copy_target) for ref, copy_target in targets.items() if rng.random() > 0.2}
        if as_of > 1 and len(targets) < 6:
            born = target(f"t{as_of}", D(rng.randrange(1, 60)) / 100, seq=as_of, born_ms=now[0])
            targets[born.ref] = replace(born, side=rng.choice(["BUY", "SELL"]))
        guard.on_snapshot(Snapshot("1", as_of, dict(targets)), asked_at=guard.seen)
        for _ in range(8):
            now[0] += 1_000
            guard.tick()
    wanted = {}
    for ref, copy_target in targets.items():
        spec = terminal.spec("EURUSD")
        stops = [spec.stop(copy_target.sl), spec.stop(copy_target.tp)]
        volume = held_of(spec, copy_target.volume, closes=closes)
        if volume:
            wanted[guard.copy(ref).magic] = copy_target.side, volume, *stops
    guard.close()
    there = {
        position.magic: (position.side, position.volume, position.sl, position.tp) for position in terminal.positions()
    }
    return sum(there.get(magic) != wanted.get(magic) for magic in there.keys() | wanted.keys())


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_guard_brings_every_position_to_its_target(terminal: Any, tmp_path: Path, seed: int, closes: bool) -> None:
    assert strayed(terminal, tmp_path, seed, closes=closes) == 0


class Broken:
    """A terminal with a planted bug, which the suite must find."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    def __getattr__(self, name: Any) -> Any:
        return getattr(self.terminal, name)


class Unmarked(Broken):
    def open(self, *, magic: Any, **order: Any) -> Any:
        return self.terminal.open(magic=magic + 1, **order)


class Rounding(Broken):
    def close(self, position: Any, volume: Any) -> Any:
        return self.terminal.close(position, min(position.volume, volume + D("0.01")))


@pytest.mark.parametrize("fault", [Unmarked, Rounding])
def test_the_check_finds_a_broken_terminal(tmp_path: Path, fault: Any) -> None:
    assert strayed(fault(paper(tmp_path)), tmp_path, seed=0) > 0


# --- faults


class Storm:
    """The guard, which crashes at times, over a paper broker that refuses, answers late or never and fills in part."""

    guard: Any

    def __init__(self, folder: Any, seed: Any, *, netting: Any, hold_ms: int = 4_000) -> None:
        self.rng, self.now, self.folder, self.seed, self.netting = random.Random(seed), NOON, folder, seed, netting
        self.hold_ms, self.guard, self.targets = hold_ms, None, {}
        faults = Faults(seed, reject=0.1, timeout=0.3, partial=0.2, late_ms=3_000, slippage_points=3)
        clock = {"now_ms": lambda: START + self.now - NOON, "deposit": D(10**6)}
        instrument = Instrument("EURUSD", candles(repeats=True), 10)
        self.paper = PaperBroker(folder / "paper", [instrument], is_hedging=not netting, faults=faults, **clock)
        self.start()
        self.snapshot(1)
        for as_of in range(2, 40):
            self.live(as_of)
        self.paper.faults = Faults()
        for as_of in range(40, 48):
            self.snapshot(as_of)
            self.wait(5)

    def start(self) -> None:
        if self.guard is not None:
            self.guard.close()
        self.terminal = self.paper
        if self.netting:
            self.terminal = Netting(self.paper, hold_ms=self.hold_ms, clock_ms=lambda: self.now)
        limits = Limits(settle_ms=4_000, second_look_ms=1_000, brake_least=1_000)
        self.guard = ExecutionGuard(self.folder / "state", SUB, {1: SECRET}, 7, self.terminal, lambda: self.now, limits)

    def live(self, as_of: Any) -> None:
        rng = self.rng
        self.targets = {
            ref: changed(rng, copy_target) for ref, copy_target in self.targets.items() if rng.random() > 0.2
        }
        if len(self.targets) < 6:
            born = target(f"t{as_of}", D(rng.randrange(5, 60)) / 100, seq=as_of, born_ms=self.now)
            self.targets[born.ref] = replace(born, side=rng.choice(["BUY", "SELL"]))
        self.snapshot(as_of)
        self.wait(rng.randrange(1, 6))
        if rng.random() < 0.2:
            self.start()

    def snapshot(self, as_of: Any) -> None:
        self.guard.on_snapshot(Snapshot("1", as_of, dict(self.targets)), asked_at=self.guard.seen)

    def wait(self, seconds: Any) -> None:
        for _ in range(seconds):
            self.now += 1_000
            self.guard.tick()

    @property
    def orphans(self) -> list[Any]:
        wanted = {
            self.guard.copy(ref).magic: copy_target for ref, copy_target in self.targets.items() if self.guard.copy(ref)
        }
        return [
            position for position in self.terminal.positions()
            if position.magic not in wanted or position.side != wanted[position.magic].side
            or position.volume > held_of(self.terminal.spec("EURUSD"), wanted[position.magic].volume, closes=False)
        ]  # fmt: skip

    @property
    def doubled(self) -> list[Any]:
        """The magic numbers under which more than one position was opened."""
        opens = Counter(deal.magic for deal in self.paper.history() if deal.entry is Entry.IN)
        return [magic for magic, count in opens.items() if count > 1]


@pytest.mark.model
@pytest.mark.parametrize("seed", range(4))
def test_no_fault_opens_a_trade_twice_or_leaves_one_open(tmp_path: Path, seed: int) -> None:
    storm = Storm(tmp_path, seed, netting=False)
    assert storm.orphans == []
    assert storm.doubled == []
    assert len(storm.paper.history()) > 20
    storm.guard.close()


@pytest.mark.model
@pytest.mark.parametrize("seed", range(4))
def test_no_fault_separates_a_netting_account_from_its_copies(tmp_path: Path, seed: int) -> None:
    storm = Storm(tmp_path, seed, netting=True)
    assert storm.orphans == []
    net = sum(position.volume if position.side == "BUY" else -position.volume for position in storm.paper.positions())
    assert net == sum(
        position.volume if position.side == "BUY" else -position.volume for position in storm.terminal.positions()
    )
    storm.guard.close()
