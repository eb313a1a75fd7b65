"""Run as `python -m copybot.tests.guard_process STATE BROKER SIGNALS DONE [guard|blind]`.

A copier's guard, in a process that a test kills. It prints WORKING once it takes signals.

Its broker is on paper and in a file too, so that executed orders outlive the process. Signal 2n − 1 opens trade n,
signal 2n + 2 closes it. Each life of the process goes on with the next signal; a snapshot tells it what is active.
"""

import json
import sys
import time
from decimal import Decimal
from pathlib import Path

from copybot.candles import Bar, Candles, Instrument
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.paper import Faults, PaperBroker
from copybot.state_store import Copy, State
from copybot.targets import Snapshot, Target
from copybot.tests.guard_fixtures import PRICE, SECRET, SUB, packet

LIMITS = Limits(max_open_age_ms=3_600_000, settle_ms=300, second_look_ms=50, brake_least=10_000)
HOUR = 3_600_000
WORKING = "working"


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def broker(path: str | Path, deposit: int = 10**8) -> PaperBroker:
    """Executes at once, at a constant price, and answers up to 2 ms later."""
    first = wall_ms() // HOUR - 1
    bars = [Bar((first + hour) * HOUR, PRICE, PRICE, PRICE, PRICE) for hour in range(48)]
    eurusd = Instrument("EURUSD", Candles(bars, digits=5), spread_points=0)
    return PaperBroker(path, [eurusd], wall_ms, deposit=Decimal(deposit), faults=Faults(latency_ms=(0, 4)))


def target(number: int, now: int) -> Target:
    return Target(f"t{number}", "EURUSD", "BUY", Decimal(1), None, None, PRICE, now, 2 * number - 1)


def signal(seq: int, now: int) -> dict[str, str]:
    """An odd number opens trade (seq + 1) / 2; an even one closes the trade before that."""
    if seq % 2:
        return packet(seq, now, "OPEN", target((seq + 1) // 2, now))
    return packet(seq, now, "CLOSE", target(max(1, seq // 2 - 1), now))


def active(seq: int, now: int) -> dict[str, Target]:
    """The trades that are open after signal `seq`."""
    opened, closed = (seq + 1) // 2, max(int(seq >= 2), seq // 2 - 1)
    return {f"t{number}": target(number, now) for number in range(closed + 1, opened + 1)}


class BlindGuard(ExecutionGuard):
    """Sends an order without an answer again, without a lookup in the broker's books."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._driver.positions = dict

    def _look_up_order(self, copy: Copy) -> None:
        self._mark(copy, State.REJECTED)


def main(state: str, broker_file: str, signals: str, done: str, kind: str = "guard") -> None:
    guard_type = BlindGuard if kind == "blind" else ExecutionGuard
    guard = guard_type(state, SUB, {1: SECRET}, 7, broker(broker_file), wall_ms, LIMITS)
    sys.stdout.write(f"{WORKING}\n")
    sys.stdout.flush()
    guard.on_snapshot(Snapshot("1", guard.seen, active(guard.seen, wall_ms())), asked_at=guard.seen)
    while guard.seen < int(signals):
        guard.on_packet(signal(guard.seen + 1, wall_ms()))
    for _ in range(10):
        time.sleep(0.1)
        guard.tick()
    held = sorted(guard._magic(ref) for ref in active(guard.seen, wall_ms()))
    Path(done).write_text(json.dumps({"active": held}))


if __name__ == "__main__":
    main(*sys.argv[1:])
