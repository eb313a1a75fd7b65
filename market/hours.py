"""When an instrument trades: weekly sessions in a time zone, and holidays.

The text of sessions is `DAYS OPEN-CLOSE`, several separated by commas: `Mon-Fri 09:30-16:00`. A close at or before the
open is on the next day, and sessions that touch are one: `Sun-Thu 17:00-17:00` is open from Sunday to Friday.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
_SESSION = re.compile(r"([A-Z][a-z]{2})(?:-([A-Z][a-z]{2}))? (\d\d:\d\d)-(\d\d:\d\d)", re.ASCII)
# A daily bar of a stock exchange is open for a quarter of its day and is expected. A currency's Sunday, open for two or
# three hours, is no daily bar at most sources.
LEAST_OPEN = 6

Interval = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Session:
    """Opens on `weekday` (0 is Monday) at `opens` and closes at `closes`, on the next day unless that is later."""

    weekday: int
    opens: time
    closes: time

    def on(self, day: date, zone: ZoneInfo) -> Interval:
        """The session that opens on this local day, in UTC."""
        start = datetime.combine(day, self.opens, zone).astimezone(UTC)
        end = datetime.combine(day if self.closes > self.opens else day + DAY, self.closes, zone).astimezone(UTC)
        return start, end


def sessions_of(text: str) -> tuple[Session, ...]:
    """Parse the text of sessions; ValueError with a sentence for anything else."""
    sessions = []
    for part in text.split(","):
        match = _SESSION.fullmatch(part.strip())
        if match is None or not {match[1], match[2] or match[1]} <= set(DAYS):
            raise ValueError(f"{part.strip()!r} is not a session such as Mon-Fri 09:30-16:00")
        first, last = DAYS.index(match[1]), DAYS.index(match[2] or match[1])
        opens, closes = time.fromisoformat(match[3]), time.fromisoformat(match[4])
        days = range(first, (last if last >= first else last + 7) + 1)
        sessions += [Session(day % 7, opens, closes) for day in days]
    return tuple(sessions)


def zone_of(name: str) -> ZoneInfo:
    """The zone of this name, such as `America/New_York`; ValueError with a sentence if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise ValueError(f"{name!r} is no name of a time zone such as America/New_York or EET") from fault


@dataclass(frozen=True)
class Hours:
    """Weekly sessions and holidays. `holidays`: by trading date, that is the date on which a session closes; the value
    is the local time of an early close, or None if there is no session at all. `yearly`: the same by month and day."""

    zone: ZoneInfo
    sessions: Sequence[Session]
    holidays: Mapping[date, time | None] = field(default_factory=dict)
    yearly: Mapping[tuple[int, int], time | None] = field(default_factory=dict)

    def open_intervals(self, since: datetime, until: datetime) -> Iterator[Interval]:
        """The intervals in UTC, joined where they touch, of trading; clipped to since ≤ t < until."""
        joined: Interval | None = None
        day = since.astimezone(self.zone).date() - 2 * DAY
        last = until.astimezone(self.zone).date()
        while day <= last:
            for start, end in self._on(day):
                if joined and start <= joined[1]:
                    joined = joined[0], max(end, joined[1])
                    continue
                if joined and (clipped := _clip(joined, since, until)):
                    yield clipped
                joined = start, end
            day += DAY
        if joined and (clipped := _clip(joined, since, until)):
            yield clipped

    def closures(self, since: datetime, until: datetime) -> Iterator[Interval]:
        """The intervals between since and until in which the instrument does not trade."""
        start = since
        for opens, closes in self.open_intervals(since, until):
            if opens > start:
                yield start, opens
            start = closes
        if start < until:
            yield start, until

    def open_time(self, since: datetime, until: datetime) -> timedelta:
        """How long the instrument trades between since and until."""
        return sum((end - start for start, end in self.open_intervals(since, until)), timedelta())

    def expects_bar(self, at: datetime, step: timedelta) -> bool:
        """Whether a bar of this length that begins then is expected: open for at least a sixth of it."""
        return self.open_time(at, at + step) * LEAST_OPEN >= step

    def _on(self, day: date) -> Sequence[Interval]:
        """The sessions that open on this local day, earliest first. They are kept, since bars ask for the same days."""
        if day not in self._kept:
            self._kept[day] = sorted(filter(None, (self._held(session, day) for session in self.sessions)))
        return self._kept[day]

    def _held(self, session: Session, day: date) -> Interval | None:
        if session.weekday != day.weekday():
            return None
        start, end = session.on(day, self.zone)
        # A session that closes at midnight belongs to the day before.
        trading_date = (end - MINUTE).astimezone(self.zone).date()
        if trading_date in self.holidays:
            early = self.holidays[trading_date]
        elif (trading_date.month, trading_date.day) in self.yearly:
            early = self.yearly[trading_date.month, trading_date.day]
        else:
            return start, end
        if early is None:
            return None
        end = min(end, datetime.combine(trading_date, early, self.zone).astimezone(UTC))
        return (start, end) if end > start else None

    _kept: dict[date, Sequence[Interval]] = field(default_factory=dict, init=False, repr=False, compare=False)


def _clip(interval: Interval, since: datetime, until: datetime) -> Interval | None:
    start, end = max(interval[0], since), min(interval[1], until)
    return (start, end) if start < end else None
