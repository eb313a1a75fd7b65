"""The restriction that a score leads to. Pure. It begins at once and ends slowly, so that it does not flap."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

CLOSE_BELOW, OPEN_FROM = Decimal(50), Decimal(70)
NO_NEW_BELOW, NEW_FROM = Decimal(70), Decimal(75)  # for new subscribers of a provider
CLEAN = timedelta(days=1)
BANDS = ((Decimal(90), "FINE"), (Decimal(70), "NOTE"), (Decimal(50), "WATCH"))


@dataclass(frozen=True, slots=True)
class Restriction:
    """`by_hold`: only a hold restricts; the score alone would not."""

    restricted_at: datetime | None = None
    clean_since: datetime | None = None
    by_hold: bool = False


def band(score: Decimal) -> str:
    return next((name for least, name in BANDS if score >= least), "CLOSE_ONLY")


def next_restriction(score: Decimal, before: Restriction, *, now: datetime) -> Restriction:
    """Restrict to closes below 50; lift the restriction after a day at 70 or above.

    A restriction by a hold alone ends with the hold.
    """
    if before.restricted_at is None or before.by_hold:
        return Restriction(now) if score < CLOSE_BELOW else Restriction()
    if score < OPEN_FROM:
        return Restriction(before.restricted_at)
    since = before.clean_since or now
    return Restriction() if now - since >= CLEAN else Restriction(before.restricted_at, since)


def restriction_by_hold(score: Decimal, before: Restriction, *, now: datetime) -> Restriction:
    """Restrict to closes by a hold. The restriction by the score is tracked as well, and decides when the hold ends."""
    by_score = next_restriction(score, before, now=now)
    return by_score if by_score.restricted_at else Restriction(before.restricted_at or now, by_hold=True)
