"""Judges copies that have no position at the broker: their order is under way, they have ended, or there never was one.

A broker's list of positions and its history are behind an order's answer by up to a second, at times more. So an
answer DONE is evidence: a copy that has one is not taken for lost before the books had time to show it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from copybot.broker import Broker, Trace
from copybot.limits import Limits
from copybot.state_store import Copy, State


class Verdict(NamedTuple):
    """The state that a copy takes, the event that is reported, and its reason."""

    state: State
    event: str
    why: str


@dataclass
class Absences:
    """One guard's copies without a position."""

    broker: Broker
    clock_ms: Callable[[], int]
    is_settled: Callable[[], bool]
    _first_look_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def judge(self, copy: Copy, limits: Limits) -> Verdict | None:
        """The verdict on a copy whose order was sent; None while it is still to be waited for."""
        try:
            trace = self.broker.trace(copy.magic)
        except Exception:
            return None
        if trace is Trace.DONE:
            return _gone(copy)
        if copy.position:
            return _gone(copy) if self._is_absent(copy, limits.settle_ms) else None
        if trace is Trace.PENDING:
            self.forget(copy.ref)
            return None
        if self.clock_ms() - copy.sent_ms < limits.settle_ms or not self._is_absent(copy, limits.second_look_ms):
            return None
        return _gone(copy) if copy.state is State.HELD else Verdict(State.DEAD, "skipped", "lost")

    def forget(self, ref: str) -> None:
        """Begin anew: the copy has a position, or its order is under way."""
        self._first_look_ms.pop(ref, None)

    def _is_absent(self, copy: Copy, for_ms: int) -> bool:
        """Whether complete books have shown no position for this long."""
        if not self.is_settled():
            return False
        now = self.clock_ms()
        return now - self._first_look_ms.setdefault(copy.ref, now) >= for_ms


def _gone(copy: Copy) -> Verdict:
    return Verdict(State.GONE, "closed", copy.why)
