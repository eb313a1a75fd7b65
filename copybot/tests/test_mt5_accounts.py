"""The guard on accounts of each kind, over a server whose books are behind, that books anew and changes its limits."""

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.magic import index_of
from copybot.mt5 import MetaTrader
from copybot.targets import Snapshot, Target
from copybot.terminals import of_account
from copybot.tests.fake_mt5 import FakeMT5, Fate
from copybot.tests.guard_fixtures import NOON, SECRET, SUB
from copybot.tests.test_guard import target

D = Decimal
LIMITS = Limits(settle_ms=20_000, second_look_ms=2_000, brake_least=1_000)
FATES = [None, None, None, Fate.TIMEOUT, Fate.TIMEOUT_DONE, Fate.DEAF, Fate.TIMEOUT_LATER, 10006, Fate.PARTIAL]


class Account:
    """finn's guard on a fake server whose clock the test moves. `kind`: hedging, netting or fifo."""

    def __init__(self, folder: Path, kind: str, seed: int) -> None:
        self.rng, self.now, self.as_of, self.targets = random.Random(seed), NOON, 0, dict[str, Target]()
        self.fake = FakeMT5(balance=1e7, hedging=kind != "netting")
        self.fake.fifo, self.fake.lag_ms = kind == "fifo", 1_500
        self.fake._now_ms = lambda: self.now
        raw = MetaTrader.connect(login=5001, module=self.fake)
        terminal_of: Any = of_account
        self.terminal = terminal_of(raw, copies=True, netting=kind == "netting")
        raw.clock_ms = self.terminal.clock_ms = lambda: self.now
        self.guard = ExecutionGuard(folder / "state", SUB, {1: SECRET}, 7, self.terminal, lambda: self.now, LIMITS)
        self.follow()
        self.wait(10)

    def follow(self) -> None:
        self.as_of += 1
        self.guard.on_snapshot(Snapshot("1", self.as_of, dict(self.targets)), asked_at=self.guard.seen)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1_000
            self.guard.tick()
            for magic, (side, _) in self.held.items():  # no close was executed twice
                assert self.guard.by_magic(magic).side == side

    def trade(self) -> None:
        """lena opens, reduces or closes at random."""
        rng = self.rng
        self.targets = {
            ref: replace(one, volume=one.volume / 2) if rng.random() < 0.2 else one
            for ref, one in self.targets.items()
            if rng.random() > 0.2
        }
        if len(self.targets) < 6:
            born = target(f"t{self.as_of}", D(rng.randrange(4, 60)) / 100, seq=self.as_of, born_ms=self.now)
            self.targets[born.ref] = replace(born, side=rng.choice(["BUY", "SELL"]))
        self.follow()

    @property
    def held(self) -> dict[int, tuple[str, Decimal]]:
        return {one.magic: (one.side, one.volume) for one in self.terminal.positions()}

    @property
    def net(self) -> Decimal:
        return sum((D(str(round(one.volume, 8))) * (1 - 2 * one.type) for one in self.fake.positions.values()), D(0))


@pytest.mark.model
@pytest.mark.parametrize("kind", ["hedging", "netting", "fifo"])
@pytest.mark.parametrize("seed", range(4))
def test_every_close_gets_through_and_nothing_is_opened_twice(tmp_path: Path, kind: str, seed: int) -> None:
    account = Account(tmp_path, kind, seed)
    for round_ in range(30):
        account.fake.fates = [account.rng.choice(FATES)] if account.rng.random() < 0.5 else []
        account.trade()
        account.wait(account.rng.randrange(1, 8))
        if account.rng.random() < 0.3:
            account.fake.settle()
        if account.rng.random() < 0.15 and not account.fake.later:
            account.fake.rollover_rebooked(new_ids=bool(round_ % 2))
        account.fake.symbols["EURUSD"].most = account.rng.choice([500.0, 500.0, 0.2])
    account.fake.fates = []
    account.fake.settle()
    for _ in range(3):
        account.follow()
        account.wait(60)

    wanted = {account.guard.copy(ref).magic: one for ref, one in account.targets.items()}
    for magic, (side, volume) in account.held.items():
        assert (side, magic in wanted) == (wanted[magic].side, True)
        assert volume <= max(wanted[magic].volume, D("0.01"))  # the least lot stays until the trade is over
    signed = (volume if side == "BUY" else -volume for side, volume in account.held.values())
    assert account.net == sum(signed, D(0))
    opened = Counter(
        order.magic for order in account.fake.done_orders if kind == "hedging" and not order.position_id
        and index_of(order.magic) == 7
    )  # fmt: skip
    assert [magic for magic, times in opened.items() if times > 1] == []

    account.targets = {}
    account.follow()
    account.wait(180)
    assert (account.held, account.fake.positions) == ({}, {})
    account.guard.close()
