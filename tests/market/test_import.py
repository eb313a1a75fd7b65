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
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from audit import services as audit
from audit.models import AuditLog
from core.errors import Invalid, NotFound
from market import refusals, services
from market.clocks import clock_of
from market.models import Candle, CandleImport, ImportState, Instrument
from market.services import candles
from market.services.candles import Source
from tests import databases
from tests.conftest import ROOT
from tests.market.conftest import HEADER, MONDAY, NOW, hours, line, stored

MANY = 100_000


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "BATCH", 10)


@pytest.fixture
def many(desk_db: str, tmp_path: Path) -> Any:
    """A file of 100,000 one-minute bars, of an instrument that trades at all hours."""
    Instrument.objects.filter(symbol="EURUSD").update(calendar=None)
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
    arguments: Any = {
        "path": services.EURUSD_1H, "source": Source("EURUSD", 60), "actor": audit.SYSTEM, "now": NOW
    }  # fmt: skip

    assert candles.import_candles(**arguments).added == 5000
    assert candles.import_candles(**arguments).stored_before == 5000
    assert stored().count() == 5000


def test_importing_again_adds_only_new_bars(import_lines: Callable[..., Any], small_batches: None) -> None:
    import_lines(HEADER, *hours(25))

    result = import_lines(HEADER, *hours(30))

    assert (result.bars, result.added, result.stored_before, result.contradicting) == (30, 5, 25, 0)
    assert stored().count() == 30


def test_needs_no_right_that_the_desks_logins_lack(desk_db: str, import_lines: Callable[..., Any]) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute(f'revoke temporary on database "{desk_db}" from public')
    import_lines(HEADER, *hours(3))

    result = import_lines(HEADER, *hours(4))

    assert (result.added, result.stored_before) == (1, 3)


def test_refuses_a_file_that_contradicts_stored_bars(import_lines: Callable[..., Any], small_batches: None) -> None:
    import_lines(HEADER, *hours(40)[15:])
    contradicting = line(MONDAY.replace(hour=20), "1.1,1.3,1.0,1.15,7")

    with pytest.raises(candles.CandlesContradict, match=r"2024-01-08 20:00: given 1\.1 1\.3"):
        import_lines(HEADER, *hours(20), contradicting, *hours(50)[21:])

    assert stored().count() == 25
    assert stored()[5].high == Decimal("1.2")


def test_may_keep_the_stored_bars_that_a_file_contradicts(import_lines: Callable[..., Any]) -> None:
    import_lines(HEADER, *hours(3))

    result = import_lines(
        HEADER, *hours(1), line(MONDAY.replace(hour=1), "1.1,1.3,1.0,1.15,7"), *hours(4)[2:], keeps_stored=True
    )

    assert (result.added, result.stored_before, result.contradicting) == (1, 2, 1)
    highs = [(bar.given.high, bar.stored.high) for bar in result.contradictions]
    assert highs == [(Decimal("1.3"), Decimal("1.2"))]
    assert stored()[1].high == Decimal("1.2")


def test_each_bar_length_is_a_separate_series(import_lines: Callable[..., Any]) -> None:
    import_lines(HEADER, *hours(3))
    import_lines(HEADER, *hours(3), minutes=30, is_sparse=True)

    assert (stored().count(), stored(minutes=30).count()) == (3, 3)


def test_nothing_of_a_refused_file_stays_stored(import_lines: Callable[..., Any], small_batches: None) -> None:
    seen: list[int] = []
    with pytest.raises(refusals.CandleMalformed) as refusal:
        import_lines(HEADER, *hours(25), "nonsense", progress=lambda so_far: seen.append(stored().count()))

    assert refusal.value.extra == {"line": 27}
    assert (seen, stored().count()) == ([10, 20], 0)
    row = CandleImport.objects.get()
    assert (row.state, row.added) == (ImportState.REFUSED, 0)
    assert row.refusal.startswith("candle_malformed: line 27")
    assert import_lines(HEADER, *hours(25)).added == 25


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
        **os.environ, **databases.urls(desk_db), "DJANGO_SETTINGS_MODULE": "config.settings",
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
    assert survived % candles.BATCH == 0
    assert f"{MANY - survived:,} new, {survived:,} stored already, 0 contradicting" in second_run.stdout
    assert stored(minutes=1).count() == MANY


