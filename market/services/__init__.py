"""Instruments, and which of their bars are stored and which are missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from django.core.exceptions import ValidationError
from django.db import connection

from audit import services as audit
from core.errors import Invalid, NotFound
from core.transactions import use_case
from market import calendars
from market.gaps import Gap, gap
from market.models import AssetClass, Candle, Instrument, TradingCalendar
from market.symbols import class_of

LONGEST_MINUTES = 31 * 24 * 60
SLICE = 500_000  # bars that one statement scans, well within the statement timeout
# 5,000 hourly bars of EURUSD (bid; volume in ticks), 2017-04-19 to 2018-02-07: published market prices, as distributed
# with the test data of the Python package `backtesting` 0.6.6. Gaps are weekends and holidays.
EURUSD_1H = Path(__file__).parent.parent / "data" / "eurusd-1h-2017-2018.csv"


def check_minutes(minutes: int) -> None:
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise Invalid({"minutes": [f"must lie between 1 and {LONGEST_MINUTES}"]})


def instrument_of(symbol: str) -> Instrument:
    instrument = Instrument.objects.select_related("calendar").filter(symbol=symbol).first()
    if instrument is None:
        raise NotFound(
            f"There is no instrument {symbol!r}. Staff can add it in the admin, with point and contract size."
        )
    return instrument


@use_case()
def create_instrument(
    *, symbol: str, point: Decimal, contract_size: Decimal, actor: audit.Actor, asset_class: str = "",
    description: str = "",
) -> Instrument:  # fmt: skip
    """Add an instrument with the trading hours of its class, which its symbol suggests where none is given.

    Raises Invalid, also for an instrument that exists.
    """
    asset_class = asset_class or class_of(symbol)
    calendar = TradingCalendar.objects.filter(name=calendars.OF_CLASS.get(asset_class, "")).first()
    instrument = Instrument(
        symbol=symbol, point=point, contract_size=contract_size, description=description,
        asset_class=AssetClass(asset_class), calendar=calendar,
    )  # fmt: skip
    try:
        instrument.full_clean()
    except ValidationError as fault:
        raise Invalid({name: list(texts) for name, texts in fault.message_dict.items()}) from fault
    instrument.save(force_insert=True)
    audit.record("instrument.added", actor=actor, subject=f"instrument:{symbol}")
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
# One look at the index for each length.
_LENGTHS = """
with recursive step (minutes) as (
  select min(minutes) from candles where instrument_id = %(symbol)s
  union all
  select (select min(c.minutes) from candles c where c.instrument_id = %(symbol)s and c.minutes > step.minutes)
    from step where step.minutes is not null)
select minutes from step where minutes is not null"""
_SERIES = """
select min(opened_at), max(opened_at),
       (select count(*) from (
          select from candles where instrument_id = %(symbol)s and minutes = %(minutes)s limit %(most)s) bars)
  from candles where instrument_id = %(symbol)s and minutes = %(minutes)s"""


def lengths_of(symbol: str) -> list[int]:
    """The lengths in minutes of an instrument's stored bars, the shortest first."""
    with connection.cursor() as cursor:
        cursor.execute(_LENGTHS, {"symbol": symbol})
        return [minutes for (minutes,) in cursor.fetchall()]


def series_of(*, symbol: str) -> list[Series]:
    """List an instrument's stored bars by length, shortest first, with the number of holes (gaps in trading hours)."""
    series = []
    for minutes in lengths_of(symbol):
        with connection.cursor() as cursor:
            cursor.execute(_SERIES, {"symbol": symbol, "minutes": minutes, "most": MOST_COUNTED + 1})
            first, last, bars = cursor.fetchone()
        if bars > MOST_COUNTED:
            series.append(Series(minutes, first, last, None, None, None))
            continue
        holes = [hole for hole in gaps_of(symbol=symbol, minutes=minutes) if not hole.is_closure]
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

    Weekends and holidays of the instrument's calendar are closures (`Gap.is_closure`). The desk fills in no bar.
    """
    check_minutes(minutes)
    step, hours = timedelta(minutes=minutes), instrument_of(symbol).hours
    bars = Candle.objects.filter(instrument_id=symbol, minutes=minutes)
    first = bars.filter(**{"opened_at__gte": since} if since else {}).order_by("opened_at").first()
    last = bars.filter(**{"opened_at__lt": until} if until else {}).order_by("-opened_at").first()
    if first is None or last is None or first.opened_at > last.opened_at:
        if since and until and (whole := gap(since, until, step, hours)):
            yield whole
        return
    if since and (early := gap(since, first.opened_at, step, hours)):
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
            if between := gap(before.astimezone(UTC) + step, after.astimezone(UTC), step, hours):
                yield between
        start = reached
    if until and (late := gap(last.opened_at + step, until, step, hours)):
        yield late
