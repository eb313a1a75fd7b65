"""Runs the benchmarks: `python -m bench [--full] [--keep] [--only requests|ledger|trust|push|publisher|candles]`."""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench import candles, desk, ledger, publisher, push, requests, table, trust


@dataclass(frozen=True)
class Form:
    rounds: int
    seconds: float  # of each turn
    sockets: int
    providers: int
    bars: int  # of an import


QUICK, FULL = Form(3, 1.5, 2_000, 50, 100_000), Form(7, 5.0, 10_000, 1_000, 1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run the benchmarks; each figure is a ratio.")
    parser.add_argument("--full", action="store_true", help="longer turns, 10,000 sockets, a million trades")
    parser.add_argument("--keep", action="store_true", help="write the table to bench/RESULTS.md")
    parser.add_argument(
        "--only", choices=["requests", "push", "ledger", "trust", "publisher", "candles"], help="run one part only"
    )
    options = parser.parse_args()
    form = FULL if options.full else QUICK
    started_at = time.monotonic()
    figures: table.Found = {}
    lines = []
    with desk.serving() as on:
        if options.only in (None, "requests"):
            with requests.turns(on, form.seconds) as turns:
                figures |= table.rounds(turns, form.rounds, _progress("requests"))
            lines += requests.LINES
        if options.only in (None, "ledger"):
            with ledger.turns(on, form.seconds) as turns:
                figures |= table.rounds(turns, form.rounds, _progress("ledger"))
            lines += ledger.LINES
        if options.only in (None, "trust"):
            with trust.turns(on, form.providers) as turns:
                figures |= table.rounds(turns, min(3, form.rounds), _progress("trust"))
            lines += trust.LINES
        if options.only in (None, "push"):
            with push.turns(on, form.sockets) as turns:
                figures |= table.rounds(turns, form.rounds, _progress("push"))
            lines += push.LINES
        if options.only in (None, "publisher"):
            with publisher.turns(on) as turns:
                figures |= table.rounds(turns, form.rounds, _progress("publisher"))
            lines += publisher.LINES
        if options.only in (None, "candles"):
            with candles.turns(on, form.bars) as turns:
                figures |= table.rounds(turns, min(3, form.rounds), _progress("candles"))
            lines += candles.LINES
    text = table.written(lines, figures, sockets=f"{form.sockets:,}", bars=f"{form.bars:,}")
    print(f"\n{text}\n\n{_conditions(form)}; {time.monotonic() - started_at:.0f} s in all")
    _save(form, figures)
    if options.keep:
        head = f"# Results\n\n{_conditions(form)}. How to read it: README.md."
        (desk.HERE / "RESULTS.md").write_text(f"{head}\n\n{text}\n")


def _progress(part: str) -> Any:
    return lambda line: print(f"{part}: {line}", file=sys.stderr, flush=True)


def _conditions(form: Form) -> str:
    """The day and the kind of machine, without anything that identifies the machine."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    kind = f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    return f"{day}, {kind}, everything on one machine, medians of {form.rounds} rounds"


def _save(form: Form, figures: table.Found) -> None:
    folder = desk.BUILD / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"where": _conditions(form), "figures": figures}, indent=1))
