"""Uploaded files of bars: looked at by a worker, shown to the person who uploaded them, and stored once confirmed."""

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from django.db.models import Q
from django.db.models.functions import Now

from audit import services as audit
from core.errors import DomainError
from core.transactions import use_case
from market.imports import Bar
from market.models import CandleImport, CandleUpload, ImportState
from market.services import candles, check_minutes, instrument_of


class UploadFailed(DomainError):
    code = "candles_upload_failed"
    detail = "The desk could not read the file. Its log says why, under the number of the import."


LARGEST = 32 * 2**20  # bytes: a million one-minute bars, compressed, are half of it
STOPPED_AFTER = timedelta(minutes=1)  # without progress: a batch takes a fraction of a second


@use_case()
def upload(*, name: str, content: bytes, source: candles.Source, actor: audit.Actor, now: datetime) -> CandleImport:
    """Keep an uploaded file, to be looked at by a worker. Raises CandlesImportedOtherwise."""
    check_minutes(source.minutes)
    sha256 = hashlib.sha256(content).hexdigest()
    candles.check_not_imported_otherwise(sha256, source)
    row = candles.add_import(ImportState.UPLOADED, name, sha256, len(content), source, actor, now)
    CandleUpload.objects.create(of=row, content=content)
    audit.record("candles.uploaded", actor=actor, subject=f"instrument:{source.symbol}", import_id=row.pk, file=name)
    return row


def look_at_upload(*, import_id: int, now: datetime) -> None:
    """Look at an uploaded file and keep the report, or the refusal. Does nothing for an import in another state."""
    row = _claim(import_id, ImportState.UPLOADED, ImportState.UPLOADED, now)
    if row is None:
        return
    source, instrument = candles.Source.of(row), instrument_of(row.instrument_id)

    def handle(bars: Sequence[Bar]) -> candles.Stored:
        return candles.compare(instrument, row.minutes, bars)

    def note(report: candles.Report) -> None:
        _note_progress(row, report)

    try:
        report = candles.read(_content_of(row), source, instrument, now, handle, note, row.all_bytes)
    except DomainError as refusal:
        candles.end(row, ImportState.REFUSED, now, refusal=refusal)
    else:
        _note_report(row, report)


@use_case()
def confirm(*, row: CandleImport, actor: audit.Actor) -> None:
    """Have an upload that was looked at stored by a worker. Raises ImportStopped in any other state."""
    changed = CandleImport.objects.filter(pk=row.pk, state=ImportState.LOOKED).update(state=ImportState.WAITING)
    if not changed:
        raise candles.ImportStopped()
    audit.record("candles.confirmed", actor=actor, subject=f"instrument:{row.instrument_id}", import_id=row.pk)


def store_upload(*, import_id: int, now: datetime) -> None:
    """Store a confirmed upload, or go on with one whose worker stopped. A refusal is kept in its row."""
    row = _claim(import_id, ImportState.WAITING, ImportState.RUNNING, now)
    if row is None:
        return

    def note(report: candles.Report) -> None:
        _note_progress(row, report)

    with suppress(DomainError):
        candles.run(row, _content_of(row), actor=audit.SYSTEM, now=now, progress=note)


def give_up(*, import_id: int, now: datetime) -> None:
    """End an upload that the desk could not read for a reason of its own, and delete what was stored of it."""
    row = CandleImport.objects.get(pk=import_id)
    candles.end(row, ImportState.REFUSED, now, refusal=UploadFailed())
    candles.delete_bars(row)


def waiting_uploads(*, now: datetime) -> tuple[list[int], list[int]]:
    """The uploads to be looked at, and those to be stored: not those at which a worker is."""
    uploads = CandleImport.objects.filter(_is_free(now), upload__isnull=False).order_by("pk")
    to_store = uploads.filter(state__in=(ImportState.WAITING, ImportState.RUNNING))
    return (
        list(uploads.filter(state=ImportState.UPLOADED).values_list("pk", flat=True)),
        list(to_store.values_list("pk", flat=True)),
    )


def _is_free(now: datetime) -> Q:
    return Q(progressed_at=None) | Q(progressed_at__lt=now - STOPPED_AFTER)


@use_case()
def _claim(import_id: int, state: ImportState, next_state: ImportState, now: datetime) -> CandleImport | None:
    """Take an upload that waits, or whose worker stopped; None if there is nothing to be done for it."""
    free = CandleImport.objects.filter(_is_free(now), pk=import_id, state__in=(state, next_state))
    if not free.update(state=next_state, progressed_at=now):
        return None
    return CandleImport.objects.get(pk=import_id)


@use_case()
def _note_progress(row: CandleImport, report: candles.Report) -> None:
    CandleImport.objects.filter(pk=row.pk).update(bars=report.bars, read_bytes=report.read_bytes, progressed_at=Now())


@use_case()
def _note_report(row: CandleImport, report: candles.Report) -> None:
    CandleImport.objects.filter(pk=row.pk, state=ImportState.UPLOADED).update(
        state=ImportState.LOOKED, report=report.as_json(), bars=report.bars, read_bytes=row.all_bytes,
        progressed_at=None,
    )  # fmt: skip


def _content_of(row: CandleImport) -> candles.Opened:
    return lambda: io.BufferedReader(io.BytesIO(bytes(CandleUpload.objects.get(pk=row.pk).content)))
