"""The time in a UUID of version 7. The time in a trade's id is when the desk learned of the trade. Pure."""

import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


def time_of(value: uuid.UUID) -> datetime:
    """Return when the id was made, to the millisecond."""
    return _EPOCH + (value.int >> 80) * _MILLISECOND


def ms_of(value: str) -> int:
    """Return the time of an id in text, in milliseconds since 1970. For hot paths: no UUID and no datetime is made."""
    return int(value[:8] + value[9:13], 16)


def first_at(moment: datetime) -> uuid.UUID:
    """Return a bound between ids: exactly the ids of earlier milliseconds are lower."""
    return uuid.UUID(int=(moment - _EPOCH) // _MILLISECOND << 80)
