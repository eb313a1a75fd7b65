"""Gaps between bars. Weekends are recognised; holidays count as missing bars, because the desk has no holiday calendar.

Currencies and metals trade from Sunday to Friday 17:00 New York time: 21:00 UTC in summer, 22:00 UTC in winter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

DAY, WEEK = timedelta(days=1), timedelta(days=7)
SATURDAY, SUNDAY = 5, 6


@dataclass(frozen=True, slots=True)
class Gap:
    """No bars from `since` until `until`. `missing`: the number of bars in trading hours, so zero for a weekend."""

    since: datetime
    until: datetime
    missing: int

    @property
    def is_weekend(self) -> bool:
        return self.missing == 0


def gap(since: datetime, until: datetime, step: timedelta) -> Gap | None:
    """The gap for bars of length `step` that begin from `since` on and end by `until`; None if not one bar fits.

    A bar counts as weekend if it would begin in one. For bars of a week and longer there are no weekends.
    """
    bars = (until - since) // step
    if bars < 1:
        return None
    if step < WEEK:
        end = since + bars * step
        bars -= sum(_beginnings(since, step, *weekend) for weekend in weekends(since, end))
    return Gap(since, until, bars)


def _beginnings(since: datetime, step: timedelta, start: datetime, end: datetime) -> int:
    """The count of times since, since + step, … that lie in start ≤ t < end."""
    return -((since - end) // step) + ((since - start) // step)


def weekends(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The weekends that overlap since ≤ t < until, clipped to it."""
    saturday = datetime.combine(since.astimezone(UTC).date(), time(), UTC)
    saturday -= (saturday.weekday() - SATURDAY) % 7 * DAY
    while saturday - DAY < until:
        start, end = _closing(saturday - DAY), _closing(saturday + DAY)
        if start < until and end > since:
            yield max(start, since), min(end, until)
        saturday += WEEK


def _closing(day: datetime) -> datetime:
    """17:00 New York time on that day."""
    return day + timedelta(hours=21 if _is_summer(day) else 22)


def _is_summer(day: datetime) -> bool:
    """Whether New York has daylight saving time on that day.

    Since 2007 by the Energy Policy Act of 2005; before that from the first Sunday of April to the last of October. The
    rule is calculated here because a machine may lack the time zone database. Both changes fall on a Sunday, hours
    before the market opens.
    """
    if day.year >= 2007:
        first, last = _sunday(day.year, 3, 8), _sunday(day.year, 11, 1)
    else:
        first, last = _sunday(day.year, 4, 1), _sunday(day.year, 10, 25)
    return first <= day < last


def _sunday(year: int, month: int, earliest: int) -> datetime:
    day = datetime(year, month, earliest, tzinfo=UTC)
    return day + (SUNDAY - day.weekday()) % 7 * DAY
