"""Reading bars: those that are stored, or longer ones that follow from shorter stored ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection

from core.errors import Invalid
from market.imports import Bar
from market.models import Candle
from market.services import check_minutes, instrument_of, lengths_of

DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars in order of time. `minutes_of_source`: the length of the stored bars that they follow from."""

    bars: Sequence[Bar]
    minutes_of_source: int
    has_more: bool


def bars_of(
    *, symbol: str, minutes: int, after: datetime | None = None, before: datetime | None = None, limit: int
) -> Bars:
    """The first bars that begin later than `after` and earlier than `before`.

    Where no bars of this length are stored, they follow from the longest stored ones that divide it, by UTC: a bar of a
    day begins at midnight. A longer bar has the prices of the shorter ones that exist. Raises NotFound and Invalid.
    """
    check_minutes(minutes)
    instrument_of(symbol)
    source = _source(symbol, minutes)
    earliest = after or datetime(1970, 1, 1, tzinfo=UTC)
    latest = before or datetime(9000, 1, 1, tzinfo=UTC)
    if source == minutes:
        stored = Candle.objects.filter(
            instrument_id=symbol, minutes=minutes, opened_at__gt=earliest, opened_at__lt=latest
        ).order_by("opened_at")
        rows = stored.values_list("opened_at", "open", "high", "low", "close", "volume")[: limit + 1]
        bars = [Bar(*row) for row in rows]
    else:
        # The bar that begins at `after` itself is not asked for again.
        start = after + timedelta(minutes=minutes) if after else earliest
        bars = _derived(symbol, minutes, source, start, latest, limit)
    return Bars(bars[:limit], source, len(bars) > limit)


def _source(symbol: str, minutes: int) -> int:
    """The length of stored bars from which bars of `minutes` follow."""
    lengths = lengths_of(symbol)
    fitting = [length for length in lengths if minutes % length == 0 and (length == minutes or minutes <= DAY)]
    if lengths and not fitting:
        stored = ", ".join(map(str, lengths))
        raise Invalid({"minutes": [f"must be a multiple, up to a day, of the stored lengths: {stored} minutes"]})
    return fitting[-1] if fitting else minutes


# At most as many shorter bars as limit + 1 longer ones can have are read, so a page costs the same at any depth.
_DERIVED = """
select date_bin(make_interval(mins => %(minutes)s), opened_at, timestamptz '2000-01-01 00:00+00') as at,
       (array_agg(open order by opened_at))[1], max(high), min(low),
       (array_agg(close order by opened_at desc))[1], sum(volume)
  from (select opened_at, open, high, low, close, volume from candles
         where instrument_id = %(symbol)s and minutes = %(source)s
           and opened_at >= %(earliest)s and opened_at < %(latest)s
         order by opened_at limit %(most)s) part
 group by at order by at"""


def _derived(symbol: str, minutes: int, source: int, earliest: datetime, latest: datetime, limit: int) -> list[Bar]:
    step = timedelta(minutes=minutes)
    bounds = {"earliest": _aligned(earliest, step), "latest": _aligned(latest - timedelta.resolution, step) + step}
    most = (limit + 1) * (minutes // source)
    with connection.cursor() as cursor:
        cursor.execute(_DERIVED, {"symbol": symbol, "minutes": minutes, "source": source, "most": most, **bounds})
        return [Bar(*row) for row in cursor.fetchall()]


def _aligned(at: datetime, step: timedelta) -> datetime:
    """The last beginning of a bar of this length that is not later."""
    origin = datetime(2000, 1, 1, tzinfo=UTC)
    return origin + (at - origin) // step * step
