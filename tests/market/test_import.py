"""Bars brought in: once, whole, in batches, over an interruption; never over what is kept."""

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
    """A file of bars of a minute."""
    path = tmp_path / "many.csv"
    bars = (line(MONDAY - timedelta(minutes=MANY - number)) for number in range(MANY))
    path.write_text("\n".join([HEADER, *bars]), encoding="ascii")
    return path


def test_bars_are_stored_as_they_stand(bring_in: Callable[..., Any]) -> None:
    done = bring_in(HEADER, "2024-01-08T11:00:00+02:00,0.10000001,0.3,0.1,0.2,7")

    bar = stored().get()
    assert (done.bars, done.added, done.shape) == (1, 1, "header")
    assert bar.opened_at == MONDAY.replace(hour=9)
    assert (bar.open, bar.close, bar.volume) == (Decimal("0.10000001"), Decimal("0.2"), 7)


def test_the_desks_own_file_is_read(desk_db: str) -> None:
    asked = {"path": services.EURUSD_1H, "symbol": "EURUSD", "minutes": 60, "actor": audit.SYSTEM, "now": NOW}

    assert services.import_candles(**asked).added == 5000
    assert services.import_candles(**asked).known == 5000
    assert stored().count() == 5000


def test_given_again_nothing_changes(bring_in: Callable[..., Any], small_batches: None) -> None:
    bring_in(HEADER, *hours(25))

    done = bring_in(HEADER, *hours(30))

    assert (done.bars, done.added, done.known, done.contradicting) == (30, 5, 25, 0)
    assert stored().count() == 30


def test_a_bar_that_contradicts_what_is_kept_is_told_and_not_stored(bring_in: Callable[..., Any]) -> None:
    bring_in(HEADER, *hours(3))

    done = bring_in(HEADER, *hours(1), line(MONDAY.replace(hour=1), "1.1,1.3,1.0,1.15,7"), *hours(4)[2:])

    assert (done.added, done.known, done.contradicting) == (1, 2, 1)
    assert [(one.given.high, one.kept.high) for one in done.contradictions] == [(Decimal("1.3"), Decimal("1.2"))]
    assert stored()[1].high == Decimal("1.2")


def test_another_length_is_another_series(bring_in: Callable[..., Any]) -> None:
    bring_in(HEADER, *hours(3))
    bring_in(HEADER, *hours(3), minutes=30)

    assert (stored().count(), stored(minutes=30).count()) == (3, 3)


def test_what_comes_before_a_refused_line_stays_by_whole_batches(
    bring_in: Callable[..., Any], small_batches: None
) -> None:
    with pytest.raises(imports.CandleMalformed) as no:
        bring_in(HEADER, *hours(25), "nonsense")

    assert no.value.extra == {"line": 27, "added": 20}
    assert stored().count() == 20
    assert bring_in(HEADER, *hours(25)).added == 5


def test_progress_is_told_after_each_batch(bring_in: Callable[..., Any], small_batches: None) -> None:
    told = []

    bring_in(HEADER, *hours(25), progress=told.append)

    assert [one.bars for one in told] == [10, 20, 25]
    assert told[-1].share == 1


def test_an_interruption_between_batches_loses_nothing(bring_in: Callable[..., Any], small_batches: None) -> None:
    def interrupt(so_far: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_in(HEADER, *hours(25), progress=interrupt)
    assert stored().count() == 10

    assert bring_in(HEADER, *hours(25)).added == 15
    assert stored().count() == 25


@pytest.mark.crash
def test_a_killed_import_is_run_again_and_complete(desk_db: str, many: Any) -> None:
    command = [sys.executable, "-m", "django", "import_candles", str(many), "--symbol", "EURUSD", "--minutes", "1"]
    environ = {
        **os.environ, "DATABASE_URL": databases.url(desk_db), "DJANGO_SETTINGS_MODULE": "config.settings",
    }  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not stored(minutes=1).exists():
        assert process.poll() is None, "it ended before it stored anything"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = stored(minutes=1).count()

    again = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)

    assert 0 < kept < MANY
    assert kept % services.BATCH == 0
    assert f"{MANY - kept:,} new, {kept:,} known already, 0 contradicting" in again.stdout
    assert stored(minutes=1).count() == MANY


