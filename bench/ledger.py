"""Wallets: debits through the services and by pgbench, and the cost of the shared house account."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import desk
from bench.desk import Desk
from bench.table import Line, Turn

CLIENTS = 16
PROCESSES = 2
NOTHING_SHARED = "pgbench, nothing shared"

LINES = [
    Line("debits, distinct wallets, by the verb", "debit", "debit, statement", "pgbench, our statement"),
    Line("debits, one hot wallet, by the verb (NOWAIT)", "debit, hot", "debit, hot statement", "pgbench, waiting"),
    Line(
        "fees of distinct wallets, house in 64 rows",
        "debit, statement",
        "transfer",
        "pgbench, nothing shared",
        at_least=0.5,
    ),
    Line("the same, house in one row", "debit, one row", "transfer", NOTHING_SHARED),
]


@contextmanager
def turns(on: Desk, seconds: float) -> Iterator[dict[str, Turn]]:
    first = _first_wallet(on)
    verbs, statements = Verbs(on, seconds, first), Statements(on, seconds, first)
    yield {
        "transfer": lambda: statements("transfer"),
        "debit, statement": lambda: statements("debit"),
        "debit, one row": lambda: statements("debit", ', "shard": 7'),
        "debit": lambda: verbs("distinct"),
        "debit, hot statement": lambda: statements("hot"),
        "debit, hot": lambda: verbs("hot"),
    }


def _first_wallet(on: Desk) -> int:
    """The id of the first wallet; the ids of the benchmark's wallets are consecutive."""
    with desk.connect() as connection:
        row = connection.execute("select min(id), max(id), count(*) from wallets where kind = 'PERSON'").fetchone()
    assert row is not None
    assert row[1] - row[0] + 1 == row[2] >= 2 * CLIENTS
    return int(row[0])


@dataclass(frozen=True)
class Verbs:
    """Threads in two processes that call `wallets.services.debit_wallet`; measures applied debits a second."""

    on: Desk
    seconds: float
    first_wallet: int

    def __call__(self, wallets: str) -> float:
        threads_each = CLIENTS // PROCESSES
        command = [sys.executable, "-m", "bench.debits", wallets, self.seconds, threads_each, self.first_wallet]
        log = self.on.folder / "debits.log"
        workers = [desk.spawn([*command, number * threads_each], log=log, talks=True) for number in range(PROCESSES)]
        for process in workers:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise SystemExit(f"The debits did not start. Their log ends with:\n{log.read_text()[-1500:]}")
        applied = sum(int(process.communicate(b"go\n")[0]) for process in workers)
        return applied / self.seconds


@dataclass(frozen=True)
class Statements:
    """pgbench with the same number of clients, which wait for each other's locks."""

    on: Desk
    seconds: float
    first_wallet: int

    def __call__(self, script: str, more: str = "") -> float:
        variables = {"n": 0, "start": time.time_ns() // 1000, "first_wallet": self.first_wallet, "clients": CLIENTS}
        path = self.on.folder / f"{script}.sql"
        path.write_text((desk.HERE / "sql" / f"ledger_{script}.sql").read_text().replace("MORE", more))
        command = [
            desk.pgbench(), "-n", "-c", str(CLIENTS), "-j", "2",
            "-T", str(max(1, round(self.seconds))), "-f", path,
            *(part for name, value in variables.items() for part in ("-D", f"{name}={value}")),
            os.environ["DATABASE_URL"],
        ]  # fmt: skip
        options = {"PGOPTIONS": "-c lock_timeout=5s"}
        completed = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **options})
        tps = re.search(r"^tps = ([0-9.]+)", completed.stdout, re.MULTILINE)
        if completed.returncode or tps is None:
            raise SystemExit(f"{script}: {completed.stderr[-500:]}")
        return float(tps[1])
