"""Run as `python -m copybot.tests.doomed STATE BROKER SIGNALS DONE [blind]`: a copier that will be killed.

Its broker is a file too, so that what was executed outlives it. Signal 2n − 1 opens trade n, signal 2n + 2 closes it.
Any life of this process may read a signal; a snapshot says what is active, where it was away.
"""

import json
import random
import sqlite3
import sys
import time
from decimal import Decimal
from pathlib import Path

from copybot.books import State
from copybot.broker import Outcome, Position, Result, Trace
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.targets import Snapshot, Target
from copybot.tests.simulation import PRICE, SECRET, SUB, packet

LIMITS = Limits(max_open_age_ms=3_600_000, settle_ms=300, second_look_ms=50, brake_least=10_000)


class FileBroker:
    """Executes at once, and takes its time to say so."""

    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None, timeout=5)
        self.db.execute("create table if not exists deal (magic integer, what text)")
        self.db.execute("create table if not exists position (magic integer, volume text)")

    def positions(self):
        rows = self.db.execute("select rowid, magic, volume from position").fetchall()
        return [Position(str(row), magic, "EURUSD", "BUY", Decimal(volume), None, None) for row, magic, volume in rows]

    def trace(self, magic):
        return Trace.DONE if self.db.execute("select 1 from deal where magic = ?", [magic]).fetchone() else Trace.NONE

    def is_settled(self):
        return True

    def fit(self, symbol, volume, sl, tp):
        return volume, sl, tp

    def open(self, *, magic, volume, **order):
        time.sleep(random.uniform(0, 0.004))
        self.db.execute("begin immediate")
        self.db.execute("insert into deal values (?, 'open')", [magic])
        self.db.execute("insert into position values (?, ?)", [magic, str(volume)])
        self.db.execute("commit")
        time.sleep(random.uniform(0, 0.004))
        return Result(Outcome.DONE)

    def close(self, position, volume):
        self.db.execute("delete from position where rowid = ?", [int(position.id)])
        time.sleep(random.uniform(0, 0.002))
        return Result(Outcome.DONE)

    def modify(self, position, *, sl, tp):
        return Result(Outcome.DONE)


def target(number, now):
    return Target(f"t{number}", "EURUSD", "BUY", Decimal(1), None, None, PRICE, now, 2 * number - 1)


def signal(seq, now):
    """Odd: trade (seq + 1) / 2 is opened. Even: the trade before that one is closed."""
    if seq % 2:
        return packet(seq, now, "OPEN", target((seq + 1) // 2, now))
    return packet(seq, now, "CLOSE", target(max(1, seq // 2 - 1), now))


def active(seq, now):
    """What is open once `seq` was sent."""
    opened, closed = (seq + 1) // 2, max(int(seq >= 2), seq // 2 - 1)
    return {f"t{number}": target(number, now) for number in range(closed + 1, opened + 1)}


class Blind(ExecutionGuard):
    """Does not look into the broker's books before it sends an order again."""

    def _positions(self):
        return {}

    def _find_out(self, copy):
        self._mark(copy, State.REJECTED)


def main(state, broker, signals, done, kind="guard"):
    def now():
        return time.time_ns() // 1_000_000

    guard = (Blind if kind == "blind" else ExecutionGuard)(state, SUB, {1: SECRET}, 7, FileBroker(broker), now, LIMITS)
    guard.on_snapshot(Snapshot("1", guard.seen, active(guard.seen, now())), asked_at=guard.seen)
    while guard.seen < int(signals):
        guard.on_packet(signal(guard.seen + 1, now()))
    for _ in range(10):
        time.sleep(0.1)
        guard.tick()
    left = sorted(guard._magic(ref) for ref in active(guard.seen, now()))
    Path(done).write_text(json.dumps({"active": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
