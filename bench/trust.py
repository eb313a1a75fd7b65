"""Recalculating trust scores from closed trades, against reading the same rows by one plain query."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from bench import desk
from bench.desk import Desk
from bench.table import Line, Turn

EACH = 1_000
PROCESSES = 2

LINES = [Line("closed trades assessed, a second", "trust", "trust, read", "one plain query in Python")]


@contextmanager
def turns(on: Desk, providers: int) -> Iterator[dict[str, Turn]]:
    with desk.connect() as connection:
        for script, name, count in (("trust_providers", "COUNT", providers), ("trust_deals", "EACH", EACH)):
            connection.execute((desk.HERE / "sql" / f"{script}.sql").read_text().replace(name, str(count)))
        connection.execute("vacuum analyze trade_history")
    subprocess.run([sys.executable, "-m", "bench.judge", "bars", "0", "1"], cwd=desk.ROOT, check=True)
    judging = Judging(on, providers)
    yield {"trust": judging, "trust, read": lambda: read(on)}


def read(on: Desk) -> float:
    """Rows a second that one query reads into Python, for the assessed columns."""
    columns = "opened_at, closed_at, symbol, type, volume, open_price, close_price, profit, trade_id"
    started_at, rows = time.monotonic(), 0
    connected = psycopg.connect(os.environ["DATABASE_OWNER_URL"])
    with connected as connection, connection.cursor("plain") as cursor:
        cursor.itersize = 10_000
        cursor.execute(f"select {columns} from trade_history where master_trade is null")
        rows = sum(1 for _ in cursor)
    return rows / (time.monotonic() - started_at)


@dataclass(frozen=True)
class Judging:
    """Run `trust.services.recalculate` for every provider, in two processes."""

    on: Desk
    providers: int

    def __call__(self) -> float:
        log = self.on.folder / "judge.log"
        command = [sys.executable, "-m", "bench.judge", "judge"]
        workers = [desk.spawn([*command, number, PROCESSES], log=log, talks=True) for number in range(PROCESSES)]
        for process in workers:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise SystemExit(f"The trust processes did not start. Their log ends with:\n{log.read_text()[-1500:]}")
        started_at = time.monotonic()
        done = sum(int(process.communicate(b"go\n")[0]) for process in workers)
        if done != self.providers:
            raise SystemExit(f"{done} of {self.providers} providers were assessed.")
        return self.providers * EACH / (time.monotonic() - started_at)