def test_two_concurrent_imports_of_a_file_store_each_bar_once(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "BATCH", 100)

    def import_(_: Any) -> Any:
        try:
            return candles.import_candles(
                path=services.EURUSD_1H, source=Source("EURUSD", 60), actor=audit.SYSTEM, now=NOW
            )
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(import_, range(2)))

    assert sum(result.added for result in results) == stored().count() == 5000
    assert [result.contradicting for result in results] == [0, 0]


def test_importing_a_hundred_thousand_bars_takes_few_statements(desk_db: str, many: Any) -> None:
    with CaptureQueriesContext(connection) as queries:
        result = candles.import_candles(path=many, source=Source("EURUSD", 1), actor=audit.SYSTEM, now=NOW)

    assert result.added == MANY
    assert len(queries) <= 15 + 6 * MANY / candles.BATCH


def test_an_import_that_changes_something_or_fails_leaves_one_audit_row(
    import_lines: Callable[..., Any], small_batches: None
) -> None:
    import_lines(HEADER, *hours(25))
    import_lines(HEADER, *hours(25))
    with pytest.raises(refusals.CandleMalformed):
        import_lines(HEADER, "nonsense")

    rows = AuditLog.objects.filter(action="candles.imported", subject="instrument:EURUSD").order_by("id")
    assert [(row.code, row.detail["added"]) for row in rows] == [("", 25), ("candle_malformed", 0)]


def test_refuses_an_unknown_instrument_and_impossible_lengths(desk_db: str) -> None:
    arguments: Any = {"path": services.EURUSD_1H, "actor": audit.SYSTEM, "now": NOW}

    with pytest.raises(NotFound, match="no instrument 'EURGBP'"):
        candles.import_candles(source=Source("EURGBP", 60), **arguments)
    for minutes in (0, -60, 50_000):
        with pytest.raises(Invalid):
            candles.import_candles(source=Source("EURUSD", minutes), **arguments)


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
    path.write_text("2024.01.08,09:00,1.1,1.2,1.0,1.15,8\n")
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

    with pytest.raises(CommandError, match=r"candles_contradict: .* Nothing of the file is stored"):
        command(path)
    output = command(path, "--keep-stored")

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


# --- taking back, and files that were read in another way


def rows() -> list[Any]:
    imports = CandleImport.objects.order_by("pk")
    return [(row.state, row.added, row.options["clock"]) for row in imports]


MT5 = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>"


def of_a_server(count: int = 30) -> list[str]:
    """Hours of a Monday as a server at UTC+2 writes them."""
    return [MT5, *(f"2024.01.08\t{hour:02}:00:00\t1.1\t1.4\t1.0\t1.{hour:02}\t7" for hour in range(1, min(count, 23)))]


def test_a_wrong_clock_is_taken_back_whole_and_leaves_no_mixture(
    import_lines: Callable[..., Any], small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candles, "TAKEN_PER_TRANSACTION", 7)
    wrong = import_lines(*of_a_server())
    with pytest.raises(candles.CandlesImportedOtherwise, match=f"import {wrong.import_id}"):
        import_lines(*of_a_server(), clock=clock_of("+02:00"))
    with pytest.raises(candles.CandlesContradict):  # the same mistake with a longer file
        import_lines(*of_a_server(20), clock=clock_of("+02:00"))
    assert stored().count() == 22

    taken = candles.take_back(import_id=wrong.import_id, actor=audit.SYSTEM, now=NOW)
    right = import_lines(*of_a_server(), clock=clock_of("+02:00"))

    assert (taken, right.added, stored().count()) == (22, 22, 22)
    assert stored().first().opened_at == MONDAY - timedelta(hours=1)
    assert rows() == [("taken_back", 0, ""), ("refused", 0, "UTC+02:00"), ("stored", 22, "UTC+02:00")]
    assert AuditLog.objects.filter(action="candles.taken_back", detail__bars=22).count() == 1


def test_taking_back_spares_the_bars_of_other_imports(import_lines: Callable[..., Any]) -> None:
    import_lines(HEADER, *hours(10))
    second = import_lines(HEADER, *hours(15))

    assert candles.take_back(import_id=second.import_id, actor=audit.SYSTEM, now=NOW) == 5
    assert stored().count() == 10


def test_taking_back_what_was_not_stored_is_refused(import_lines: Callable[..., Any]) -> None:
    with pytest.raises(refusals.CandlesUnreadable):
        import_lines("prose")
    refused = CandleImport.objects.get()

    for number in (refused.pk, 999):
        with pytest.raises(candles.ImportStopped):
            candles.take_back(import_id=number, actor=audit.SYSTEM, now=NOW)


