"""Signed requests over HTTP, and the same SQL statements by pgbench."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import desk
from bench.desk import Desk, Web
from bench.table import Line, Turn

CLIENTS = 16
OPERATIONS = 100  # in one batch of native/load.c


@contextmanager
def turns(on: Desk, seconds: float) -> Iterator[dict[str, Turn]]:
    """The measurements of each round, by name; each call returns requests or statements a second."""
    with ExitStack() as ending:

        def up(started: Web) -> Web:
            ending.callback(started.stop)
            return started

        ours, ours_2 = up(desk.web(on)), up(desk.web(on, 2))
        limited = up(desk.web(on, RATE_PER_IP="100000000"))
        twin, twin_2 = up(desk.twin(on)), up(desk.twin(on, 2))
        load, statements = Load(on, seconds), Statements(on, seconds)
        yield {
            "pair": lambda: load(ours, "pair"),
            "pair, twin": lambda: load(twin, "pair"),
            "pair, 2": lambda: load(ours_2, "pair"),
            "pair, twin, 2": lambda: load(twin_2, "pair"),
            "pair, own statement": lambda: statements("own", login="DATABASE_BOT_URL"),
            "pair, limited": lambda: load(limited, "pair"),
            "pair, floor": lambda: statements("floor", mode="prepared"),
            "batch": lambda: load(ours, "batch") * OPERATIONS,
            "poll": lambda: load(ours, "poll"),
            "poll, twin": lambda: load(twin, "poll"),
            "poll, 2": lambda: load(ours_2, "poll"),
            "poll, twin, 2": lambda: load(twin_2, "poll"),
            "audit": lambda: statements("audit_row", mode="prepared", each=1),
            "audit, verb": lambda: statements("audit_verb", mode="prepared", each=1),
            "audit, plain": lambda: statements("audit_plain", mode="prepared", each=1),
        }


LINES = [
    Line("open + close, 1 process", "pair", "pair, twin", "FastAPI twin", at_least=0.8),
    Line("open + close, 2 processes", "pair, 2", "pair, twin, 2", "FastAPI twin", at_least=0.8),
    Line("the same, 1 process, address limit counted", "pair, limited", "pair, twin", "FastAPI twin", at_least=0.8),
    Line("open + close, 2 processes", "pair, 2", "pair, own statement", "pgbench, our statement"),
    Line("open + close, 2 processes", "pair, 2", "pair, floor", "pgbench, one plain statement"),
    Line("our statement by itself", "pair, own statement", "pair, floor", "pgbench, one plain statement"),
    Line("batch of 100, operations", "batch", "pair, floor", "pgbench, one plain statement", at_least=0.3),
    Line("batch of 100, operations", "batch", "pair, own statement", "pgbench, our statement"),
    Line("poll answered 304, 1 process", "poll", "poll, twin", "FastAPI twin", at_least=1.0),
    Line("poll answered 304, 2 processes", "poll, 2", "poll, twin, 2", "FastAPI twin", at_least=1.0),
    Line("audit row, to be sealed", "audit", "audit, plain", "pgbench, plain insert", at_least=0.9),
    Line("the same by audit(), as the verbs write it", "audit, verb", "audit, plain", "pgbench, plain insert"),
]


@dataclass(frozen=True)
class Load:
    """Keep-alive clients; each sends its next request as soon as it has the answer."""

    on: Desk
    seconds: float

    def __call__(self, web: Web, mode: str) -> float:
        ports = ",".join(map(str, web.ports))
        command = [desk.native("load"), ports, str(CLIENTS), "0.4", str(self.seconds), mode, self.on.masters]
        report = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
        if report["failed"]:
            raise SystemExit(
                f"{mode}: {report['failed']} of {report['answered']} failed, first: {report['first_failure']}"
            )
        return float(report["per_s"])


@dataclass(frozen=True)
class Statements:
    """pgbench with the same number of clients. A script runs an open and its close, or one insert."""

    on: Desk
    seconds: float

    def __call__(self, script: str, *, mode: str = "simple", login: str = "DATABASE_OWNER_URL", each: int = 2) -> float:
        variables = {
            "n": 0,
            "start": time.time_ns() // 1000,  # sequence numbers and tickets start above all used ones
            "first_account": self.on.first_account,
            "first_generation": self.on.first_generation,
        }
        command = [
            desk.pgbench(), "-n", "-c", str(CLIENTS), "-j", "2",
            "-T", str(max(1, round(self.seconds))), "-M", mode, "-f", desk.HERE / "sql" / f"{script}.sql",
            *(part for name, value in variables.items() for part in ("-D", f"{name}={value}")), os.environ[login],
        ]  # fmt: skip
        options = "-c enable_seqscan=off"
        completed = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={**os.environ, "PGOPTIONS": options}
        )
        tps = re.search(r"^tps = ([0-9.]+)", completed.stdout, re.MULTILINE)
        if completed.returncode or tps is None:
            raise SystemExit(f"{script}: {completed.stderr[-500:]}")
        return each * float(tps[1])
