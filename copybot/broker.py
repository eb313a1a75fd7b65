"""The port to a broker. An implementation may be slow, may fail, and may not know the outcome of an order."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Protocol


class Outcome(StrEnum):
    """The outcome of an order. UNKNOWN: it may have been executed, or may still be. Never resend it blindly."""

    DONE = "DONE"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


class Trace(StrEnum):
    """What a broker's orders and history show of a magic number, besides open positions.

    WAITING: an order that the broker has accepted and not executed yet, over a weekend for example. PENDING: its books
    are behind, and a deal or a position is still to come.
    """

    NONE = "NONE"
    WAITING = "WAITING"
    PENDING = "PENDING"
    DONE = "DONE"


class Entry(StrEnum):
    """Whether a deal opened or increased a position (IN), or closed or reduced it (OUT)."""

    IN = "IN"
    OUT = "OUT"


DONE_PARTIAL = 10010
RECONCILED = "RECONCILED"  # `reason` of what no deal of the broker shows and had to be assumed
REBOOKED = frozenset({"ROLLOVER", "SPLIT"})  # `reason` of two deals by which a server books a position anew


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
    """One execution. `side`: of the deal itself, so the close of a BUY is a SELL. `at_ms`: the broker's own time.

    `profit`: in the account's currency, including swap and commission. `costs`: swap and commission alone, negative for
    a charge. `reason`: TP, SL, STOP_OUT, or MANUAL for any order; RECONCILED for a deal that the broker does not show;
    in an account's raw history also one of REBOOKED.
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
        """The price at which an order of this side is filled."""
        return self.ask if side == "BUY" else self.bid


@dataclass(frozen=True, slots=True)
class SymbolSpec:
    """A broker's conditions for new orders in a symbol, which it may change at any time; what is held stays as it is.

    Volumes in lots, `tick` in price, `contract_size` in units per lot. `may_open`: the broker accepts opens.
    `has_stops`: a position can carry a stop loss and a take profit.
    """

    tick: Decimal
    volume_min: Decimal
    volume_step: Decimal
    volume_max: Decimal
    contract_size: Decimal
    may_open: bool = True
    has_stops: bool = True

    def lots(self, volume: Decimal) -> Decimal:
        """The volume of an open: rounded down to the step, at most the largest, zero if it is below the smallest."""
        steps = (volume / self.volume_step).to_integral_value(ROUND_DOWN)
        whole = min(steps * self.volume_step, self.volume_max)
        return whole if whole >= self.volume_min else Decimal(0)

    def parts(self, volume: Decimal) -> list[Decimal]:
        """The orders that close `volume` lots: one, or several if it is above the largest order. No part except a
        whole volume is below the smallest order."""
        parts, left = list[Decimal](), volume
        while left > self.volume_max > 0:
            part = self.volume_max
            if left - part < self.volume_min:
                part = self.lots(left - self.volume_min) or part
            parts.append(part)
            left -= part
        return [*parts, left]

    def stop(self, price: Decimal | None) -> Decimal | None:
        """A stop at the nearest tick; None if there is none, or if a position cannot carry one."""
        if price is None or not self.has_stops:
            return None
        return (price / self.tick).to_integral_value() * self.tick


@dataclass(frozen=True, slots=True)
class Account:
    """`may_trade`: the account, its server and the terminal allow a program to trade. `is_fifo`: the broker closes the
    positions of a symbol in the order in which they were opened, and refuses any other. `is_connected`: to the server,
    so that a position that is missing in the list has ended, or will appear within seconds."""

    login: str
    server: str
    currency: str
    balance: Decimal
    equity: Decimal
    is_hedging: bool
    may_trade: bool
    is_fifo: bool = False
    is_connected: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """`code`: the broker's, in MetaTrader's numbers. `why`: a refusal's reason, from the list that the desk knows."""

    outcome: Outcome
    code: int = 0
    why: str = ""

    def of_several(self, *, is_begun: bool) -> "Result":
        """The answer to several orders, of which this is the last one's. `is_begun`: an earlier one was executed, so a
        refusal means done in part. Otherwise all of them would be sent again, by books that do not show it yet."""
        return Result(Outcome.DONE, DONE_PARTIAL) if is_begun and self.outcome is Outcome.REJECTED else self


class Broker(Protocol):
    """An account at a broker. An exception from any of these methods means that the outcome is unknown."""

    def positions(self) -> list[Position]: ...

    def trace(self, magic: int) -> Trace:
        """Whether an order with this magic waits, or an order or deal with it is in the history."""

    def spec(self, symbol: str) -> SymbolSpec | None:
        """The conditions of new orders; None for a symbol that the broker does not know."""

    def is_settled(self) -> bool:
        """Whether the broker is connected and its history is complete, so that a deal not in it did not happen."""

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result: ...

    def close(self, position: Position, volume: Decimal) -> Result:
        """Close `volume` lots of a position."""

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result: ...

    def cancel(self, magic: int) -> Result:
        """Cancel the orders with this magic that wait for their execution. REJECTED if there is none."""


class Terminal(Broker, Protocol):
    """A broker's account with its history and prices."""

    def deals(self, position: str) -> list[Deal]:
        """The deals of one position, oldest first; complete if `is_settled()`."""

    def was_cancelled(self, position: str) -> bool:
        """Whether the broker has cancelled all deals of a position, so that nothing was gained or lost."""

    def position_under(self, magic: int) -> str:
        """The id of the position that was opened under a magic number, open or closed; empty if there is none."""

    def quote(self, symbol: str) -> Quote | None:
        """The current price; None if the symbol is unknown or has no price now."""

    def account(self) -> Account: ...
