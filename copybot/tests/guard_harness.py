"""A guard with its own file, between a faulty broker and a desk that the test plays."""

import random
from decimal import Decimal
from typing import Any

from copybot.guard import ExecutionGuard
from copybot.targets import Snapshot, Target
from copybot.tests.guard_fixtures import CALM, LIMITS, NOON, PRICE, SECRET, SUB, FaultyBroker, packet

SECOND = 1000


class Desk:
    """One guard with its own file, a broker, and a clock that the test moves."""

    def __init__(self, folder: Any) -> None:
        self.path, self.now, self.dies = folder / "state", NOON, None
        self.broker = FaultyBroker(random.Random(1), CALM, first=1)
        self.guard: Any = None
        self.start()

    def start(self) -> None:
        """Restart as after a crash: uncommitted data is lost."""
        if self.guard is not None:
            self.guard.close()
        self.guard = ExecutionGuard(self.path, SUB, {1: SECRET}, 7, self.broker, lambda: self.now, LIMITS)

    def snapshot(self, as_of: Any, *targets: Any, epoch: str = "1", asked_at: Any = None) -> None:
        asked_at = self.guard.seen if asked_at is None else asked_at
        self.guard.on_snapshot(Snapshot(epoch, as_of, {target.ref: target for target in targets}), asked_at=asked_at)

    def send(self, seq: Any, action: Any, target: Any, **more: Any) -> None:
        self.guard.on_packet(packet(seq, self.now, action, target, **more))

    def wait(self, seconds: Any) -> None:
        self.now += seconds * SECOND
        self.guard.tick()

    def settle(self) -> None:
        for _ in range(12):
            self.wait(1)

    def state(self, ref: Any) -> Any:
        return next((copy.state for copy in self.guard.copies() if copy.ref == ref), None)

    @property
    def volumes(self) -> Any:
        return sorted(position.volume for position in self.broker.held.values())

    @property
    def opened(self) -> Any:
        return sum(self.broker.opens.values())


def target(ref: str = "t1", volume: str = "1.0", **more: Any) -> Target:
    defaults = {"sl": None, "tp": None, "price": PRICE, "born_ms": NOON, "seq": 1}
    return Target(ref, "EURUSD", "BUY", Decimal(volume), **defaults | more)


T1, T2 = target(), target("t2", seq=2)


def answering(desk: Any, result: Any, *, does: bool = False) -> None:
    """Give the next open this answer; `does`: whether the order is executed."""
    real = desk.broker.open

    def once(**order: Any) -> Any:
        desk.broker.open = real
        if does:
            real(**order)
        if isinstance(result, BaseException):
            raise result
        return result

    desk.broker.open = once
