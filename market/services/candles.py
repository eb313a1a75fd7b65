"""Importing files of bars. Each import is a row: stored whole or not at all, and taken back whole if it was wrong."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

from django.db import connection
from django.db.models import F
from psycopg.errors import UniqueViolation

from audit import services as audit
from core import money
from core.errors import DomainError
from core.transactions import savepoint, use_case
from market.clocks import Clock, clock_of
from market.files import text_of
from market.gaps import gap
from market.imports import Bar, Reader, Reading, Unsorted
from market.models import CandleImport, CandleUpload, ImportState, Instrument
from market.services import check_minutes, instrument_of

BATCH = 10_000  # bars per transaction, about 0.1 s of work
MOST_CONTRADICTIONS = 20  # contradictions that a report lists
TAKEN_PER_TRANSACTION = 50_000
_HOLDS_BARS = (ImportState.RUNNING, ImportState.STORED)


class CandlesContradict(DomainError):
    code = "candles_contradict"
    detail = "Bars of the file differ from the stored bars of the same time. Nothing of the file is stored."


class CandlesImportedOtherwise(DomainError):
    code = "candles_imported_otherwise"
    detail = "The same file was imported before, but read in another way."


class ImportStopped(DomainError):
    code = "candles_import_stopped"
    detail = "The import was taken back while it ran, or it has ended."


@dataclass(frozen=True, slots=True)
class Source:
    """What the importer says of a file. The fields after `minutes` are as in market.imports.Reading.

    `is_rounded`: round prices to the instrument's point. `keeps_stored`: keep a stored bar that a bar of the file
    contradicts, instead of refusing the file.
    """

    symbol: str
    minutes: int
    clock: Clock | None = None
    ticker: str = ""
    columns: tuple[str, ...] = ()
    is_rounded: bool = False
    is_sparse: bool = False
    keeps_stored: bool = False

    def as_json(self) -> dict[str, Any]:
        """The options as CandleImport keeps them, without symbol and minutes, which are columns of their own."""
        return {
            "clock": self.clock.name if self.clock else "", "ticker": self.ticker, "columns": list(self.columns),
            "is_rounded": self.is_rounded, "is_sparse": self.is_sparse, "keeps_stored": self.keeps_stored,
        }  # fmt: skip

    @classmethod
    def of(cls, row: CandleImport) -> Self:
        options = dict(row.options)
        clock = options.pop("clock")
        columns = tuple(options.pop("columns"))
        return cls(row.instrument_id, row.minutes, clock_of(clock) if clock else None, columns=columns, **options)

    def reading(self, instrument: Instrument, now: datetime) -> Reading:
        return Reading(
            self.symbol, self.minutes, now, self.clock, self.ticker, instrument.hours,
            instrument.point if self.is_rounded else None, self.columns, self.is_sparse,
            instrument.allows_nonpositive_prices,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A bar of the file that differs from the stored bar of the same time. The stored bar stays."""

    given: Bar
    stored: Bar


@dataclass(frozen=True, slots=True)
class Report:
    """Progress or result of an import, or of a look at a file.

    `bars` were read from `read_bytes` of `all_bytes`; `added` of them are new, or would be. `first` and `last` are the
    times of the first and last bar, `holes` the gaps between them in trading hours, `missing` the bars missing there.
    `clock`: the clock by which times without a zone were read. The other counters are as in market.imports.Reader.
    """

    import_id: int | None = None
    shape: str = ""
    clock: str = ""
    assumes_utc: bool = False
    has_volume: bool = True
    was_sorted: bool = False
    bars: int = 0
    added: int = 0
    contradicting: int = 0
    unfinished: int = 0
    doubled: int = 0
    without_prices: int = 0
    idle: int = 0
    first: datetime | None = None
    last: datetime | None = None
    holes: int = 0
    missing: int = 0
    read_bytes: int = 0
    all_bytes: int = 0
    contradictions: Sequence[Contradiction] = field(default=())

    @property
    def stored_before(self) -> int:
        return self.bars - self.added - self.contradicting

    @property
    def share(self) -> float:
        return min(self.read_bytes / self.all_bytes, 1) if self.all_bytes else 0

    def as_json(self) -> dict[str, Any]:
        """The report as CandleImport keeps it: without what its columns hold; times in ISO 8601."""
        columns = ("import_id", "bars", "added", "read_bytes", "all_bytes", "contradictions", "first", "last")
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in columns}
        listed = [
            {"at": pair.given.opened_at.isoformat(), "given": prices(pair.given), "stored": prices(pair.stored)}
            for pair in self.contradictions
        ]
        first, last = (at and at.isoformat() for at in (self.first, self.last))
        return {**plain, "first": first, "last": last, "contradictions": listed}


def prices(bar: Bar) -> str:
    return " ".join(money.plain(value) for value in bar[1:])


