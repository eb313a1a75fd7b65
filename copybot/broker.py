"""What a copier needs of a broker: a small port. Whoever implements it may be slow, may fail, may not know."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol


class Outcome(StrEnum):
    """What became of an order. UNKNOWN: it may have been executed, or may be yet; nobody must send it again blindly."""

    DONE = "DONE"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


class Trace(StrEnum):
    """What a broker's books hold of a magic number besides open positions."""

    NONE = "NONE"
    PENDING = "PENDING"
    DONE = "DONE"


@dataclass(frozen=True, slots=True)
class Position:
    """An open position. `id` never changes during its life (MetaTrader's POSITION_IDENTIFIER, not its ticket)."""

    id: str
    magic: int
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None


@dataclass(frozen=True, slots=True)
class Result:
    outcome: Outcome
    code: int = 0


class Broker(Protocol):
    """An account at a broker. An exception of any of these means that the outcome is unknown."""

    def positions(self) -> list[Position]: ...

    def trace(self, magic: int) -> Trace:
        """Whether an order or a deal with this number waits or is in the history."""

    def fit(
        self, symbol: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> tuple[Decimal, Decimal | None, Decimal | None]:
        """What the symbol's steps allow: the volume rounded down, the stops to the nearest tick. Zero stays zero."""

    def is_settled(self) -> bool:
        """Whether the broker is connected and its history complete, so that what is not in it did not happen."""

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result: ...

    def close(self, position: Position, volume: Decimal) -> Result:
        """Take so many lots off a position."""

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result: ...
