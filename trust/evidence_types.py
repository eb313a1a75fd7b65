"""What the detector reads: deals, positions, copies and prices. Pure; prices and money are Decimals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Deal:
    """A closed trade; `ref` names it. `opened_at`: when the desk learned of it. `close_price`: the average where it was
    closed in parts. `profit` is as told, in the account's currency; the detector reckons its own.
    """

    opened_at: datetime
    closed_at: datetime
    symbol: str
    side: str
    volume: Decimal
    open_price: Decimal
    close_price: Decimal
    profit: Decimal
    ref: str = ""

    @property
    def held(self) -> timedelta:
        return self.closed_at - self.opened_at

    @property
    def gained(self) -> Decimal:
        """By how much the price went its way."""
        moved = self.close_price - self.open_price
        return moved if self.side == "BUY" else -moved


@dataclass(frozen=True, slots=True)
class Position:
    """An open trade; `floating` by how much times lots the price has gone its way, where there is a price."""

    opened_at: datetime
    symbol: str
    side: str
    volume: Decimal
    open_price: Decimal
    floating: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Fill:
    """What became of one copier's order; `owner` names whose."""

    at: datetime
    symbol: str
    side: str
    requested_price: Decimal
    executed_price: Decimal
    owner: str = ""

    @property
    def slippage_bps(self) -> float:
        """Above zero is worse than asked (buy 1.10000 filled at 1.10008: 0.727)."""
        worse = self.executed_price - self.requested_price
        if self.side == "SELL":
            worse = -worse
        return float(worse / self.requested_price) * 10_000


@dataclass(frozen=True, slots=True)
class Copy:
    """What became of one copier's trade: `of` names the deal that it copied, `owner` whose it is."""

    of: str
    side: str
    volume: Decimal
    open_price: Decimal
    close_price: Decimal
    owner: str = ""

    @property
    def gained(self) -> Decimal:
        moved = self.close_price - self.open_price
        return moved if self.side == "BUY" else -moved


@dataclass(frozen=True, slots=True)
class Bar:
    opened_at: datetime
    minutes: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one provider by one strategy. `others`: trades of other people that may stand beside these;
    `worth`: what a move by one brings for a lot in the account's currency, where that is known.
    """

    deals: Sequence[Deal]
    since: datetime
    until: datetime
    positions: Sequence[Position] = ()
    fills: Sequence[Fill] = ()
    copies: Sequence[Copy] = ()
    bars: Mapping[str, Sequence[Bar]] = field(default_factory=dict)
    others: Mapping[str, Sequence[Deal]] = field(default_factory=dict)
    worth: Mapping[str, Decimal] = field(default_factory=dict)
