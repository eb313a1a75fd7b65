"""Keyset pages: the cursor names the last row of the page before, so every page costs the same."""

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from core.errors import Invalid

DEFAULT, MOST = 50, 500


@dataclass(frozen=True, slots=True)
class Cursor:
    at: datetime
    id: uuid.UUID

    def text(self) -> str:
        return base64.urlsafe_b64encode(f"{self.at.isoformat()}|{self.id}".encode()).decode().rstrip("=")


def cursor(text: str | None) -> Cursor | None:
    """Read a cursor; raise Invalid where the desk did not write it."""
    if not text:
        return None
    try:
        at, _, row = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("|")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not 1970 <= moment.year <= 9000:
            raise ValueError("not a time of the desk")
        return Cursor(moment.astimezone(UTC), uuid.UUID(row))  # PostgreSQL refuses offsets of 16 hours and more
    except (ValueError, binascii.Error, OverflowError):
        raise Invalid({"cursor": ["is not a cursor of this list"]}) from None


def limit(text: str | None) -> int:
    if text is None:
        return DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST):
        raise Invalid({"limit": [f"must be 1 to {MOST}"]})
    return int(text)
