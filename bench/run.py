"""The whole run: `python -m bench [--full] [--keep] [--only requests|ledger|trust|push]`."""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench import desk, ledger, push, requests, table, trust


@dataclass(frozen=True)
class Form:
    rounds: int
    seconds: float  # a turn
    sockets: int
    providers: int


QUICK, FULL = Form(3, 1.5, 2_000, 50), Form(7, 5.0, 10_000, 1_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, each figure as a ratio.")
    parser.add_argument("--full", action="store_true", help="longer, 10,000 sockets, a million trades")
    parser.add_argument("--keep", action="store_true", help="write the table to bench/RESULTS.md")
    parser.add_argument("--only", choices=["requests", "push", "ledger", "trust"], help="one part of it")
    asked = parser.parse_args()
    form = FULL if asked.full else QUICK
    began = time.monotonic()
    found: table.Found = {}
    lines = []
    with desk.serving() as on:
        if asked.only in (None, "requests"):
            with requests.turns(on, form.seconds) as turns:
                found |= table.rounds(turns, form.rounds, _saying("requests"))
            lines += requests.LINES
        if asked.only in (None, "ledger"):
            with ledger.turns(on, form.seconds) as turns:
                found |= table.rounds(turns, form.rounds, _saying("ledger"))
            lines += ledger.LINES
        if asked.only in (None, "trust"):
            with trust.turns(on, form.providers) as turns:
                found |= table.rounds(turns, min(3, form.rounds), _saying("trust"))
            lines += trust.LINES
        if asked.only in (None, "push"):
            with push.turns(on, form.sockets) as turns:
                found |= table.rounds(turns, form.rounds, _saying("push"))
            lines += push.LINES
    text = table.written(lines, found, sockets=f"{form.sockets:,}")
    print(f"\n{text}\n\n{_where(form)}; {time.monotonic() - began:.0f} s in all")
    _save(form, found)
    if asked.keep:
        head = f"# What was measured\n\n{_where(form)}. How to read it: README.md."
        (desk.HERE / "RESULTS.md").write_text(f"{head}\n\n{text}\n")


def _saying(part: str) -> Any:
    return lambda line: print(f"{part}: {line}", file=sys.stderr, flush=True)


def _where(form: Form) -> str:
    """The day and the kind of machine; nothing that names one."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    kind = f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    return f"{day}, {kind}, everything on one machine, medians of {form.rounds} rounds"


def _save(form: Form, found: table.Found) -> None:
    folder = desk.BUILD / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"where": _where(form), "found": found}, indent=1))
