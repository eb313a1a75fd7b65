"""The suites pass on every date. `make dates` runs them at many moments; this file runs one suite at one moment."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import clock

ROOT = Path(__file__).resolve().parent.parent
MONTH_END = clock.MOMENTS["the end of a month"]
CLOCKS = """
import json, time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
import psycopg, redis
from config import embedded, logins

with TemporaryDirectory() as folder:
    servers = embedded.Servers(Path(folder) / "var", fast=True)
    servers.start()
    try:
        began, python = time.monotonic(), datetime.now(UTC)
        time.sleep(0.5)
        slept = time.monotonic() - began
        went = (datetime.now(UTC) - python).total_seconds()
        with psycopg.connect(servers.postgres.url(logins.OWNER)) as connection:
            database = connection.execute("select clock_timestamp()").fetchone()[0].astimezone(UTC)
        valkey = datetime.fromtimestamp(redis.from_url(servers.valkey.url).time()[0], UTC)
    finally:
        servers.remove()
print(json.dumps([python.isoformat(), database.isoformat(), valkey.isoformat(), slept, went]))
"""


@pytest.fixture
def month_end() -> Iterator[Any]:
    """The environment of a process that starts at the end of a month."""
    try:
        with clock.shifted(MONTH_END) as environ:
            yield environ
    except clock.CannotShift as fault:
        pytest.skip(f"THE SUITES WERE NOT RUN AT ANOTHER DATE: {fault}")


def test_the_shifted_clock_runs_in_python_postgresql_and_valkey(month_end: Any) -> None:
    output = subprocess.check_output([sys.executable, "-c", CLOCKS], cwd=ROOT, env=month_end, text=True)
    *clocks, slept, went = json.loads(output)

    for now in map(datetime.fromisoformat, clocks):
        assert MONTH_END.at <= now < MONTH_END.at + timedelta(minutes=5)
    assert slept >= 0.5
    assert 0.4 < went < slept + 1


def test_the_settlement_suite_passes_at_the_end_of_a_month(month_end: Any) -> None:
    """Only the planted test fails, which proves that the clock is shifted and that date-bound tests are found."""
    suites = ["tests/wallets/test_settlement.py", "tests/clock/planted.py"]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-rf", "--durations=0", "--durations-min=60", *suites]
    run = subprocess.run(command, cwd=ROOT, env=month_end, capture_output=True, text=True)

    failed = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == ["tests/clock/planted.py::test_takes_tomorrow_for_a_day_of_this_month"], run.stdout[-4000:]


def test_says_that_a_compiler_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)

    with pytest.raises(clock.CannotShift, match="no C compiler"), clock.shifted(MONTH_END):
        pass
