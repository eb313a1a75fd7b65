"""The reliability of a user's bots: a fold over their incidents. Pure.

The same events always give the same score, in any order and however often they are read: each event counts once, and
each whole day without an event gives ten points back. A part of a day counts nothing, so that a bot with an incident
every day does not recover. (The weights are those of EASync's penalty table, which subtracted the same events again at
each run and never gave points back.)
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
ONE_MOVE = timedelta(seconds=60)  # one move of the market makes many prices deviate, and is no fault of the bot


@dataclass(frozen=True, slots=True)
class Event:
    """An incident of a bot. `symbol` is empty where the incident has none."""

    id: int
    at: datetime
    reason: str
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The score, 0 to 100, and the events that counted: (event, points, score after it)."""

    score: int
    counted: list[tuple[Event, int, int]]

    @property
    def last_at(self) -> datetime | None:
        return self.counted[-1][0].at if self.counted else None


def fold(events: Iterable[Event], *, now: datetime) -> Endpoint:
    """Start at 100. For each event in time order: add 10 for each whole day since the event before (at most 100), then
    subtract the weight of its reason (at least 0). Finally add the recovery until `now`.
    """
    score, last, counted = 100, None, []
    last_deviation: dict[str, datetime] = {}
    unique = {event.id: event for event in events if event.reason in WEIGHTS and event.at <= now}
    for event in sorted(unique.values(), key=lambda event: (event.at, event.id)):
        if event.reason == "PRICE_DEVIATION":
            before = last_deviation.get(event.symbol)
            if before is not None and event.at - before < ONE_MOVE:
                continue
            last_deviation[event.symbol] = event.at
        score = _recovered(score, last, event.at)
        score = max(0, score - WEIGHTS[event.reason])
        last = event
        counted.append((event, WEIGHTS[event.reason], score))
    return Endpoint(_recovered(score, last, now), counted)


def _recovered(score: int, last: Event | None, now: datetime) -> int:
    return score if last is None else min(100, score + DAILY * ((now - last.at) // A_DAY))