Progress = Callable[[Report], None]
Opened = Callable[[], BinaryIO]
Stored = tuple[int, Sequence[Contradiction]]


def _silent(report: Report) -> None:
    pass


def import_candles(
    *, path: Path, source: Source, actor: audit.Actor, now: datetime, progress: Progress = _silent
) -> Report:
    """Store the bars of a file in any known format (market/formats.py).

    Each batch is a transaction of its own. After an interruption the same import goes on where it is run again; after a
    refusal nothing of the file stays stored. Raises LineRefused, CandlesContradict, CandlesImportedOtherwise.
    """
    check_minutes(source.minutes)
    instrument_of(source.symbol)  # a refusal before the file is read
    row = _begin(path.name, _sha256(path), path.stat().st_size, source, actor, now)
    return run(row, lambda: path.open("rb"), actor=actor, now=now, progress=progress)


def look(*, path: Path, source: Source, now: datetime, progress: Progress = _silent) -> Report:
    """Read a whole file as an import would, and store nothing."""
    check_minutes(source.minutes)
    instrument = instrument_of(source.symbol)

    def handle(bars: Sequence[Bar]) -> Stored:
        return compare(instrument, source.minutes, bars)

    return read(lambda: path.open("rb"), source, instrument, now, handle, progress, path.stat().st_size)


def take_back(*, import_id: int, actor: audit.Actor, now: datetime) -> int:
    """Delete the bars that an import brought, and return their number. Run again, it completes what was interrupted.

    Raises ImportStopped for an import that does not exist or has stored nothing.
    """
    row = CandleImport.objects.filter(pk=import_id).first()
    if row is None or row.state not in (ImportState.RUNNING, ImportState.STORED, ImportState.TAKEN_BACK):
        raise ImportStopped(f"There is no import {import_id} whose bars are stored.")
    end(row, ImportState.TAKEN_BACK, now)
    taken = delete_bars(row)
    audit.record(
        "candles.taken_back", actor=actor, subject=f"instrument:{row.instrument_id}", import_id=row.pk, bars=taken
    )
    return taken


# --- the run of an import


@use_case()
def _begin(name: str, sha256: str, size: int, source: Source, actor: audit.Actor, now: datetime) -> CandleImport:
    """The row of the same import, to go on with or to complete; or a new one."""
    check_not_imported_otherwise(sha256, source)
    same = CandleImport.objects.filter(
        sha256=sha256, instrument=source.symbol, minutes=source.minutes, options=source.as_json(), upload=None,
        state__in=_HOLDS_BARS,
    )  # fmt: skip
    return same.first() or add_import(ImportState.RUNNING, name, sha256, size, source, actor, now)


def add_import(
    state: ImportState, name: str, sha256: str, size: int, source: Source, actor: audit.Actor, now: datetime
) -> CandleImport:
    return CandleImport.objects.create(
        instrument_id=source.symbol, minutes=source.minutes, file=name[:200], sha256=sha256, all_bytes=size,
        options=source.as_json(), state=state, started_at=now, actor=actor.name or str(actor.kind),
    )  # fmt: skip


def check_not_imported_otherwise(sha256: str, source: Source) -> None:
    """A file that is read by two clocks becomes a mixture of both."""
    before = CandleImport.objects.filter(
        sha256=sha256, instrument=source.symbol, minutes=source.minutes, added__gt=0,
        state__in=_HOLDS_BARS,
    )  # fmt: skip
    for row in before:
        stored = Source.of(row)
        if (stored.clock, stored.is_rounded) != (source.clock, source.is_rounded):
            clock = stored.clock.name if stored.clock else "as the file states it, or UTC"
            rounded = ", rounded" if stored.is_rounded else ""
            raise CandlesImportedOtherwise(
                f"The same file was imported as import {row.pk} (clock: {clock}{rounded}). Take that back first."
            )


def run(row: CandleImport, opened: Opened, *, actor: audit.Actor, now: datetime, progress: Progress) -> Report:
    """Store the bars of an import that is RUNNING, or complete one that is STORED; see import_candles."""
    source, instrument = Source.of(row), instrument_of(row.instrument_id)
    report = Report(row.pk)

    def store(bars: Sequence[Bar]) -> Stored:
        return _store(row, source.keeps_stored, bars)

    def note(so_far: Report) -> None:
        nonlocal report
        report = replace(so_far, import_id=row.pk)
        progress(report)

    refused = ""
    try:
        report = read(opened, source, instrument, now, store, note, row.all_bytes, lambda: delete_bars(row))
        report = replace(report, import_id=row.pk)
        end(row, ImportState.STORED, now, report=report)
    except DomainError as refusal:
        refused = refusal.code
        # The bars of an import that was stored before are not this run's to take away.
        if row.state == ImportState.RUNNING and not isinstance(refusal, ImportStopped):
            end(row, ImportState.REFUSED, now, refusal=refusal)
            delete_bars(row)
        raise
    finally:
        if report.added or report.contradicting or refused:
            audit.record(
                "candles.imported", actor=actor, subject=f"instrument:{row.instrument_id}", refused=refused,
                minutes=row.minutes, file=row.file, import_id=row.pk, bars=report.bars,
                added=0 if refused else report.added, contradicting=report.contradicting,
            )  # fmt: skip
    return report


