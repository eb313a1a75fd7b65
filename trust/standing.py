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
    restricted_at: datetime | None
    clean_since: datetime | None


def band(score: Decimal) -> str:
    return next((name for least, name in BANDS if score >= least), "CLOSE_ONLY")


def stand(score: Decimal, *, restricted_at: datetime | None, clean_since: datetime | None, now: datetime) -> Standing:
    """Close-only below 50; open again once it has been at 70 or above for a day. Closes pass in either."""
    if restricted_at is None:
        return Standing(now if score < CLOSE_BELOW else None, None)
    if score < OPEN_FROM:
        return Standing(restricted_at, None)
    since = clean_since or now
    return Standing(None, None) if now - since >= CLEAN else Standing(restricted_at, since)
