"""Files of bars uploaded in the admin: looked at, confirmed and stored by a worker, and taken back."""

import gzip
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit import services as audit
from market import tasks
from market.models import CandleImport, CandleUpload, ImportState, Instrument
from market.services import candles, uploads
from market.services.candles import Source
from tests.market.conftest import HEADER, MONDAY, NOW, hours, line, stored
from tests.people import colleague

ADD = reverse("admin:market_candleimport_add")
TEXT = "\n".join([HEADER, *hours(30)])


def send(admin: Client, text: str = TEXT, **more: Any) -> Any:
    file = SimpleUploadedFile("bars.csv.gz", gzip.compress(text.encode(), mtime=0))
    fields = {"file": file, "symbol": "EURUSD", "minutes": "60", **more}
    return admin.post(ADD, fields)


def act(admin: Client, row: CandleImport, action: str, *, confirmed: bool = True) -> Any:
    fields = {"action": action, "_selected_action": str(row.pk), **({"confirmed": "1"} if confirmed else {})}
    return admin.post(reverse("admin:market_candleimport_changelist"), fields, follow=True)


def page(admin: Client, row: CandleImport) -> str:
    return admin.get(reverse("admin:market_candleimport_change", args=[row.pk])).content.decode()


def test_an_upload_is_looked_at_confirmed_and_stored(desk_db: str, admin: Client) -> None:
    response = send(admin)
    row = CandleImport.objects.get()
    assert response.url == reverse("admin:market_candleimport_change", args=[row.pk])
    assert 'http-equiv="refresh"' in page(admin, row)
    assert "<progress" in page(admin, row)

    tasks.import_uploads()
    row.refresh_from_db()
    assert (row.state, row.bars, stored().count()) == (ImportState.LOOKED, 30, 0)
    assert "2024-01-08 00:00 – 2024-01-09 05:00" in page(admin, row)
    assert 'http-equiv="refresh"' not in page(admin, row)

    assert "Store these bars" in act(admin, row, "store", confirmed=False).content.decode()
    act(admin, row, "store")
    tasks.import_uploads()
    row.refresh_from_db()
    assert (row.state, row.added, stored().count()) == (ImportState.STORED, 30, 30)
    assert not CandleUpload.objects.exists()

    act(admin, row, "take_back")
    row.refresh_from_db()
    assert (row.state, stored().count()) == (ImportState.TAKEN_BACK, 0)


def test_a_file_that_is_refused_says_why_and_stores_nothing(desk_db: str, admin: Client) -> None:
    send(admin, TEXT + "\nnonsense")

    tasks.import_uploads()

    row = CandleImport.objects.get()
    assert row.state == ImportState.REFUSED
    assert "candle_malformed: line 32" in page(admin, row)
    assert not CandleUpload.objects.exists()


def test_what_contradicts_stored_bars_is_shown_before_it_is_stored(
    desk_db: str, admin: Client, import_lines: Callable[..., Any]
) -> None:
    import_lines(HEADER, line(MONDAY, "1.1,1.3,1.0,1.15,7"))
    send(admin)

    tasks.import_uploads()

    row = CandleImport.objects.order_by("-pk")[0]
    assert row.report["contradicting"] == 1
    assert "1.1 1.2 1 1.15 7" in page(admin, row)
    act(admin, row, "store")
    tasks.import_uploads()
    row.refresh_from_db()
    assert row.state == ImportState.REFUSED
    assert stored().count() == 1


def test_an_unknown_instrument_is_added_with_its_facts_only(desk_db: str, admin: Client) -> None:
    refused = send(admin, symbol="EURNOK")
    assert "State its point and contract size" in refused.content.decode()
    assert not CandleImport.objects.exists()

    send(admin, symbol="EURNOK", point="0.00001", contract_size="100000")

    assert Instrument.objects.get(symbol="EURNOK").calendar.name == "Currencies"
    assert CandleImport.objects.get().instrument_id == "EURNOK"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"clock": "Athens"}, "is no name of a time zone"),
        ({"symbol": "EUR USD", "point": "1", "contract_size": "1"}, "symbol"),
        ({"minutes": "7"}, "Select a valid choice"),
    ],
)
def test_a_form_with_a_fault_says_which(desk_db: str, admin: Client, fields: dict[str, str], says: str) -> None:
    response = send(admin, **fields)

    assert response.status_code == 200
    assert says in response.content.decode()
    assert not CandleImport.objects.exists()


def test_a_file_imported_by_another_clock_is_refused_at_once(
    desk_db: str, admin: Client, import_lines: Callable[..., Any]
) -> None:
    text = "\n".join(["time,open,high,low,close,volume", *(f"2024-01-08 {h:02}:00,1,1,1,1,7" for h in range(9))])
    send(admin, text)
    tasks.import_uploads()
    act(admin, CandleImport.objects.get(), "store")
    tasks.import_uploads()

    assert "The same file was imported as import" in send(admin, text, clock="+02:00").content.decode()
    assert CandleImport.objects.count() == 1


def test_an_upload_whose_worker_stopped_is_taken_up_again(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "BATCH", 10)
    row = uploads.upload(
        name="bars.csv", content=TEXT.encode(), source=Source("EURUSD", 60), actor=audit.SYSTEM, now=NOW
    )
    uploads.look_at_upload(import_id=row.pk, now=timezone.now())
    row.refresh_from_db()
    uploads.confirm(row=row, actor=audit.SYSTEM)
    store, batches = candles._store, []

    def killed(*arguments: Any) -> Any:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(1)
        return store(*arguments)

    monkeypatch.setattr(candles, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        uploads.store_upload(import_id=row.pk, now=timezone.now())
    monkeypatch.setattr(candles, "_store", store)
    assert stored().count() == 20

    tasks.import_uploads()  # a worker may still be at it
    assert stored().count() == 20
    CandleImport.objects.update(progressed_at=timezone.now() - timedelta(minutes=2))
    tasks.import_uploads()

    row.refresh_from_db()
    assert (row.state, row.added, stored().count()) == (ImportState.STORED, 30, 30)


def test_a_file_that_no_code_expected_ends_and_holds_up_no_other(
    desk_db: str, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(admin)
    send(admin, TEXT + "\n", minutes="60")
    first, second = CandleImport.objects.order_by("pk")
    read = candles.read

    def fails_once(opened: Any, *arguments: Any) -> Any:
        if not CandleImport.objects.filter(state=ImportState.REFUSED).exists():
            raise ZeroDivisionError
        return read(opened, *arguments)

    monkeypatch.setattr(candles, "read", fails_once)
    tasks.import_uploads()

    for row in (first, second):
        row.refresh_from_db()
    assert (first.state, second.state) == (ImportState.REFUSED, ImportState.LOOKED)
    assert first.refusal.startswith("candles_upload_failed")


def test_only_staff_with_the_permission_may_import(desk_db: str, client: Client) -> None:
    client.force_login(colleague())

    assert send(client).status_code == 403
    assert not CandleImport.objects.exists()
