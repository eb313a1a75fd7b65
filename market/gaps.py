"""What is missing between bars. Weekends are known and told apart; holidays are holes, for the desk has no calendar.

Currencies and metals trade from Sunday to Friday 17:00 in New York: 21:00 UTC in its summer, 22:00 UTC in its winter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

DAY, WEEK = timedelta(days=1), timedelta(days=7)
SATURDAY, SUNDAY = 5, 6


@dataclass(frozen=True, slots=True)
class Gap:
    """No bars from `since` until `until`. `missing`: how many the open market would have had, so a weekend has none."""

    since: datetime
    until: datetime
    missing: int

    @property
    def is_weekend(self) -> bool:
        return self.missing == 0


def gap(since: datetime, until: datetime, step: timedelta) -> Gap | None:
    """The gap where bars of that length could begin from `since` on and end by `until`; None where not one fits.

    A bar belongs to a weekend where it would begin in one. Bars of a week and more know none.
    """
    bars = (until - since) // step
    if bars < 1:
        return None
    if step < WEEK:
        end = since + bars * step
        bars -= sum(_beginnings(since, step, *one) for one in weekends(since, end))
    return Gap(since, until, bars)


def _beginnings(since: datetime, step: timedelta, start: datetime, end: datetime) -> int:
    """How many of since, since + step, … lie in start ≤ t < end."""
    return -((since - end) // step) + ((since - start) // step)


def weekends(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The weekends of since ≤ t < until, cut to it."""
    saturday = datetime.combine(since.astimezone(UTC).date(), time(), UTC)
    saturday -= (saturday.weekday() - SATURDAY) % 7 * DAY
    while saturday - DAY < until:
        start, end = _closing(saturday - DAY), _closing(saturday + DAY)
        if start < until and end > since:
            yield max(start, since), min(end, until)
        saturday += WEEK


def _closing(day: datetime) -> datetime:
    """17:00 in New York on that day."""
    return day + timedelta(hours=21 if _is_summer(day) else 22)


def _is_summer(day: datetime) -> bool:
    """By the Energy Policy Act of 2005, since 2007; before that, from April's first Sunday to October's last.

    Reckoned here, for a machine may lack the time zone database. Neither change is ever on another day than a Sunday,
    hours before the market opens.
    """
    if day.year >= 2007:
        first, last = _sunday(day.year, 3, 8), _sunday(day.year, 11, 1)
    else:
        first, last = _sunday(day.year, 4, 1), _sunday(day.year, 10, 25)
    return first <= day < last


def _sunday(year: int, month: int, earliest: int) -> datetime:
    day = datetime(year, month, earliest, tzinfo=UTC)
    return day + (SUNDAY - day.weekday()) % 7 * DAY
