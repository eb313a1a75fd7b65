"""Does this user's bot behave: a fold over what it did wrong. Pure.

The same events make the same score, however often and in whatever order they are read: each counts once, and a day
without any gives ten points back. A day means a whole one: what had passed of it when the next fault came is lost, so
that who errs a little each day does not look as one who stopped. (The weights are those of EASync's penalty table. What
that got wrong is that it took the same events off again at each run, and never gave anything back.)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

WEIGHTS = {
    "REPLAY_ATTACK": 50,
    "INVALID_SIGNATURE": 40,
    "DUPLICATE_SEQ": 30,
    "SEQUENCE_GAP": 20,
    "RATE_LIMIT_EXCEEDED": 15,
    "INSUFFICIENT_FUNDS": 10,
    "TTL_EXPIRED": 5,
    "PRICE_DEVIATION": 3,
}
A_DAY, DAILY = timedelta(hours=24), 10
ONE_MOVE = timedelta(seconds=60)  # one move of the market makes many prices deviate: weather, not behaviour


@dataclass(frozen=True, slots=True)
class Event:
    """Something that went wrong. `symbol` where it has one."""

    id: int
    at: datetime
    reason: str
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The score, 0 to 100, and what made it: (event, points, score after) each."""

    score: int
    counted: list[tuple[Event, int, int]]

    @property
    def last_at(self) -> datetime | None:
        return self.counted[-1][0].at if self.counted else None


def fold(events: Iterable[Event], *, now: datetime) -> Endpoint:
    """s = 100; for each event in the order of time: s grows by 10 for each whole day since the one before, at most to
    100, and falls by the reason's weight, at least to 0; at last it grows up to `now`.
    """
    score, last, counted = 100, None, []
    deviated: dict[str, datetime] = {}
    known = {event.id: event for event in events if event.reason in WEIGHTS and event.at <= now}
    for event in sorted(known.values(), key=lambda event: (event.at, event.id)):
        if event.reason == "PRICE_DEVIATION":
            before = deviated.get(event.symbol)
            if before is not None and event.at - before < ONE_MOVE:
                continue
            deviated[event.symbol] = event.at
        score = _recovered(score, last, event.at)
        score = max(0, score - WEIGHTS[event.reason])
        last = event
        counted.append((event, WEIGHTS[event.reason], score))
    return Endpoint(_recovered(score, last, now), counted)


def _recovered(score: int, last: Event | None, now: datetime) -> int:
    return score if last is None else min(100, score + DAILY * ((now - last.at) // A_DAY))
