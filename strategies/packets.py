"""Signed signal packets, one for each subscription. Pure.

The MAC covers the text of the fields as sent: the receiver joins the received strings and never formats a number again
before it verifies. `signature` covers the nine fields. `signature_v1` also binds the action, the trade and the key's
generation, with a separate key that is derived from the secret.
"""

import functools
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from core import money
from strategies import sizing

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


def sign(secret: str, fields: tuple[str, ...], *, action: str, trade_ref: str, generation: int) -> dict[str, str]:
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


def secret_check(secret: str, *, sub_id: str, generation: int) -> str:
    """The value by which a bot checks that it has this secret: 64 hex digits, from which the secret does not follow."""
    return hmac.digest(derived_key(secret), f"CP1|CHECK|{sub_id}|{generation}".encode("ascii"), "sha256").hex()


def gapfill(sub_id: str, seq: str, timestamp_ms: int) -> tuple[tuple[str, ...], str, str]:
    """The packet that consumes a number and says nothing else: its nine fields, its action, and the next number."""
    nothing = money.text(sizing.NOTHING)
    return (sub_id, seq, str(timestamp_ms), "-", "-", nothing, nothing, "", ""), "GAPFILL", str(int(seq) + 1)


def of_event(
    event: str, trade: Mapping[str, Any], plan: sizing.Plan, *, sub_id: str, seq: str, timestamp_ms: int, opens: bool
) -> tuple[tuple[str, ...], str, str]:
    """The nine fields, the action and the trade of the packet for one event of a stream.

    `volume` is the lots that the copy must hold after the event. It is zero for a close. A copy of which nothing must
    be held any more gets a CLOSE with any further event of its trade. If the event does not concern the subscription
    (a trade that it does not copy, an open while it is paused), the packet is a GAPFILL that only consumes the number.
    A close is never replaced by a GAPFILL here; it is where a paused follower was never shown the trade. A copy that
    waits for the first stop loss gets a GAPFILL for the open, and its OPEN under the number of the modification that
    brings it.
    """
    brings_stop = event == "trade.modified" and plan.waits and bool(trade.get("brings_stop"))
    opening = event == "trade.opened" or brings_stop
    must_be_flat = not opening and not plan.why_not and not plan.volume
    closing = event == "trade.closed" or must_be_flat
    if not closing and (plan.why_not or (opening and not opens)):
        return gapfill(sub_id, seq, timestamp_ms)
    price = trade["open_price"] if event in ("trade.opened", "trade.modified") else trade["close_price"]
    stops = ("", "") if closing else ("" if stop is None else money.text(stop) for stop in (plan.sl, plan.tp))
    volume = money.text(sizing.NOTHING if closing else plan.volume)
    fields = (sub_id, seq, str(timestamp_ms), plan.symbol, plan.type, volume, price, *stops)
    return fields, "CLOSE" if closing else "OPEN" if opening else ACTIONS[event], trade["trade_id"]
