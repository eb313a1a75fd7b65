"""Importing candles, and reporting which bars are stored and which are missing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from django.db import connection

from audit import services as audit
from core.errors import DomainError, Invalid, NotFound
from core.transactions import use_case
from market.gaps import Gap, gap
from market.imports import Bar, Reader, text_of
from market.models import Candle, Instrument

BATCH = 10_000  # bars per transaction, about 0.1 s of work
MOST_CONTRADICTIONS = 20  # contradictions that a report lists
LONGEST_MINUTES = 31 * 24 * 60
SLICE = 500_000  # bars that one statement scans, well within the statement timeout
# 5,000 hourly bars of EURUSD (bid; volume in ticks), 2017-04-19 to 2018-02-07: published market prices, as distributed
# with the test data of the Python package `backtesting` 0.6.6. Gaps are weekends and holidays.
EURUSD_1H = Path(__file__).parent / "data" / "eurusd-1h-2017-2018.csv"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A bar of the file that differs from the stored bar of the same time. The stored bar stays."""

    given: Bar
    stored: Bar


@dataclass(frozen=True, slots=True)
class Imported:
    """Progress or result of an import: `bars` read, `added` of them new; `read_bytes` of `all_bytes` processed."""

    shape: str
    assumes_utc: bool
    bars: int = 0
    added: int = 0
    contradicting: int = 0
    unfinished: int = 0
    read_bytes: int = 0
    all_bytes: int = 0
    contradictions: Sequence[Contradiction] = field(default=())

    @property
    def stored_before(self) -> int:
        return self.bars - self.added - self.contradicting

    @property
    def share(self) -> float:
        return min(self.read_bytes / self.all_bytes, 1) if self.all_bytes else 0


def import_candles(
    *,
    path: Path,
    symbol: str,
    minutes: int,
    actor: audit.Actor,
    now: datetime,
    utc_offset: timedelta | None = None,
    progress: Callable[[Imported], None] = lambda so_far: None,
) -> Imported:
    """Store the bars of a file in any known format (market/imports.py), compressed by gzip or not.

    Each batch is a transaction of its own, and stored bars never change. After an interruption or a refused line the
    earlier batches stay stored, and the same file can be imported again. `utc_offset` is for files whose times are not
    in UTC, such as those of brokers' servers. `progress` is called after each batch.
    """
    check_minutes(minutes)
    instrument = instrument_of(symbol)
    with path.open("rb") as raw, text_of(raw) as text:
        reader = Reader(text, minutes=minutes, now=now, utc_offset=utc_offset)
        result = Imported(reader.shape.name, reader.assumes_utc, all_bytes=path.stat().st_size)
        refused = ""
        try:
            for batch in _batches(reader):
                result = _with(result, len(batch), *_store(instrument, minutes, batch))
                read_bytes = raw.tell() if raw.seekable() else 0
                result = replace(result, assumes_utc=reader.assumes_utc, read_bytes=read_bytes)
                progress(result)
        except DomainError as refusal:
            refused = refusal.code
            refusal.extra["added"] = result.added
            raise
        finally:
            result = replace(result, unfinished=reader.unfinished)
            if result.added or result.contradicting or refused:
                audit.record(
                    "candles.imported", actor=actor, subject=f"instrument:{symbol}", refused=refused, minutes=minutes,
                    file=path.name, bars=result.bars, added=result.added, contradicting=result.contradicting,
                )  # fmt: skip
    return result


def _batches(reader: Reader) -> Iterator[list[Bar]]:
    bars = iter(reader)
    while batch := list(islice(bars, BATCH)):
        yield batch


def _with(result: Imported, bars: int, added: int, contradictions: Sequence[Contradiction]) -> Imported:
    return replace(
        result,
        bars=result.bars + bars,
        added=result.added + added,
        contradicting=result.contradicting + len(contradictions),
        contradictions=(*result.contradictions, *contradictions)[:MOST_CONTRADICTIONS],
    )


# COPY has no "on conflict", so the bars go through a temporary table. By PostgreSQL's default every role may create
# one. A table that is dropped at commit leaves nothing behind, even behind a connection pooler. (Unnested arrays need
# no table and were a sixth slower here.)
_GIVEN = """
create temporary table given (
  opened_at timestamptz, open numeric, high numeric, low numeric, close numeric, volume numeric) on commit drop"""
_COPY = "copy given from stdin"
_INSERT = """
insert into candles (instrument_id, minutes, opened_at, open, high, low, close, volume)
select %s, %s, opened_at, open, high, low, close, volume from given on conflict do nothing"""
# The bounds limit the scan to the batch's part of the key, even though the temporary table has no statistics.
_CONTRADICTING = """
select g.opened_at, g.open, g.high, g.low, g.close, g.volume, c.open, c.high, c.low, c.close, c.volume
  from given g join candles c using (opened_at)
 where c.instrument_id = %s and c.minutes = %s and c.opened_at between %s and %s
   and (g.open, g.high, g.low, g.close, g.volume) <> (c.open, c.high, c.low, c.close, c.volume)
 order by opened_at"""


