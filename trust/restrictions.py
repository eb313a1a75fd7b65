"""What a score leads to. Pure. It closes at once and opens slowly, so that nobody flickers on the edge."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

CLOSE_BELOW, OPEN_FROM = Decimal(50), Decimal(70)
NO_NEW_BELOW, NEW_FROM = Decimal(70), Decimal(75)  # a provider's new subscribers
CLEAN = timedelta(days=1)
BANDS = ((Decimal(90), "FINE"), (Decimal(70), "NOTE"), (Decimal(50), "WATCH"))


@dataclass(frozen=True, slots=True)
class Restriction:
    """`by_hold`: it is staff who keep it closed, and the score alone would not."""

    restricted_at: datetime | None = None
    clean_since: datetime | None = None
    by_hold: bool = False


def band(score: Decimal) -> str:
    return next((name for least, name in BANDS if score >= least), "CLOSE_ONLY")


def next_restriction(score: Decimal, before: Restriction, *, now: datetime) -> Restriction:
    """Close-only below 50; open again once it has been at 70 or above for a day. Closes pass in either.

    What a hold closed, and the score did not, opens with the end of the hold.
    """
    if before.restricted_at is None or before.by_hold:
        return Restriction(now) if score < CLOSE_BELOW else Restriction()
    if score < OPEN_FROM:
        return Restriction(before.restricted_at)
    since = before.clean_since or now
    return Restriction() if now - since >= CLEAN else Restriction(before.restricted_at, since)


def restriction_by_hold(score: Decimal, before: Restriction, *, now: datetime) -> Restriction:
    """Close-only by a hold. What the score says goes on beneath, and decides when the hold ends."""
    beneath = next_restriction(score, before, now=now)
    return beneath if beneath.restricted_at else Restriction(before.restricted_at or now, by_hold=True)
