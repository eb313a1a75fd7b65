"""The magic number, which ties orders, deals and positions at a broker to a trade even when the state file is lost.

It fits a signed 64-bit integer: the byte `C`, 16 bits for the subscription, 40 bits for the trade.
"""

import hashlib

_OURS = 0x43 << 56


def magic_of(index: int, ref: str) -> int:
    """The magic of one copy. `index`: the subscription's 16-bit number. `ref`: trade_id of the provider's trade."""
    return _OURS + (index << 40) + int.from_bytes(hashlib.sha256(ref.encode()).digest()[:5])


def index_of(magic: int) -> int | None:
    """The subscription's index in a magic; None for a magic that is not a copy's."""
    return magic >> 40 & 0xFFFF if magic >> 56 == _OURS >> 56 else None