@use_case()
def _store(instrument: Instrument, minutes: int, bars: Sequence[Bar]) -> tuple[int, list[Contradiction]]:
    """Store a batch; return the number of new bars and the contradictions with stored ones."""
    with connection.cursor() as cursor:
        cursor.execute(_GIVEN)
        with cursor.copy(_COPY) as copy:
            copy.write("".join([f"{at}\t{o}\t{h}\t{low}\t{c}\t{v}\n" for at, o, h, low, c, v in bars]))
        cursor.execute(_INSERT, [instrument.pk, minutes])
        added = cursor.rowcount
        if added == len(bars):
            return added, []
        # A separate statement, because it must see rows that others committed while the insert waited for them.
        cursor.execute(_CONTRADICTING, [instrument.pk, minutes, bars[0].opened_at, bars[-1].opened_at])
        return added, [Contradiction(Bar(*row[:6]), Bar(row[0], *row[6:])) for row in cursor.fetchall()]


def check_minutes(minutes: int) -> None:
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise Invalid({"minutes": [f"must lie between 1 and {LONGEST_MINUTES}"]})


def instrument_of(symbol: str) -> Instrument:
    instrument = Instrument.objects.filter(symbol=symbol).first()
    if instrument is None:
        raise NotFound(
            f"There is no instrument {symbol!r}. Staff can add it in the admin, with point and contract size."
        )
    return instrument


# --- stored bars and their gaps


@dataclass(frozen=True, slots=True)
class Series:
    """The bars of one instrument and length. Above `MOST_COUNTED` bars, bars and gaps are not counted (None)."""

    minutes: int
    first: datetime
    last: datetime
    bars: int | None
    holes: int | None
    missing: int | None


MOST_COUNTED = 1_000_000
_LENGTHS = """
with recursive step (minutes) as (
  select min(minutes) from candles where instrument_id = %(symbol)s
  union all
  select (select min(c.minutes) from candles c where c.instrument_id = %(symbol)s and c.minutes > step.minutes)
    from step where step.minutes is not null)
select minutes,
       (select min(opened_at) from candles c where c.instrument_id = %(symbol)s and c.minutes = step.minutes),
       (select max(opened_at) from candles c where c.instrument_id = %(symbol)s and c.minutes = step.minutes),
       (select count(*) from (
          select from candles c where c.instrument_id = %(symbol)s and c.minutes = step.minutes limit %(most)s) bars)
  from step where minutes is not null"""


def series_of(*, symbol: str) -> list[Series]:
    """List an instrument's stored bars by length, shortest first, with the number of holes (gaps except weekends)."""
    with connection.cursor() as cursor:
        cursor.execute(_LENGTHS, {"symbol": symbol, "most": MOST_COUNTED + 1})
        rows = cursor.fetchall()
    series = []
    for minutes, first, last, bars in rows:
        if bars > MOST_COUNTED:
            series.append(Series(minutes, first, last, None, None, None))
            continue
        holes = [hole for hole in gaps_of(symbol=symbol, minutes=minutes) if not hole.is_weekend]
        series.append(Series(minutes, first, last, bars, len(holes), sum(hole.missing for hole in holes)))
    return series


# Pairs of neighbouring bars with a gap between them.
_STEPS = """
select before, opened_at
  from (select opened_at, lag(opened_at) over (order by opened_at) as before from candles
         where instrument_id = %s and minutes = %s and opened_at between %s and %s) bars
 where opened_at >= before + %s * interval '1 minute'"""


def gaps_of(
    *, symbol: str, minutes: int, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Gap]:
    """Yield the gaps between two times, in order; by default between the first and the last bar.

    The weekly closing hours are a weekend (`Gap.is_weekend`), holidays are not. Missing bars are never filled in.
    """
    check_minutes(minutes)
    step = timedelta(minutes=minutes)
    bars = Candle.objects.filter(instrument_id=symbol, minutes=minutes)
    first = bars.filter(**{"opened_at__gte": since} if since else {}).order_by("opened_at").first()
    last = bars.filter(**{"opened_at__lt": until} if until else {}).order_by("-opened_at").first()
    if first is None or last is None or first.opened_at > last.opened_at:
        if since and until and (whole := gap(since, until, step)):
            yield whole
        return
    if since and (early := gap(since, first.opened_at, step)):
        yield early
    start = first.opened_at
    while start < last.opened_at:
        end = min(start + SLICE * step, last.opened_at)
        # If a slice ends in a gap, the next slice begins at the last bar before that gap.
        reached = bars.filter(opened_at__lte=end, opened_at__gte=start).order_by("-opened_at")[0].opened_at
        if reached == start:  # the whole slice is one gap
            reached = bars.filter(opened_at__gt=start).order_by("opened_at")[0].opened_at
        with connection.cursor() as cursor:
            cursor.execute(_STEPS, [symbol, minutes, start, reached, 2 * minutes])
            pairs = cursor.fetchall()
        for before, after in pairs:
            if between := gap(before.astimezone(UTC) + step, after.astimezone(UTC), step):
                yield between
        start = reached
    if until and (late := gap(last.opened_at + step, until, step)):
        yield late