@use_case()
def end(
    row: CandleImport, state: ImportState, now: datetime, *, report: Report | None = None,
    refusal: DomainError | None = None,
) -> None:  # fmt: skip
    """Give the import its last state, and drop the uploaded file."""
    CandleUpload.objects.filter(of=row).delete()
    found = {} if report is None else {"report": report.as_json(), "bars": report.bars, "read_bytes": row.all_bytes}
    CandleImport.objects.filter(pk=row.pk).update(
        state=state, finished_at=now, refusal=f"{refusal.code}: {refusal.message}" if refusal else "", **found
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading


def read(
    opened: Opened, source: Source, instrument: Instrument, now: datetime,
    handle: Callable[[Sequence[Bar]], Stored], progress: Progress, all_bytes: int,
    restart: Callable[[], object] = lambda: None,
) -> Report:  # fmt: skip
    """Read a file in batches. One whose lines are out of order is read once more, sorted, after `restart`."""
    reading = source.reading(instrument, now)
    try:
        return _read_once(opened, reading, handle, progress, all_bytes, sort=False)
    except Unsorted:
        restart()
        return _read_once(opened, reading, handle, progress, all_bytes, sort=True)


def _read_once(
    opened: Opened, reading: Reading, handle: Callable[[Sequence[Bar]], Stored], progress: Progress,
    all_bytes: int, *, sort: bool,
) -> Report:  # fmt: skip
    with opened() as raw, text_of(raw) as text:
        reader = Reader(text, reading, sort=sort)
        report = Report(
            shape=reader.shape.name, clock=reader.clock.name, was_sorted=sort, all_bytes=all_bytes,
            has_volume=reader.shape.volume is not None,
        )  # fmt: skip
        for batch in _batches(reader):
            report = _with(report, batch, reading, *handle(batch))
            report = replace(report, read_bytes=all_bytes if sort or raw.closed else raw.tell())
            progress(report)
        return replace(
            report, assumes_utc=reader.assumes_utc, unfinished=reader.unfinished, doubled=reader.doubled,
            without_prices=reader.without_prices, idle=reader.idle, read_bytes=all_bytes,
        )  # fmt: skip


def _batches(reader: Reader) -> Iterator[list[Bar]]:
    bars = iter(reader)
    while batch := list(islice(bars, BATCH)):
        yield batch


def _with(
    report: Report, batch: Sequence[Bar], reading: Reading, added: int, contradictions: Sequence[Contradiction]
) -> Report:
    holes, missing = _holes(report.last, batch, reading)
    return replace(
        report,
        bars=report.bars + len(batch),
        added=report.added + added,
        contradicting=report.contradicting + len(contradictions),
        contradictions=(*report.contradictions, *contradictions)[:MOST_CONTRADICTIONS],
        first=report.first or batch[0].opened_at,
        last=batch[-1].opened_at,
        holes=report.holes + holes,
        missing=report.missing + missing,
    )


def _holes(before: datetime | None, batch: Sequence[Bar], reading: Reading) -> tuple[int, int]:
    """The gaps in trading hours before and within a batch, and the number of bars that are missing in them."""
    step, holes, missing = timedelta(minutes=reading.minutes), 0, 0
    for bar in batch:
        at = bar.opened_at
        if before is not None and at - before > step:
            between = gap(before + step, at, step, reading.hours)
            holes += bool(between and between.missing)
            missing += between.missing if between else 0
        before = at
    return holes, missing


# --- storing


# COPY has no "on conflict", so a batch of which a bar is stored already is given as arrays. A temporary table would
# need a right that the desk's logins do not have.
_GIVEN = """
with given (opened_at, open, high, low, close, volume) as (
  select * from unnest(%s::timestamptz[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[]))"""
_COPY_ALL_NEW = """
copy candles (instrument_id, minutes, batch_id, opened_at, open, high, low, close, volume) from stdin"""
_INSERT = """
insert into candles (instrument_id, minutes, batch_id, opened_at, open, high, low, close, volume)
select %s, %s, %s, opened_at, open, high, low, close, volume from given on conflict do nothing"""
# The bounds limit the scan to the batch's part of the key, as arrays have no statistics.
_CONTRADICTING = """
select given.opened_at, given.open, given.high, given.low, given.close, given.volume, c.open, c.high, c.low, c.close,
       c.volume
  from given join candles c using (opened_at)
 where c.instrument_id = %s and c.minutes = %s and c.opened_at between %s and %s
   and (given.open, given.high, given.low, given.close, given.volume) <> (c.open, c.high, c.low, c.close, c.volume)
 order by opened_at"""
_COUNT_STORED = """
select count(*) from given join candles c using (opened_at)
 where c.instrument_id = %s and c.minutes = %s and c.opened_at between %s and %s"""


@use_case()
def _store(row: CandleImport, keeps_stored: bool, bars: Sequence[Bar]) -> Stored:
    """Store a batch; return the number of new bars and the contradictions with stored ones."""
    if _copy_all_new(row, bars):
        added, contradictions = len(bars), list[Contradiction]()
    else:
        added, contradictions = _insert_new(row, bars)
    if contradictions and not keeps_stored:
        raise _contradicting(contradictions)
    holding = CandleImport.objects.filter(pk=row.pk, state__in=_HOLDS_BARS)
    if not holding.update(added=F("added") + added):
        raise ImportStopped()
    return added, contradictions


def _contradicting(contradictions: Sequence[Contradiction]) -> CandlesContradict:
    first = contradictions[0]
    return CandlesContradict(
        f"{len(contradictions):,} bars of a batch differ from stored ones; the first is of "
        f"{first.given.opened_at:%Y-%m-%d %H:%M}: given {prices(first.given)}, stored {prices(first.stored)}. "
        "Check the clock, take the other import back, or keep the stored bars.",
        contradicting=len(contradictions),
    )


def _copy_all_new(row: CandleImport, bars: Sequence[Bar]) -> bool:
    """Copy the bars straight into the candles; False, and nothing done, if one of them is stored already."""
    key = f"{row.instrument_id}\t{row.minutes}\t{row.pk}\t"
    try:
        with savepoint(), connection.cursor() as cursor, cursor.copy(_COPY_ALL_NEW) as copy:
            copy.write("".join([f"{key}{at}\t{o}\t{h}\t{low}\t{c}\t{v}\n" for at, o, h, low, c, v in bars]))
    except UniqueViolation:
        return False
    return True


def _insert_new(row: CandleImport, bars: Sequence[Bar]) -> tuple[int, list[Contradiction]]:
    with connection.cursor() as cursor:
        cursor.execute(f"{_GIVEN} {_INSERT}", [*_columns(bars), row.instrument_id, row.minutes, row.pk])
        # A separate statement, because it must see rows that others committed while the insert waited for them.
        added = cursor.rowcount
        return added, _contradictions(cursor, row.instrument_id, row.minutes, bars)


def _columns(bars: Sequence[Bar]) -> list[list[str]]:
    return [[str(value) for value in column] for column in zip(*bars, strict=True)]


def _contradictions(cursor: Any, symbol: str, minutes: int, bars: Sequence[Bar]) -> list[Contradiction]:
    cursor.execute(
        f"{_GIVEN} {_CONTRADICTING}", [*_columns(bars), symbol, minutes, bars[0].opened_at, bars[-1].opened_at]
    )
    return [Contradiction(Bar(*found[:6]), Bar(found[0], *found[6:])) for found in cursor.fetchall()]


@use_case()
def compare(instrument: Instrument, minutes: int, bars: Sequence[Bar]) -> Stored:
    """Count the bars of a batch that are not stored, and find those that contradict stored ones."""
    with connection.cursor() as cursor:
        span = [bars[0].opened_at, bars[-1].opened_at]
        cursor.execute(f"{_GIVEN} {_COUNT_STORED}", [*_columns(bars), instrument.pk, minutes, *span])
        stored = cursor.fetchone()[0]
        return len(bars) - stored, _contradictions(cursor, instrument.pk, minutes, bars)


_DELETE = """
delete from candles where (instrument_id, minutes, opened_at) in (
  select instrument_id, minutes, opened_at from candles
   where instrument_id = %s and minutes = %s and batch_id = %s and opened_at > %s order by opened_at limit %s)
returning opened_at"""


def delete_bars(row: CandleImport) -> int:
    """Delete the bars that an import brought, in transactions of a bounded size; return their number."""
    taken, after = 0, "-infinity"
    while times := _delete_slice(row, after):
        taken, after = taken + len(times), max(times).isoformat()
    return taken


@use_case()
def _delete_slice(row: CandleImport, after: str) -> list[datetime]:
    with connection.cursor() as cursor:
        cursor.execute(_DELETE, [row.instrument_id, row.minutes, row.pk, after, TAKEN_PER_TRANSACTION])
        times = [at for (at,) in cursor.fetchall()]
    CandleImport.objects.filter(pk=row.pk).update(added=F("added") - len(times))
    return times
