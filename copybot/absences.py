"""Judges copies that have no position at the broker: their order is under way, they have ended, or there never was one.

A broker's list of positions and its history are behind an order's answer by up to a second, at times more. So an
answer DONE is evidence: a copy that has one is not taken for lost before the books had time to show it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from copybot.broker import Broker, Outcome, Trace
from copybot.findings import Finding
from copybot.limits import Limits
from copybot.refusals import TOLD_AFTER_REFUSALS, Refusals
from copybot.state_store import Copy, State

_CANCELLED_FOR = ("closed", "missed")  # why an order was cancelled: its trade was over, or it had waited too long


class Verdict(NamedTuple):
    """The state that a copy takes, the event that is reported (empty for none), and its reason."""

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
    _under_way_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _refused_cancels: Refusals[str] = field(default_factory=Refusals, init=False, repr=False)

    def judge(self, copy: Copy, limits: Limits) -> Verdict | None:
        """The verdict on a copy whose order was sent; None while it is still to be waited for."""
        try:
            trace = self.broker.trace(copy.magic)
        except Exception:
            return None
        if trace is Trace.DONE:
            return _gone(copy)
        cancelled = self._cancel_if_unwanted(copy, limits) if trace is Trace.WAITING else None
        if copy.position:
            return _gone(copy) if self._is_absent(copy, limits.settle_ms) else None
        if trace is not Trace.NONE:
            self._first_look_ms.pop(copy.ref, None)
            self._under_way_ms[copy.ref] = self.clock_ms()
            return cancelled
        return self._judge_untraced(copy, limits)

    def forget(self, ref: str) -> None:
        """Begin anew: the copy has a position, or another state."""
        self._first_look_ms.pop(ref, None)
        self._under_way_ms.pop(ref, None)
        self._refused_cancels.forget(ref)

    def findings(self) -> list[Finding]:
        """The unwanted orders that the broker goes on refusing to cancel."""
        return [
            Finding("", "order_waits", f"the broker does not cancel its order ({refusal.result.code})", ref=ref)
            for ref, refusal in self._refused_cancels.items()
            if refusal.count >= TOLD_AFTER_REFUSALS
        ]

    def _judge_untraced(self, copy: Copy, limits: Limits) -> Verdict | None:
        """The verdict on a copy of which the books show nothing at all."""
        is_cancelled = copy.why in _CANCELLED_FOR
        since_ms = max(copy.sent_ms, self._under_way_ms.get(copy.ref, 0))
        if not is_cancelled and abs(self.clock_ms() - since_ms) < limits.settle_ms:
            return None
        if not self._is_absent(copy, limits.second_look_ms):
            return None
        if is_cancelled:
            return Verdict(State.DEAD, "skipped", copy.why)
        return _gone(copy) if copy.state is State.HELD else Verdict(State.DEAD, "skipped", "lost")

    def _cancel_if_unwanted(self, copy: Copy, limits: Limits) -> Verdict | None:
        """Cancel an order that waits at the broker (over a weekend, say) if its trade is over, or if it has waited so
        long that it would be filled at another price. If it is filled all the same, the copy is held or closed."""
        now = self.clock_ms()
        why = "closed" if not copy.volume else "missed" if now - copy.born_ms > limits.max_open_age_ms else ""
        if not why or not self._refused_cancels.is_due(copy.ref, now):
            return None
        try:
            result = self.broker.cancel(copy.magic)
        except Exception:
            return None
        self._refused_cancels.note(copy.ref, result, now)
        is_new = result.outcome is Outcome.DONE and copy.why not in _CANCELLED_FOR
        return Verdict(copy.state, "", why) if is_new else None

    def _is_absent(self, copy: Copy, for_ms: int) -> bool:
        """Whether complete books have shown no position for this long."""
        if not self.is_settled():
            return False
        now = self.clock_ms()
        first = self._first_look_ms[copy.ref] = min(now, self._first_look_ms.get(copy.ref, now))  # clocks are set back
        return now - first >= for_ms


def _gone(copy: Copy) -> Verdict:
    return Verdict(State.GONE, "closed", copy.why)
