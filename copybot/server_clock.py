"""When a trade server's time is ambiguous: in the hour that repeats after clocks go back. Pure.

A terminal shows times by the server's clock and does not state its zone. The offset is measured from current prices, so
a time of before the change is read as one hour too late: a trade that opened an hour ago looks new.
"""

import functools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_EPOCH, _HOUR = datetime(1970, 1, 1, tzinfo=UTC), timedelta(hours=1)
# One zone for each moment at which clocks of trade servers go back. Servers at UTC+2 and UTC+3 change with London, or
# with New York if their day ends at 17:00 there.
_ZONES = (
    "Europe/London", "America/New_York", "America/Chicago", "Africa/Cairo", "Asia/Beirut",
    "Asia/Jerusalem", "Australia/Sydney", "Pacific/Auckland",
)  # fmt: skip


def is_repeated(at_ms: int) -> bool:
    """Whether a time, converted by the present offset, may be one hour too late: it lies in the first hour after clocks
    went back somewhere. `at_ms`: since 1970 in UTC."""
    at = _EPOCH + timedelta(milliseconds=at_ms)  # on Windows `fromtimestamp` refuses a time before 1970
    return any(_offset(zone, at - _HOUR) > _offset(zone, at) for zone in _ZONES)


def _offset(zone: str, at: datetime) -> timedelta:
    return at.astimezone(_zone(zone)).utcoffset() or timedelta(0)


@functools.cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