def test_an_import_that_is_taken_back_while_it_runs_stores_no_more(
    import_lines: Callable[..., Any], small_batches: None
) -> None:
    def take_back(so_far: Any) -> None:
        candles.take_back(import_id=so_far.import_id, actor=audit.SYSTEM, now=NOW)

    with pytest.raises(candles.ImportStopped):
        import_lines(HEADER, *hours(25), progress=take_back)

    assert stored().count() == 0
    assert rows() == [("taken_back", 0, "")]


def test_taking_back_completes_what_was_interrupted(
    import_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candles, "TAKEN_PER_TRANSACTION", 7)
    result = import_lines(HEADER, *hours(25))
    slices: list[int] = []
    delete = candles._delete_slice

    def interrupted(*arguments: Any) -> Any:
        if len(slices) == 2:
            raise KeyboardInterrupt
        slices.append(1)
        return delete(*arguments)

    monkeypatch.setattr(candles, "_delete_slice", interrupted)
    with pytest.raises(KeyboardInterrupt):
        candles.take_back(import_id=result.import_id, actor=audit.SYSTEM, now=NOW)
    monkeypatch.setattr(candles, "_delete_slice", delete)
    assert stored().count() == 11

    assert candles.take_back(import_id=result.import_id, actor=audit.SYSTEM, now=NOW) == 11


def test_a_file_out_of_order_is_stored_once_and_sorted(import_lines: Callable[..., Any], small_batches: None) -> None:
    result = import_lines(HEADER, *hours(30)[15:], *hours(15))

    assert (result.was_sorted, result.bars, result.added, result.stored_before) == (True, 30, 30, 0)
    assert CandleImport.objects.get().added == 30
    assert stored().count() == 30


def test_a_look_reports_the_file_and_stores_nothing(import_lines: Callable[..., Any], tmp_path: Path) -> None:
    import_lines(HEADER, *hours(3))
    path = tmp_path / "look.csv"
    path.write_text("\n".join([HEADER, *hours(2), line(MONDAY.replace(hour=2), "1.1,1.3,1,1,7"), *hours(9)[5:]]))

    report = candles.look(path=path, source=Source("EURUSD", 60), now=NOW)

    assert (report.bars, report.added, report.stored_before, report.contradicting) == (7, 4, 2, 1)
    assert (report.first, report.last) == (MONDAY, MONDAY.replace(hour=8))
    assert (report.holes, report.missing) == (1, 2)
    assert (stored().count(), CandleImport.objects.count()) == (3, 1)


def test_the_command_looks_creates_lists_and_takes_back(
    desk_db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gold.csv"
    path.write_text("\n".join([HEADER, *hours(5)]))
    arguments = ["import_candles", str(path), "--symbol", "XAUEUR", "--minutes", "60"]

    with pytest.raises(CommandError, match="no instrument 'XAUEUR'"):
        call_command(*arguments)
    with pytest.raises(CommandError, match="--create needs --point"):
        call_command(*arguments, "--create")
    call_command(*arguments, "--create", "--point", "0.01", "--contract-size", "100", "--dry-run")
    assert "5 would be new" in capsys.readouterr().out
    assert Instrument.objects.get(symbol="XAUEUR").calendar.name == "Metals and energies"

    call_command(*arguments)
    call_command("candle_imports", "--symbol", "XAUEUR")
    number = CandleImport.objects.get().pk
    assert f"{number:>6}  " in capsys.readouterr().out
    call_command("candle_imports", "--take-back", str(number))

    assert f"5 bars of import {number} were deleted." in capsys.readouterr().out
    assert not Candle.objects.filter(instrument="XAUEUR").exists()


def test_an_instrument_takes_the_hours_of_its_class(desk_db: str) -> None:
    listed = dict(Instrument.objects.values_list("symbol", "calendar__name"))

    assert (listed["EURUSD"], listed["XAUUSD"]) == ("Currencies", "Metals and energies")
    with pytest.raises(Invalid, match="invalid"):
        services.create_instrument(symbol="EURUSD", point=Decimal(1), contract_size=Decimal(1), actor=audit.SYSTEM)
    bitcoin = services.create_instrument(
        symbol="BTCUSD.x", point=Decimal("0.01"), contract_size=Decimal(1), actor=audit.SYSTEM
    )
    assert (bitcoin.asset_class, bitcoin.calendar and bitcoin.calendar.name) == ("CRYPTO", "Always open")
