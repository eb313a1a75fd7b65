"""Runs at another date: `shift.c` shifts the realtime clock of Python, PostgreSQL and Valkey alike.

The shifted clock keeps running. `python -m tests.clock` runs the suites at each of `MOMENTS`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from config import logins

SOURCE = Path(__file__).with_name("shift.c")
# Servers that run already have the real clock: a shifted run starts its own, with the shifted clock.
_SERVERS = (*logins.VARIABLES, "REDIS_URL")


class CannotShift(Exception):
    """The clock cannot be shifted on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Moment:
    at: datetime
    zone: str  # the machine's time zone, as the TZ variable names it


# The desk calculates in UTC, but its machine may have another time zone. A run passes a change of DST while it lasts.
MOMENTS = {
    "the end of a month": Moment(datetime(2027, 1, 31, 23, 50, tzinfo=UTC), "UTC"),
    "the end of a year": Moment(datetime(2027, 12, 31, 23, 50, tzinfo=UTC), "Pacific/Auckland"),
    "1 January, 00:01": Moment(datetime(2027, 1, 1, 0, 1, tzinfo=UTC), "America/St_Johns"),
    "29 February": Moment(datetime(2028, 2, 29, 12, 0, tzinfo=UTC), "Pacific/Auckland"),
    "DST begins in Europe": Moment(datetime(2027, 3, 28, 0, 59, 30, tzinfo=UTC), "Europe/Berlin"),
    "DST ends in Europe": Moment(datetime(2027, 10, 31, 0, 59, 30, tzinfo=UTC), "Europe/Berlin"),
    "DST begins in America": Moment(datetime(2027, 3, 14, 6, 59, 30, tzinfo=UTC), "America/New_York"),
    "DST ends in America": Moment(datetime(2027, 11, 7, 5, 59, 30, tzinfo=UTC), "America/New_York"),
    "a Sunday": Moment(datetime(2027, 5, 16, 12, 0, tzinfo=UTC), "UTC"),
}


@contextmanager
def shifted(moment: Moment) -> Iterator[dict[str, str]]:
    """The environment of processes that start at this moment, in its time zone."""
    if sys.platform != "linux":
        raise CannotShift("The clock can be shifted on Linux alone.")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotShift(f"There is no C compiler for {SOURCE.name}. Install gcc or clang.")
    with tempfile.TemporaryDirectory(prefix="copydesk-clock-") as folder:
        library = Path(folder) / "shift.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
        # PostgreSQL may run as another user, and loads the library too.
        Path(folder).chmod(0o755)
        already = int(os.environ.get("CLOCK_SHIFT_S", "0"))
        seconds = already + round((moment.at - datetime.now(UTC)).total_seconds())
        yield {
            **_without_servers(os.environ),
            "LD_PRELOAD": str(library),
            "CLOCK_SHIFT_S": str(seconds),
            "TZ": moment.zone,
        }


def _without_servers(environ: Mapping[str, str]) -> dict[str, str]:
    outer = (*_SERVERS, *(name for name in environ if name.startswith("PYTEST_XDIST")))
    return {name: value for name, value in environ.items() if name not in outer}
