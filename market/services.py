"""Bringing in prices, and knowing which are there."""

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
from market.imports import Bar, Reading, text_of
from market.models import Candle, Instrument

BATCH = 10_000  # bars a transaction: a tenth of a second's work
MOST_TOLD = 20  # contradictions
LONGEST_MINUTES = 31 * 24 * 60
SLICE = 500_000  # bars that one statement looks through: well within the statement's time-out
# 5,000 hourly bars of EURUSD (bid; volume in ticks), 2017-04-19 to 2018-02-07: published market prices, as distributed
# with the test data of the Python package `backtesting` 0.6.6. Gaps are weekends and holidays.
EURUSD_1H = Path(__file__).parent / "data" / "eurusd-1h-2017-2018.csv"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A bar of the file that is not what is kept of that time. What is kept stays."""

    given: Bar
    kept: Bar


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file: `bars` were read, `added` of them new; `read_bytes` of `all_bytes` are behind."""

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
    def known(self) -> int:
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
    """Store the bars of a file of any known shape (market/imports.py), packed by gzip or not.

    Every batch is a transaction of its own, and bars that are there already stay as they are: after an interruption, or
    a line that is refused, what came before is kept, and the same file may be given again. `utc_offset` is for files
    that write another clock than UTC, as brokers' servers do. `progress` is told after each batch.
    """
    check_minutes(minutes)
    instrument = instrument_of(symbol)
    with path.open("rb") as raw, text_of(raw) as text:
        reading = Reading(text, minutes=minutes, now=now, utc_offset=utc_offset)
        done = Imported(reading.shape.name, reading.assumes_utc, all_bytes=path.stat().st_size)
        refused = ""
        try:
            for batch in _batches(reading):
                done = _with(done, len(batch), *_store(instrument, minutes, batch))
                done = replace(done, assumes_utc=reading.assumes_utc, read_bytes=raw.tell() if raw.seekable() else 0)
                progress(done)
        except DomainError as no:
            refused = no.code
            no.extra["added"] = done.added
            raise
        finally:
            done = replace(done, unfinished=reading.unfinished)
            if done.added or done.contradicting or refused:
                audit.record(
                    "candles.imported", actor=actor, subject=f"instrument:{symbol}", refused=refused, minutes=minutes,
                    file=path.name, bars=done.bars, added=done.added, contradicting=done.contradicting,
                )  # fmt: skip
    return done


def _batches(reading: Reading) -> Iterator[list[Bar]]:
    bars = iter(reading)
    while batch := list(islice(bars, BATCH)):
        yield batch


def _with(done: Imported, bars: int, added: int, contradictions: Sequence[Contradiction]) -> Imported:
    return replace(
        done,
        bars=done.bars + bars,
        added=done.added + added,
        contradicting=done.contradicting + len(contradictions),
        contradictions=(*done.contradictions, *contradictions)[:MOST_TOLD],
    )


# COPY needs a table to copy into, for it knows no "on conflict". Temporary tables are everybody's by PostgreSQL's own
# default, the application's role included; one that lasts as long as its transaction leaves nothing behind, also where
# a pooler hands connections around. (Arrays, unnested, need no table and were a sixth slower here.)
_GIVEN = """
create temporary table given (
  opened_at timestamptz, open numeric, high numeric, low numeric, close numeric, volume numeric) on commit drop"""
_COPY = "copy given from stdin"
_INSERT = """
insert into candles (instrument_id, minutes, opened_at, open, high, low, close, volume)
select %s, %s, opened_at, open, high, low, close, volume from given on conflict do nothing"""
# The bounds keep this to the batch's own stretch of the key, whatever the planner makes of a table without statistics.
_CONTRADICTING = """
select g.opened_at, g.open, g.high, g.low, g.close, g.volume, c.open, c.high, c.low, c.close, c.volume
  from given g join candles c using (opened_at)
 where c.instrument_id = %s and c.minutes = %s and c.opened_at between %s and %s
   and (g.open, g.high, g.low, g.close, g.volume) <> (c.open, c.high, c.low, c.close, c.volume)
 order by opened_at"""


@use_case()
def _store(instrument: Instrument, minutes: int, bars: Sequence[Bar]) -> tuple[int, list[Contradiction]]:
    """How many are new, and which are not what is kept."""
    with connection.cursor() as cursor:
        cursor.execute(_GIVEN)
        with cursor.copy(_COPY) as copy:
            copy.write("".join([f"{at}\t{o}\t{h}\t{low}\t{c}\t{v}\n" for at, o, h, low, c, v in bars]))
        cursor.execute(_INSERT, [instrument.pk, minutes])
        added = cursor.rowcount
        if added == len(bars):
            return added, []
        # A statement of its own, for it sees what others committed while the one before waited for them.
        cursor.execute(_CONTRADICTING, [instrument.pk, minutes, bars[0].opened_at, bars[-1].opened_at])
        return added, [Contradiction(Bar(*row[:6]), Bar(row[0], *row[6:])) for row in cursor.fetchall()]


def check_minutes(minutes: int) -> None:
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise Invalid({"minutes": [f"must lie between 1 and {LONGEST_MINUTES}"]})


def instrument_of(symbol: str) -> Instrument:
    found = Instrument.objects.filter(symbol=symbol).first()
    if found is None:
        raise NotFound(f"There is no instrument {symbol!r}: staff add it, with its point and contract size.")
    return found


# --- what is there


@dataclass(frozen=True, slots=True)
class Series:
    """The bars of one instrument and length. Above `MOST_SHOWN` bars, they and their gaps are not counted (None)."""

    minutes: int
    first: datetime
    last: datetime
    bars: int | None
    holes: int | None
    missing: int | None


MOST_SHOWN = 1_000_000
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
    """List what there is of an instrument, shortest bars first, with how many holes (weekends are none)."""
    with connection.cursor() as cursor:
        cursor.execute(_LENGTHS, {"symbol": symbol, "most": MOST_SHOWN + 1})
        found = cursor.fetchall()
    series = []
    for minutes, first, last, bars in found:
        if bars > MOST_SHOWN:
            series.append(Series(minutes, first, last, None, None, None))
            continue
        holes = [one for one in gaps_of(symbol=symbol, minutes=minutes) if not one.is_weekend]
        series.append(Series(minutes, first, last, bars, len(holes), sum(one.missing for one in holes)))
    return series


# Bars that another one does not follow at once, and which one does.
_STEPS = """
select before, opened_at
  from (select opened_at, lag(opened_at) over (order by opened_at) as before from candles
         where instrument_id = %s and minutes = %s and opened_at between %s and %s) bars
 where opened_at >= before + %s * interval '1 minute'"""


def gaps_of(
    *, symbol: str, minutes: int, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Gap]:
    """Yield where bars are missing between two moments, in order; without them, between the first bar and the last.

    Times at which the market is closed every week are no hole (`Gap.is_weekend`), holidays are. Nothing is filled in.
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
        # Where a slice ends in a gap, the next begins at the last bar before it.
        reached = bars.filter(opened_at__lte=end, opened_at__gte=start).order_by("-opened_at")[0].opened_at
        if reached == start:  # nothing but a gap in all of the slice
            reached = bars.filter(opened_at__gt=start).order_by("opened_at")[0].opened_at
        with connection.cursor() as cursor:
            cursor.execute(_STEPS, [symbol, minutes, start, reached, 2 * minutes])
            found = cursor.fetchall()
        yield from (one for a, b in found if (one := gap(a.astimezone(UTC) + step, b.astimezone(UTC), step)))
        start = reached
    if until and (late := gap(last.opened_at + step, until, step)):
        yield late
