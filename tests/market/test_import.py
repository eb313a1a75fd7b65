"""Importing bars: in batches, across interruptions and repeats, without changing stored bars."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit import services as audit
from audit.models import AuditLog
from core.errors import Invalid, NotFound
from market import imports, services
from market.models import Candle
from tests import databases
from tests.conftest import ROOT
from tests.market.conftest import HEADER, MONDAY, NOW, hours, line, stored

MANY = 100_000


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "BATCH", 10)


@pytest.fixture
def many(tmp_path: Path) -> Any:
    """A file of 100,000 one-minute bars."""
    path = tmp_path / "many.csv"
    bars = (line(MONDAY - timedelta(minutes=MANY - number)) for number in range(MANY))
    path.write_text("\n".join([HEADER, *bars]), encoding="ascii")
    return path


def test_stores_bars_exactly_as_written(import_lines: Callable[..., Any]) -> None:
    result = import_lines(HEADER, "2024-01-08T11:00:00+02:00,0.10000001,0.3,0.1,0.2,7")

    bar = stored().get()
    assert (result.bars, result.added, result.shape) == (1, 1, "header")
    assert bar.opened_at == MONDAY.replace(hour=9)
    assert (bar.open, bar.close, bar.volume) == (Decimal("0.10000001"), Decimal("0.2"), 7)


def test_imports_the_bundled_file(desk_db: str) -> None:
    arguments = {"path": services.EURUSD_1H, "symbol": "EURUSD", "minutes": 60, "actor": audit.SYSTEM, "now": NOW}

    assert services.import_candles(**arguments).added == 5000
    assert services.import_candles(**arguments).stored_before == 5000
    assert stored().count() == 5000


def test_importing_again_adds_only_new_bars(import_lines: Callable[..., Any], small_batches: None) -> None:
    import_lines(HEADER, *hours(25))

    result = import_lines(HEADER, *hours(30))

    assert (result.bars, result.added, result.stored_before, result.contradicting) == (30, 5, 25, 0)
    assert stored().count() == 30


def test_reports_a_bar_that_contradicts_a_stored_one_and_keeps_the_stored_one(import_lines: Callable[..., Any]) -> None:
    import_lines(HEADER, *hours(3))

    result = import_lines(HEADER, *hours(1), line(MONDAY.replace(hour=1), "1.1,1.3,1.0,1.15,7"), *hours(4)[2:])

    assert (result.added, result.stored_before, result.contradicting) == (1, 2, 1)
    highs = [(bar.given.high, bar.stored.high) for bar in result.contradictions]
    assert highs == [(Decimal("1.3"), Decimal("1.2"))]
    assert stored()[1].high == Decimal("1.2")


def test_each_bar_length_is_a_separate_series(import_lines: Callable[..., Any]) -> None:
    import_lines(HEADER, *hours(3))
    import_lines(HEADER, *hours(3), minutes=30)

    assert (stored().count(), stored(minutes=30).count()) == (3, 3)


def test_whole_batches_before_a_refused_line_stay_stored(import_lines: Callable[..., Any], small_batches: None) -> None:
    with pytest.raises(imports.CandleMalformed) as refusal:
        import_lines(HEADER, *hours(25), "nonsense")

    assert refusal.value.extra == {"line": 27, "added": 20}
    assert stored().count() == 20
    assert import_lines(HEADER, *hours(25)).added == 5


def test_reports_progress_after_each_batch(import_lines: Callable[..., Any], small_batches: None) -> None:
    reports = []

    import_lines(HEADER, *hours(25), progress=reports.append)

    assert [report.bars for report in reports] == [10, 20, 25]
    assert reports[-1].share == 1


def test_an_interruption_between_batches_loses_no_stored_bar(
    import_lines: Callable[..., Any], small_batches: None
) -> None:
    def interrupt(so_far: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_lines(HEADER, *hours(25), progress=interrupt)
    assert stored().count() == 10

    assert import_lines(HEADER, *hours(25)).added == 15
    assert stored().count() == 25


@pytest.mark.crash
def test_running_a_killed_import_again_completes_it(desk_db: str, many: Any) -> None:
    command = [sys.executable, "-m", "django", "import_candles", str(many), "--symbol", "EURUSD", "--minutes", "1"]
    environ = {
        **os.environ, "DATABASE_URL": databases.url(desk_db), "DJANGO_SETTINGS_MODULE": "config.settings",
    }  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not stored(minutes=1).exists():
        assert process.poll() is None, "the import ended before it stored anything"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    survived = stored(minutes=1).count()

    second_run = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)

    assert 0 < survived < MANY
    assert survived % services.BATCH == 0
    assert f"{MANY - survived:,} new, {survived:,} stored already, 0 contradicting" in second_run.stdout
    assert stored(minutes=1).count() == MANY


def test_two_concurrent_imports_of_a_file_store_each_bar_once(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "BATCH", 100)

    def import_(_: Any) -> Any:
        try:
            return services.import_candles(
                path=services.EURUSD_1H, symbol="EURUSD", minutes=60, actor=audit.SYSTEM, now=NOW
            )
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(import_, range(2)))

    assert sum(result.added for result in results) == stored().count() == 5000
    assert [result.contradicting for result in results] == [0, 0]


def test_importing_a_hundred_thousand_bars_takes_few_statements(desk_db: str, many: Any) -> None:
    with CaptureQueriesContext(connection) as queries:
        result = services.import_candles(path=many, symbol="EURUSD", minutes=1, actor=audit.SYSTEM, now=NOW)

    assert result.added == MANY
    assert len(queries) <= 10 + 6 * MANY / services.BATCH


def test_an_import_that_changes_something_or_fails_leaves_one_audit_row(
    import_lines: Callable[..., Any], small_batches: None
) -> None:
    import_lines(HEADER, *hours(25))
    import_lines(HEADER, *hours(25))
    with pytest.raises(imports.CandleMalformed):
        import_lines(HEADER, "nonsense")

    rows = AuditLog.objects.filter(action="candles.imported", subject="instrument:EURUSD").order_by("id")
    assert [(row.code, row.detail["added"]) for row in rows] == [("", 25), ("candle_malformed", 0)]


def test_refuses_an_unknown_instrument_and_impossible_lengths(desk_db: str) -> None:
    arguments = {"path": services.EURUSD_1H, "actor": audit.SYSTEM, "now": NOW}

    with pytest.raises(NotFound, match="no instrument 'EURGBP'"):
        services.import_candles(symbol="EURGBP", minutes=60, **arguments)
    for minutes in (0, -60, 50_000):
        with pytest.raises(Invalid):
            services.import_candles(symbol="EURUSD", minutes=minutes, **arguments)


# --- the command


@pytest.fixture
def command(desk_db: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(path: Any, *options: Any) -> Any:
        call_command("import_candles", str(path), "--symbol", "EURUSD", "--minutes", "60", *options)
        return capsys.readouterr()

    return call


def test_the_command_reports_the_result(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mt4.csv"
    path.write_text("2024.01.08,09:00,1.1,1.2,1.0,1.15,7\n")

    without_offset = command(path)
    with_offset = command(path, "--utc-offset", "-05:00")

    assert without_offset.out.startswith("MetaTrader 4: 1 bars read, 1 new, 0 stored already, 0 contradicting (")
    assert "taken as UTC" in without_offset.err
    assert with_offset.err == ""
    assert list(stored().values_list("opened_at__hour", flat=True)) == [9, 14]


def test_the_command_lists_contradictions(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text("\n".join([HEADER, *hours(1)]))
    command(path)
    path.write_text("\n".join([HEADER, line(MONDAY, "1.1,1.3,1.0,1.15,7")]))

    output = command(path)

    assert "2024-01-08 00:00: given 1.1 1.3 1 1.15 7, stored 1.1 1.2 1 1.15 7" in output.err


def test_the_command_reports_progress_only_on_request(
    command: Callable[..., Any], small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.management.commands.import_candles.REPORT_EVERY_S", 0)

    assert command(services.EURUSD_1H).err == ""
    Candle.objects.filter(instrument="EURUSD").delete()
    assert "bars/s, 100% of the file" in command(services.EURUSD_1H, "--verbose").err


def test_the_command_fails_with_code_and_line_number(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text("\n".join([HEADER, *hours(1), "nonsense"]))

    with pytest.raises(CommandError, match="candle_malformed: line 3: 1 columns"):
        command(path)
    with pytest.raises(CommandError, match="No such file"):
        command(tmp_path / "nothing.csv")
    with pytest.raises(CommandError, match="is not an offset"):
        command(path, "--utc-offset", "Athens")
