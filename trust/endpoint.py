"""The reliability of a user's bots: a fold over their incidents. Pure.

The same events always give the same score, in any order and however often they are read: each event counts once, and
each whole day without an event gives ten points back. A part of a day counts nothing, so that a bot with an incident
every day does not recover. (The weights are those of EASync's penalty table, which subtracted the same events again at
each run and never gave points back.)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

# Each has a producer: a fault that a bot really makes and that the desk can prove to be its own. The table's other six
# had none. A signature, a rate limit or a number used before may be an impostor's, who sends a captured request again.
# A gap in the stream is the network's. That a signal was late or a price had moved does not say whose part was slow.
WEIGHTS = {
    "REPLAY_ATTACK": 50,
    "INSUFFICIENT_FUNDS": 10,
    "REPORT_DIFFERS": 20,
}
A_DAY, DAILY = timedelta(hours=24), 10


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
    unique = {event.id: event for event in events if event.reason in WEIGHTS and event.at <= now}
    for event in sorted(unique.values(), key=lambda event: (event.at, event.id)):
        score = _recovered(score, last, event.at)
        score = max(0, score - WEIGHTS[event.reason])
        last = event
        counted.append((event, WEIGHTS[event.reason], score))
    return Endpoint(_recovered(score, last, now), counted)


def _recovered(score: int, last: Event | None, now: datetime) -> int:
    return score if last is None else min(100, score + DAILY * ((now - last.at) // A_DAY))
