"""Counts the orders that a broker refuses or does not answer, and says when each of them is due again."""

from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from copybot.broker import Outcome, Result

TOLD_AFTER_REFUSALS = 5  # then a person should know about it

# A market opens, a price moves and a trading permission returns within seconds, without a sign to the bot.
_LONGEST_WAIT_MS = 15_000
# Invalid request, volume or filling, trade disabled, more than is held, close only, FIFO: what makes the same order
# acceptable is a change of the account or of the symbol, which is rare. Placed, and a close that exists already: the
# broker has the order and executes it without another attempt.
_LASTING = frozenset({10008, 10013, 10014, 10017, 10030, 10038, 10039, 10042, 10043, 10044, 10045})
_LONGEST_LASTING_WAIT_MS = 60_000

Order = TypeVar("Order")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One order's attempts so far, of which none was answered DONE. `count`: of refusals. `result`: the last answer."""

    attempts: int
    last_ms: int
    count: int
    result: Result

    @property
    def wait_ms(self) -> int:
        if self.result.code in _LASTING:
            return min(_LONGEST_LASTING_WAIT_MS, 5_000 * max(0, self.attempts - 3))
        return min(_LONGEST_WAIT_MS, 500 * max(0, self.attempts - 10))


@dataclass
class Refusals(Generic[Order]):
    """The refusals by order. An order is due again at once, then less and less often, and for ever.

    A broker would block a client that asked every second over a weekend, and one that queues orders would queue them
    all. The waits grow with the attempts, not with the time, which a machine may sleep through: up to 15 s; up to 60 s
    where the broker has the order, or only a change of the account or symbol can help.
    """

    _by_order: dict[Order, Refusal] = field(default_factory=dict, init=False, repr=False)

    def is_due(self, order: Order, now_ms: int, least_ms: int = 0) -> bool:
        """Whether to send the order. `least_ms`: the shortest wait after a refusal."""
        refusal = self._by_order.get(order)
        if refusal is None:
            return True
        return abs(now_ms - refusal.last_ms) >= max(least_ms, refusal.wait_ms)  # clocks are set back, too

    def note(self, order: Order, result: Result, now_ms: int) -> None:
        """Take an answer. DONE ends the count; one without a code is not counted, since no order may have been sent."""
        if result.outcome is Outcome.UNKNOWN and not result.code:
            return
        if result.outcome is Outcome.DONE:
            self._by_order.pop(order, None)
            return
        last = self._by_order.get(order)
        attempts, count = (0, 0) if last is None else (last.attempts, last.count)
        count += result.outcome is Outcome.REJECTED
        self._by_order[order] = Refusal(attempts + 1, now_ms, count, result)

    def hurry(self, code: int) -> None:
        """Make the orders due whose last answer had this code: what hindered them may be over."""
        for order, refusal in self._by_order.items():
            if refusal.result.code == code:
                self._by_order[order] = replace(refusal, attempts=0)

    def get(self, order: Order) -> Refusal | None:
        return self._by_order.get(order)

    def items(self) -> list[tuple[Order, Refusal]]:
        return list(self._by_order.items())

    def orders(self) -> list[Order]:
        return list(self._by_order)

    def forget(self, order: Order) -> None:
        self._by_order.pop(order, None)
