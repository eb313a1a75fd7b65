"""The number that ties orders, deals and positions at a broker to a trade, also when the state file is lost.

It fits a signed 64-bit integer: `C`, then 16 bits of the subscription's own, then 40 of the trade's id.
"""

import hashlib

_OURS = 0x43 << 56


def magic_of(index: int, ref: str) -> int:
    """`index`: the subscription's, 16 bits. `ref`: the master's trade_id."""
    return _OURS + (index << 40) + int.from_bytes(hashlib.sha256(ref.encode()).digest()[:5])


def index_of(magic: int) -> int | None:
    """Whose it is; None for a number that is none of ours."""
    return magic >> 40 & 0xFFFF if magic >> 56 == _OURS >> 56 else None
