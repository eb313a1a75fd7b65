"""Run as `python -m copybot.tests.guard_process STATE BROKER SIGNALS DONE [blind]`.

A copier's guard, in a process that a test kills.

Its broker is on paper, in a file too, so that what was executed outlives it. Signal 2n − 1 opens trade n, signal 2n + 2
closes it. Any life of this process may read a signal; a snapshot says what is active, where it was away.
"""

import json
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from copybot.candles import Bar, Candles, Instrument
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.paper import Faults, PaperBroker
from copybot.state_store import State
from copybot.targets import Snapshot, Target
from copybot.tests.guard_fixtures import PRICE, SECRET, SUB, packet

LIMITS = Limits(max_open_age_ms=3_600_000, settle_ms=300, second_look_ms=50, brake_least=10_000)
HOUR = 3_600_000


def wall_ms() -> Any:
    return time.time_ns() // 1_000_000


def broker(path: Any) -> PaperBroker:
    """Executes at once, at a price that stands still, and takes its time to say so."""
    first = wall_ms() // HOUR - 1
    bars = [Bar((first + hour) * HOUR, *4 * [PRICE]) for hour in range(48)]
    eurusd = Instrument("EURUSD", Candles(bars, digits=5), spread_points=0)
    return PaperBroker(path, [eurusd], wall_ms, deposit=Decimal(10**8), faults=Faults(latency_ms=(0, 4)))


def target(number: Any, now: Any) -> Target:
    return Target(f"t{number}", "EURUSD", "BUY", Decimal(1), None, None, PRICE, now, 2 * number - 1)


def signal(seq: Any, now: Any) -> Any:
    """Odd: trade (seq + 1) / 2 is opened. Even: the trade before that one is closed."""
    if seq % 2:
        return packet(seq, now, "OPEN", target((seq + 1) // 2, now))
    return packet(seq, now, "CLOSE", target(max(1, seq // 2 - 1), now))


def active(seq: Any, now: Any) -> dict[Any, Any]:
    """What is open once `seq` was sent."""
    opened, closed = (seq + 1) // 2, max(int(seq >= 2), seq // 2 - 1)
    return {f"t{number}": target(number, now) for number in range(closed + 1, opened + 1)}


class Blind(ExecutionGuard):
    """Does not look into the broker's books before it sends an order again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._driver.positions = dict

    def _find_out(self, copy: Any) -> None:
        self._mark(copy, State.REJECTED)


def main(state: Any, book: Any, signals: Any, done: Any, kind: str = "guard") -> None:
    now = wall_ms
    guard = (Blind if kind == "blind" else ExecutionGuard)(state, SUB, {1: SECRET}, 7, broker(book), now, LIMITS)
    guard.on_snapshot(Snapshot("1", guard.seen, active(guard.seen, now())), asked_at=guard.seen)
    sys.stdout.write("at work\n")
    sys.stdout.flush()
    while guard.seen < int(signals):
        guard.on_packet(signal(guard.seen + 1, now()))
    for _ in range(10):
        time.sleep(0.1)
        guard.tick()
    left = sorted(guard._magic(ref) for ref in active(guard.seen, now()))
    Path(done).write_text(json.dumps({"active": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
