"""The input of the detector: deals, positions, copies and prices. Pure; prices and money are Decimals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Deal:
    """A closed trade; `ref` is its id. `opened_at`: when the desk learned of it. `close_price`: the average where it
    was closed in parts. `profit` is the bot's report, in the account's currency; the detector calculates its own.
    Where staff corrected the trade, both are the corrected ones.
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
        """The price move in the deal's favour."""
        moved = self.close_price - self.open_price
        return moved if self.side == "BUY" else -moved


@dataclass(frozen=True, slots=True)
class Position:
    """An open trade; `floating`: the price move in its favour times lots, None without a price."""

    opened_at: datetime
    symbol: str
    side: str
    volume: Decimal
    open_price: Decimal
    floating: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Fill:
    """The fill of a copier's order; `owner` is the copier's user."""

    at: datetime
    symbol: str
    side: str
    requested_price: Decimal
    executed_price: Decimal
    owner: str = ""

    @property
    def slippage_bps(self) -> float:
        """Positive: worse than requested (a buy at 1.10000 filled at 1.10008: 0.727). Not of a request at zero."""
        worse = self.executed_price - self.requested_price
        if self.side == "SELL":
            worse = -worse
        return float(worse / abs(self.requested_price)) * 10_000


@dataclass(frozen=True, slots=True)
class Copy:
    """A closed copy; `deal_ref` is the deal that it copied, `owner` the copier's user."""

    deal_ref: str
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
    """Everything about one strategy of a provider. `others`: trades of other people at about the same times, by owner;
    `move_values`: by symbol, the value of a price move of 1 for one lot, in the account's currency, where it is known.
    """

    deals: Sequence[Deal]
    since: datetime
    until: datetime
    positions: Sequence[Position] = ()
    fills: Sequence[Fill] = ()
    copies: Sequence[Copy] = ()
    bars: Mapping[str, Sequence[Bar]] = field(default_factory=dict)
    others: Mapping[str, Sequence[Deal]] = field(default_factory=dict)
    move_values: Mapping[str, Decimal] = field(default_factory=dict)
