"""Reading a signed signal packet. Standard library only.

The MAC is checked over the text as received, before any field is parsed; then each field's grammar is checked. The
payload is never split at its separators: fields arrive separately, and a field that contains a separator is refused.
"""

import functools
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

FIELDS = ("sub_id", "seq", "timestamp", "symbol", "type", "volume", "price", "sl", "tp")
TAIL = ("action", "trade_ref", "gen")
OPEN, MODIFY, REDUCE, CLOSE, GAPFILL = "OPEN", "MODIFY", "REDUCE", "CLOSE", "GAPFILL"
SHRINKING = (REDUCE, CLOSE)

_AMOUNT = r"(?:0|[1-9][0-9]{0,9})\.[0-9]{8}"
_GRAMMAR = {
    "sub_id": r"[A-Za-z0-9-]{1,64}",
    "seq": r"[1-9][0-9]{0,18}",
    "timestamp": r"[1-9][0-9]{12}",
    "symbol": r"[A-Za-z0-9._#/+&!@$^~-]{1,32}",
    "type": r"BUY|SELL|BUY_LIMIT|SELL_LIMIT|BUY_STOP|SELL_STOP",
    "volume": _AMOUNT,
    "price": rf"-?{_AMOUNT}",  # a close passes at any price, also below zero
    "sl": rf"(?:{_AMOUNT})?",
    "tp": rf"(?:{_AMOUNT})?",
    "action": "OPEN|MODIFY|REDUCE|CLOSE",
    "trade_ref": r"[A-Za-z0-9-]{1,64}",
    "gen": r"[1-9][0-9]{0,8}",
}
_NOTHING = r"0\.00000000"
_GAPFILL = _GRAMMAR | {
    "symbol": "-",
    "type": "-",
    "volume": _NOTHING,
    "price": _NOTHING,
    "sl": "",
    "tp": "",
    "action": GAPFILL,
    "trade_ref": _GRAMMAR["seq"],
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _GRAMMAR.items()}
_GAPFILL_PATTERNS = {name: re.compile(pattern) for name, pattern in _GAPFILL.items()}
_MOST_SEQ = 2**63 - 1


def secret_check(secret: str, *, sub_id: str, generation: int) -> str:
    """The value that the desk gives for a packet secret, so that a wrong one is found before a signal comes."""
    return hmac.digest(derived_key(secret), f"CP1|CHECK|{sub_id}|{generation}".encode("ascii"), "sha256").hex()


class PacketRefused(Exception):
    """A packet that must not be acted on. `code`: packet_signature, packet_grammar or packet_stranger."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Packet:
    """A verified packet. `volume`: the lots that the copy must have afterwards, zero for a close.

    A GAPFILL belongs to no trade: it uses up a number that carries nothing for this subscription.
    """

    sub_id: str
    seq: int
    at_ms: int
    action: str
    trade_ref: str
    symbol: str
    side: str
    volume: Decimal
    price: Decimal
    sl: Decimal | None
    tp: Decimal | None
    sha256: str


def read(packet: Mapping[str, Any], *, secrets: Mapping[int, str], sub_id: str) -> Packet:
    """Verify and parse a packet. Raises PacketRefused unless the secret of the generation it names signed it."""
    text = _texts(packet)
    secret = _secret_of(text["gen"], secrets)
    payload = "|".join([*(text[name] for name in FIELDS), "CP1", *(text[name] for name in TAIL)])
    right = hmac.digest(derived_key(secret), payload.encode("ascii"), "sha256").hex()
    given = packet.get("signature_v1")
    if (
        not isinstance(given, str)
        or not given.isascii()
        or not hmac.compare_digest(given.lower().encode(), right.encode())
    ):
        raise PacketRefused("packet_signature", "the packet secret did not sign this")
    _check_grammar(text)
    if text["sub_id"] != sub_id:
        raise PacketRefused("packet_stranger", "it belongs to another subscription")
    return _parsed(text, payload)


@functools.lru_cache(maxsize=1024)
def derived_key(secret: str) -> bytes:
    """The key of `signature_v1`: hex, as 64 ASCII characters."""
    return hmac.new(secret.encode("ascii"), b"copydesk/packet/v1", hashlib.sha256).hexdigest().encode("ascii")


def check_seed_form(fields: Mapping[str, str], *, secret: str, signature: str) -> None:
    """Verify the short form of nine fields. It authenticates a signal, but does not say which trade it belongs to."""
    payload = "|".join(fields[name] for name in FIELDS)
    right = hmac.new(secret.encode("ascii"), payload.encode("ascii"), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.lower().encode(), right.encode()):
        raise PacketRefused("packet_signature", "the packet secret did not sign this")
    _check_grammar({name: fields[name] for name in FIELDS})


def _texts(packet: Mapping[str, Any]) -> dict[str, str]:
    text: dict[str, str] = {}
    for name in (*FIELDS, *TAIL):
        value = packet.get(name)
        if not isinstance(value, str) or not value.isascii():
            raise PacketRefused("packet_grammar", f"{name} is missing or not ASCII text")
        text[name] = value
    return text


def _secret_of(generation: str, secrets: Mapping[int, str]) -> str:
    if not _PATTERNS["gen"].fullmatch(generation):
        raise PacketRefused("packet_grammar", f"gen is {generation[:40]!r}")
    secret = secrets.get(int(generation))
    if secret is None:
        raise PacketRefused("packet_stranger", f"the configuration has no secret of generation {generation}")
    return secret


def _check_grammar(text: Mapping[str, str]) -> None:
    action = text.get("action", OPEN)
    patterns = _GAPFILL_PATTERNS if action == GAPFILL else _PATTERNS
    for name, value in text.items():
        if not patterns[name].fullmatch(value):
            raise PacketRefused("packet_grammar", f"{name} is {value[:40]!r}")
    if int(text["seq"]) > _MOST_SEQ:
        raise PacketRefused("packet_grammar", "seq is too large")
    if action == GAPFILL and int(text["trade_ref"]) != int(text["seq"]) + 1:
        raise PacketRefused("packet_grammar", "a GAPFILL must name the next number")
    for name in ("sl", "tp"):
        if text[name] and not Decimal(text[name]):
            raise PacketRefused("packet_grammar", f"{name} is zero; an empty text means none")
    if action not in (CLOSE, GAPFILL) and not Decimal(text["volume"]):
        raise PacketRefused("packet_grammar", "volume is zero")


def _parsed(text: Mapping[str, str], payload: str) -> Packet:
    return Packet(
        sub_id=text["sub_id"],
        seq=int(text["seq"]),
        at_ms=int(text["timestamp"]),
        action=text["action"],
        trade_ref=text["trade_ref"],
        symbol=text["symbol"],
        side=text["type"],
        volume=Decimal(text["volume"]),
        price=Decimal(text["price"]),
        sl=Decimal(text["sl"]) if text["sl"] else None,
        tp=Decimal(text["tp"]) if text["tp"] else None,
        sha256=hashlib.sha256(payload.encode("ascii")).hexdigest(),
    )
