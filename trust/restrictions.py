"""What a score leads to. Pure. It closes at once and opens slowly, so that nobody flickers on the edge."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

CLOSE_BELOW, OPEN_FROM = Decimal(50), Decimal(70)
NO_NEW_BELOW, NEW_FROM = Decimal(70), Decimal(75)  # a provider's new subscribers
CLEAN = timedelta(days=1)
BANDS = ((Decimal(90), "FINE"), (Decimal(70), "NOTE"), (Decimal(50), "WATCH"))


@dataclass(frozen=True, slots=True)
class Standing:
    """`by_hold`: it is staff who keep it closed, and the score alone would not."""

    restricted_at: datetime | None = None
    clean_since: datetime | None = None
    by_hold: bool = False


def band(score: Decimal) -> str:
    return next((name for least, name in BANDS if score >= least), "CLOSE_ONLY")


def stand(score: Decimal, before: Standing, *, now: datetime) -> Standing:
    """Close-only below 50; open again once it has been at 70 or above for a day. Closes pass in either.

    What a hold closed, and the score did not, opens with the end of the hold.
    """
    if before.restricted_at is None or before.by_hold:
        return Standing(now) if score < CLOSE_BELOW else Standing()
    if score < OPEN_FROM:
        return Standing(before.restricted_at)
    since = before.clean_since or now
    return Standing() if now - since >= CLEAN else Standing(before.restricted_at, since)


def held_closed(score: Decimal, before: Standing, *, now: datetime) -> Standing:
    """Close-only by a hold. What the score says goes on beneath, and decides when the hold ends."""
    beneath = stand(score, before, now=now)
    return beneath if beneath.restricted_at else Standing(before.restricted_at or now, by_hold=True)
