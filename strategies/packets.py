"""Signed signal packets, one per subscription. Pure.

The MAC is over the text of the fields as they are sent: the receiver joins the strings it received and never
formats a number again before it verifies. `signature` covers the nine fields; `signature_v1` also binds the action,
the trade and the key's generation, with a key of its own derived from the secret.
"""

import functools
import hashlib
import hmac
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from core import money

FIELDS = ("sub_id", "seq", "timestamp", "symbol", "type", "volume", "price", "sl", "tp")
ACTIONS = {
    "trade.opened": "OPEN",
    "trade.modified": "MODIFY",
    "trade.reduced": "REDUCE",
    "trade.closed": "CLOSE",
}


@functools.lru_cache(maxsize=65_536)
def derived_key(secret: str) -> bytes:
    """The key of `signature_v1`, as 64 ASCII characters."""
    return hmac.new(secret.encode("ascii"), b"copydesk/packet/v1", hashlib.sha256).hexdigest().encode("ascii")


def signed(secret: str, fields: tuple[str, ...], *, action: str, trade_ref: str, generation: int) -> dict[str, str]:
    """The packet as it is sent: nine text fields, action, trade_ref, gen, and both signatures."""
    payload = "|".join(fields)
    payload_v1 = f"{payload}|CP1|{action}|{trade_ref}|{generation}"
    return {
        **dict(zip(FIELDS, fields, strict=True)),
        "action": action,
        "trade_ref": trade_ref,
        "gen": str(generation),
        "signature": hmac.digest(secret.encode("ascii"), payload.encode("ascii"), "sha256").hex(),
        "signature_v1": hmac.digest(derived_key(secret), payload_v1.encode("ascii"), "sha256").hex(),
    }


def fields_of(
    event: str, trade: Mapping[str, Any], *, sub_id: str, seq: str, timestamp_ms: int, copy_volume: Decimal
) -> tuple[str, ...]:
    """The nine fields for one event. `volume` is what the copy must hold after it: zero for a close."""
    closing = event == "trade.closed"
    price = trade["close_price"] if closing or event == "trade.reduced" else trade["open_price"]
    return (
        sub_id,
        seq,
        str(timestamp_ms),
        trade["symbol"],
        trade["type"],
        money.text(Decimal(0) if closing else copy_volume),
        price,
        "" if closing else trade["sl"] or "",
        "" if closing else trade["tp"] or "",
    )