def test_two_imports_of_one_file_at_once_store_it_once(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "BATCH", 100)

    def import_(_: Any) -> Any:
        try:
            return services.import_candles(
                path=services.EURUSD_1H, symbol="EURUSD", minutes=60, actor=audit.SYSTEM, now=NOW
            )
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(import_, range(2)))

    assert sum(one.added for one in done) == stored().count() == 5000
    assert [one.contradicting for one in done] == [0, 0]


def test_a_hundred_thousand_bars_take_few_statements(desk_db: str, many: Any) -> None:
    with CaptureQueriesContext(connection) as asked:
        done = services.import_candles(path=many, symbol="EURUSD", minutes=1, actor=audit.SYSTEM, now=NOW)

    assert done.added == MANY
    assert len(asked) <= 10 + 6 * MANY / services.BATCH


def test_an_import_leaves_one_fact(bring_in: Callable[..., Any], small_batches: None) -> None:
    bring_in(HEADER, *hours(25))
    bring_in(HEADER, *hours(25))
    with pytest.raises(imports.CandleMalformed):
        bring_in(HEADER, "nonsense")

    facts = AuditLog.objects.filter(action="candles.imported", subject="instrument:EURUSD").order_by("id")
    assert [(fact.code, fact.detail["added"]) for fact in facts] == [("", 25), ("candle_malformed", 0)]


def test_refuses_what_the_desk_does_not_know(desk_db: str) -> None:
    asked = {"path": services.EURUSD_1H, "actor": audit.SYSTEM, "now": NOW}

    with pytest.raises(NotFound, match="no instrument 'EURGBP'"):
        services.import_candles(symbol="EURGBP", minutes=60, **asked)
    for minutes in (0, -60, 50_000):
        with pytest.raises(Invalid):
            services.import_candles(symbol="EURUSD", minutes=minutes, **asked)


# --- the command


@pytest.fixture
def command(desk_db: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(path: Any, *options: Any) -> Any:
        call_command("import_candles", str(path), "--symbol", "EURUSD", "--minutes", "60", *options)
        return capsys.readouterr()

    return call


def test_the_command_says_what_became_of_the_file(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mt4.csv"
    path.write_text("2024.01.08,09:00,1.1,1.2,1.0,1.15,7\n")

    said = command(path)
    again = command(path, "--utc-offset", "-05:00")

    assert said.out.startswith("MetaTrader 4: 1 bars read, 1 new, 0 known already, 0 contradicting (")
    assert "taken as UTC" in said.err
    assert again.err == ""
    assert list(stored().values_list("opened_at__hour", flat=True)) == [9, 14]


def test_the_command_tells_contradictions(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text("\n".join([HEADER, *hours(1)]))
    command(path)
    path.write_text("\n".join([HEADER, line(MONDAY, "1.1,1.3,1.0,1.15,7")]))

    said = command(path)

    assert "2024-01-08 00:00: given 1.1 1.3 1 1.15 7, kept 1.1 1.2 1 1.15 7" in said.err


def test_the_command_tells_its_progress_only_where_asked(
    command: Callable[..., Any], small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.management.commands.import_candles.REPORT_EVERY_S", 0)

    assert command(services.EURUSD_1H).err == ""
    Candle.objects.filter(instrument="EURUSD").delete()
    assert "bars/s, 100% of the file" in command(services.EURUSD_1H, "--verbose").err


def test_the_command_fails_with_the_code_and_the_line(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text("\n".join([HEADER, *hours(1), "nonsense"]))

    with pytest.raises(CommandError, match="candle_malformed: line 3: 1 columns"):
        command(path)
    with pytest.raises(CommandError, match="No such file"):
        command(tmp_path / "nothing.csv")
    with pytest.raises(CommandError, match="is not an offset"):
        command(path, "--utc-offset", "Athens")
