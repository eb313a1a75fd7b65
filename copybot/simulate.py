"""Run as `python -m copybot.simulate --seed 0 --schedules 20000 --policy guard`: thousands of simulated schedules.

Each schedule is one seed and always runs the same way, so that the first failure can be examined. The seed also draws
the characters of the two brokers. The exit code is 0 only if no trade was opened twice, came back after its close, was
left open or was closed late. `--policy documents` runs the naive policy under the same faults, and must not pass.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

from copybot.broker_character import TRAITS
from copybot.guard import ExecutionGuard
from copybot.naive_policy import NaiveGuard
from copybot.simulation import WEATHERS, World

POLICIES: dict[str, Callable[..., ExecutionGuard]] = {"guard": ExecutionGuard, "documents": NaiveGuard}
Traits = tuple[str, ...] | None
_PORTION = 50
_COLUMNS = ("schedules", "trades", "crashes", "copied", "doubles", "zombies", "orphans", "late", "others")


@dataclass
class Tally:
    """The totals of some schedules of one weather. `first`: the smallest seed with faults, and the faults."""

    schedules: int = 0
    trades: int = 0
    copied: int = 0
    crashes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    first: "tuple[int, dict[str, int]] | None" = None

    def add(self, other: "Tally") -> None:
        self.schedules += other.schedules
        self.trades += other.trades
        self.copied += other.copied
        self.crashes += other.crashes
        self.faults += other.faults
        self.first = min((first for first in (self.first, other.first) if first is not None), default=None, key=_seed)

    def row(self) -> list[str]:
        share = f"{100 * self.copied / self.trades:.1f} %" if self.trades else "-"
        named = [self.faults[name] for name in ("doubles", "zombies", "orphans")]
        late = sum(count for name, count in self.faults.items() if name.startswith("late_"))
        before = self.schedules, self.trades, self.crashes
        after = *named, late, self.faults.total() - sum(named) - late
        return [*(f"{count:,}" for count in before), share, *(f"{count:,}" for count in after)]


def _seed(first: tuple[int, dict[str, int]]) -> int:
    return first[0]


def run(weather: str, seeds: Iterable[int], policy: str = "guard", traits: Traits = None) -> Tally:
    """Run these schedules. `traits`: of the brokers; by default each seed draws some."""
    tally = Tally()
    for seed in seeds:
        world = World(seed, WEATHERS[weather], guard=POLICIES[policy], traits=traits)
        faults = world.faults()
        first = (seed, dict(faults)) if faults else None
        tally.add(Tally(1, world.trades, world.copied, world.crashes, faults, first))
    return tally


def portions(first: int, schedules: int, weathers: list[str]) -> Iterator[tuple[str, range]]:
    """The schedules, divided evenly among the weathers, in portions for one process each."""
    share, left = divmod(schedules, len(weathers))
    for number, weather in enumerate(weathers):
        end = first + share + (number < left)
        for start in range(first, end, _PORTION):
            yield weather, range(start, min(start + _PORTION, end))


def _run_portion(work: tuple[str, range, str, Traits]) -> tuple[str, Tally]:
    weather, seeds, policy, traits = work
    return weather, run(weather, seeds, policy, traits)


def simulate(
    first: int, schedules: int, weathers: list[str], policy: str, processes: int, traits: Traits = None
) -> dict[str, Tally]:
    """Run all schedules on `processes` processes, with the progress on standard error. Ctrl-C ends it early."""
    tallies = {weather: Tally() for weather in weathers}
    work = [(weather, seeds, policy, traits) for weather, seeds in portions(first, schedules, weathers)]
    work.sort(key=lambda portion: portion[1].start)  # an early end has tried all weathers
    began, printed_s, done = time.monotonic(), 0.0, 0
    with (
        multiprocessing.get_context("spawn").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
        suppress(KeyboardInterrupt),
    ):
        for weather, tally in pool.imap_unordered(_run_portion, work):
            tallies[weather].add(tally)
            done += tally.schedules
            elapsed_s = time.monotonic() - began
            if elapsed_s - printed_s >= 1 or done == schedules:
                printed_s = elapsed_s
                faults = sum(total.faults.total() for total in tallies.values())
                rate = f"{done / elapsed_s:,.0f} a second"
                _write(f"\r{done:,} of {schedules:,} schedules, {rate}, {faults} faults ", sys.stderr)
    _write("\n", sys.stderr)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The summary: one line per weather and one for all."""
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    rows = [["weather", *_COLUMNS], *([name, *tally.row()] for name, tally in tallies.items()), ["all", *total.row()]]
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first schedule")
    parser.add_argument("--schedules", type=int, default=20_000, help="the total, over all weathers")
    parser.add_argument("--policy", choices=POLICIES, default="guard")
    parser.add_argument("--weather", choices=WEATHERS, action="append", help="only this one; may be named repeatedly")
    parser.add_argument(
        "--trait", choices=TRAITS, action="append", help="of both brokers, instead of those that the seed draws"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.schedules < 1 or options.seed < 0:
        parser.error("--schedules must be at least 1, and --seed at least 0")
    weathers = options.weather or list(WEATHERS)
    traits = tuple(options.trait) if options.trait else None
    tallies = simulate(options.seed, options.schedules, weathers, options.policy, options.processes, traits)
    _write(table(tallies) + "\n", sys.stdout)
    failures = {name: tally.first for name, tally in tallies.items() if tally.first is not None}
    for name, (seed, faults) in failures.items():
        again = f"--seed {seed} --schedules 1 --policy {options.policy} --weather {name}"
        again += "".join(f" --trait {trait}" for trait in traits or ())
        _write(f"{name}: {faults}. Again: python -m copybot.simulate {again}\n", sys.stdout)
    sys.exit(bool(failures))


def _write(text: str, stream: TextIO) -> None:
    stream.write(text)
    stream.flush()


if __name__ == "__main__":
    main()
