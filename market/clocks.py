"""The clock of a file whose times do not state their zone: UTC, a fixed offset, or a zone with summer time."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from market.formats import quoted
from market.hours import zone_of

HOUR = timedelta(hours=1)


class ImpossibleTime(ValueError):
    """The clock never shows this time, because it was put forward over it."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A zone, and how far ahead of it the clock is set. `name` is what the file's owner calls it."""

    name: str
    zone: timezone | ZoneInfo
    ahead: timedelta = timedelta()

    def utc(self, shown: datetime, after: datetime | None = None) -> datetime:
        """The moment at which the clock shows this naive time.

        When clocks are put back an hour is shown twice: it is the second time if the first would not be later than
        `after`. Raises ImpossibleTime.
        """
        local = shown - self.ahead
        first = local.replace(tzinfo=self.zone)
        at = first.astimezone(UTC)
        if isinstance(self.zone, timezone):
            return at
        second = first.replace(fold=1)
        if (before := first.utcoffset()) != (later := second.utcoffset()):
            assert before is not None
            assert later is not None
            if before < later:
                raise ImpossibleTime(f"{self.name} never showed {shown:%Y-%m-%d %H:%M}: its clock was put forward")
            if after is not None and at <= after:
                return second.astimezone(UTC)
        return at


IN_UTC = Clock("UTC", UTC)


def offset_of(text: str) -> timedelta:
    """The time east of Greenwich that `+02:00`, `-5` or `Z` means; ValueError for anything else."""
    if text in ("Z", "UTC"):
        return timedelta()
    match = re.fullmatch(r"([+-])(\d{1,2})(?::?([0-5]\d))?", text, re.ASCII)
    if match is None or int(match[2]) > 14:
        raise ValueError(f"{quoted(text)} is not an offset such as +02:00")
    east = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    return -east if match[1] == "-" else east


def at_offset(offset: timedelta) -> Clock:
    return Clock(offset_name(offset), timezone(offset)) if offset else IN_UTC


def offset_name(offset: timedelta) -> str:
    minutes = offset // timedelta(minutes=1)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def clock_of(text: str) -> Clock:
    """The clock that `+02:00`, `EET` or `America/New_York+7` means; ValueError with a sentence for anything else.

    Many brokers' servers run seven hours ahead of New York, so that a day of theirs begins when the week's market does.
    """
    if re.match(r"[+-]|Z$|UTC$", text):
        return at_offset(offset_of(text))
    match = re.fullmatch(r"(.*?)([+-]\d{1,2}(?::?[0-5]\d)?)?", text, re.ASCII | re.DOTALL)
    assert match is not None
    # Names such as Etc/GMT+2 have a sign of their own.
    if match[2] is None or text.startswith("Etc/"):
        return Clock(text, zone_of(text))
    return Clock(text, zone_of(match[1]), offset_of(match[2]))
