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


class Entry(StrEnum):
    """Whether a deal opened a position (or added to it), or closed it (or a part of it)."""

    IN = "IN"
    OUT = "OUT"


@dataclass(frozen=True, slots=True)
class Position:
    """An open position. `id` never changes during its life (MetaTrader's POSITION_IDENTIFIER, not its ticket).

    `opened_ms`: the broker's own time. `profit`: floating, in the account's currency.
    """

    id: str
    magic: int
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    open_price: Decimal = Decimal(0)
    opened_ms: int = 0
    profit: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Deal:
    """What was executed. `side`: of the deal itself, so the close of a BUY is a SELL. `at_ms`: the broker's own time.

    `profit`: in the account's currency, with swap and commission, which `costs` tells apart (a charge is negative).
    `reason`: TP, SL, STOP_OUT, or MANUAL for whatever was ordered.
    """

    id: str
    order: str
    position: str
    entry: Entry
    magic: int
    symbol: str
    side: str
    volume: Decimal
    price: Decimal
    profit: Decimal
    at_ms: int
    reason: str
    costs: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Quote:
    bid: Decimal
    ask: Decimal

    def of(self, side: str) -> Decimal:
        """The price at which an order to this side is filled."""
        return self.ask if side == "BUY" else self.bid


@dataclass(frozen=True, slots=True)
class Account:
    """`may_trade`: the account, its server and the terminal allow a program to trade."""

    login: str
    server: str
    currency: str
    balance: Decimal
    equity: Decimal
    is_hedging: bool
    may_trade: bool


@dataclass(frozen=True, slots=True)
class Result:
    """`code`: the broker's, in MetaTrader's numbers. `why`: of a refusal, one of the reasons the desk knows."""

    outcome: Outcome
    code: int = 0
    why: str = ""


class Broker(Protocol):
    """An account at a broker. An exception of any of these means that the outcome is unknown."""

    def positions(self) -> list[Position]: ...

    def trace(self, magic: int) -> Trace:
        """Whether an order or a deal with this number waits or is in the history."""

    def fit(
        self, symbol: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> tuple[Decimal, Decimal | None, Decimal | None]:
        """What the symbol's steps allow: the volume rounded down, the stops to the nearest tick. Zero stays zero.

        The same for the same arguments, whatever the price is. Unchanged where the symbol is unknown: zero would mean
        that a position must be closed.
        """

    def is_settled(self) -> bool:
        """Whether the broker is connected and its history complete, so that what is not in it did not happen."""

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result: ...

    def close(self, position: Position, volume: Decimal) -> Result:
        """Take so many lots off a position."""

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result: ...


class Terminal(Broker, Protocol):
    """A broker's account with its books and prices."""

    def deals(self, position: str) -> list[Deal]:
        """Of one position, oldest first; complete where `is_settled()`."""

    def position_under(self, magic: int) -> str:
        """The position that was opened under a magic number, open or gone; empty where there is none."""

    def quote(self, symbol: str) -> Quote | None:
        """None: the symbol is unknown, or has no price now."""

    def account(self) -> Account: ...
