"""The lines of a fee: what each copied trade counts, and by which prices.

A line is stored with the settlement that counts its trade, and never changes: later prices, contract sizes and rates do
not matter. A correction of the trade by two members of staff is applied to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from accounts.models import AccountSymbol
from core import money
from market import prices, profit
from market.models import Instrument
from wallets import fees
from wallets.copied_trades import CopiedTrade
from wallets.models import FeeAgreement

ZERO = Decimal(0)
_LOWER_BOUND = Decimal("0.001")  # of the price: bars are of bids, and the shortest have no range

NOT_COPIED = "the settings copy none of it"
TOO_LATE = "reported as copied after the provider's close"
LATE = "reported as copied late: from the market's price at that time on"
LEFT = "closed before the provider's trade: at the market's price at that time"
LIMITED = "the provider's price was outside the market's range, which limits it"
SHARE = "no price in {currency}: its share of the provider's profit"
OLD_PRICE = "no current price of {symbol}: at the last known price"
PROVIDERS_PRICE = "no price of {symbol}: at the provider's close price"
NO_PRICE = "no price of {symbol} in {currency}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the lots at one price. `is_providers`: the provider closed it."""

    volume: Decimal
    price: Decimal
    rate: Decimal | None
    is_providers: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One copied trade. Where `is_open`, the last part is open, or there is no part yet.

    `share_of`: the provider's lots, where the line is a share of the provider's profit; negative where the copy is
    reversed. `missing`: why there is no value yet.
    """

    account: int
    trade: str
    copies: tuple[str, ...]
    ticket: str
    symbol: str
    side: str
    lots: Decimal
    open_price: Decimal
    contract_size: Decimal | None = None
    parts: tuple[Part, ...] = ()
    is_open: bool = False
    share_of: Decimal | None = None
    share: Decimal = ZERO
    why: str = ""
    missing: str = ""

    @property
    def key(self) -> str:
        return f"{self.account}/{self.trade}"

    def results(self, currency: str) -> list[Decimal]:
        return [self._result(part, currency) for part in self.parts]

    def _result(self, part: Part, currency: str) -> Decimal:
        assert self.contract_size is not None
        result = profit.profit(
            symbol=self.symbol, currency=currency, side=self.side, volume=part.volume, open_price=self.open_price,
            price=part.price, contract_size=self.contract_size, rate=part.rate,
        )  # fmt: skip
        return ZERO if result is None else result

    def realised(self, currency: str) -> Decimal:
        results = self.results(currency)
        return self.share + sum(results[:-1] if self.is_open else results, ZERO)

    def floating(self, currency: str) -> Decimal:
        return self.results(currency)[-1] if self.is_open and self.parts else ZERO

    def corrected(self, close_price: Decimal, profit_of_provider: Decimal) -> "Line":
        """The line with corrected figures of the provider's trade, where those count."""
        if self.share_of is not None:
            return replace(self, share=_share(profit_of_provider, self.lots, self.share_of))
        if self.is_open or not self.parts or not self.parts[-1].is_providers:
            return self
        return replace(self, parts=(*self.parts[:-1], replace(self.parts[-1], price=close_price)))

    def as_json(self, currency: str) -> dict[str, Any]:
        return {
            "account": self.account, "trade": self.trade, "copies": list(self.copies), "ticket": self.ticket,
            "symbol": self.symbol, "type": self.side, "volume": money.text(self.lots),
            "open_price": money.text(self.open_price), "contract_size": _text(self.contract_size),
            "parts": [
                {"volume": money.text(part.volume), "price": money.text(part.price),
                 "rate": None if part.rate is None else f"{part.rate:f}", "is_providers": part.is_providers}
                for part in self.parts
            ],
            "is_open": self.is_open, "share_of": _text(self.share_of), "share": money.text(self.share),
            "why": self.why, "result": money.text(self.realised(currency) + self.floating(currency)),
        }  # fmt: skip

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Line":
        parts = (
            Part(Decimal(part["volume"]), Decimal(part["price"]), _amount(part["rate"]), part["is_providers"])
            for part in row["parts"]
        )
        return cls(
            account=row["account"], trade=row["trade"], copies=tuple(row["copies"]), ticket=row["ticket"],
            symbol=row["symbol"], side=row["type"], lots=Decimal(row["volume"]), open_price=Decimal(row["open_price"]),
            contract_size=_amount(row["contract_size"]), parts=tuple(parts), is_open=row["is_open"],
            share_of=_amount(row["share_of"]), share=Decimal(row["share"]), why=row["why"],
        )  # fmt: skip


def _share(profit_of_provider: Decimal, lots: Decimal, share_of: Decimal) -> Decimal:
    return fees.part_of(profit_of_provider, lots, share_of, rounding=ROUND_FLOOR)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else money.text(amount)


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


@dataclass
class Valuer:
    """Values the copied trades of an agreement by the market's prices, as of `at`.

    `takes_any`: the period has waited long enough for current prices. Trades without one are valued at the last known
    or the provider's price; what has neither counts in a later period.
    """

    agreement: FeeAgreement
    at: datetime
    takes_any: bool = False
    _sizes: dict[str, Decimal | None] = field(default_factory=dict)

    @property
    def currency(self) -> str:
        currency: str = self.agreement.currency
        return currency

    def line(self, trade: CopiedTrade) -> Line:
        blank = Line(
            account=trade.account, trade=str(trade.trade), copies=tuple(map(str, trade.copies)), ticket=trade.ticket,
            symbol=trade.symbol, side=trade.side, lots=trade.lots, open_price=trade.open_price,
            is_open=not trade.is_over,
        )  # fmt: skip
        if not trade.lots:
            return replace(blank, why=NOT_COPIED)
        if trade.is_late and trade.closed_at is not None and trade.closed_at <= trade.copied_at:
            return replace(blank, why=TOO_LATE)
        line = self._by_prices(trade, blank)
        return line if line is not None else self._without_prices(trade, blank)

    def _by_prices(self, trade: CopiedTrade, blank: Line) -> Line | None:
        """The line by prices; None where the contract size, a price or a rate is not known."""
        size, notes = self._contract_size(trade.symbol), list[str]()
        opened = self._opened(trade, notes)
        parts = self._parts(trade, notes)
        if size is None or opened is None or parts is None:
            return None
        line = replace(
            blank, contract_size=size, open_price=opened, parts=tuple(parts), why="; ".join(dict.fromkeys(notes))
        )
        values = [self._is_valued(line, part) for part in parts]
        return line if all(values) else None

    def _is_valued(self, line: Line, part: Part) -> bool:
        if profit.currencies(line.symbol) is None or line.contract_size is None:
            return False
        return profit.profit(
            symbol=line.symbol, currency=self.currency, side=line.side, volume=part.volume,
            open_price=line.open_price, price=part.price, contract_size=line.contract_size, rate=part.rate,
        ) is not None  # fmt: skip

    def _opened(self, trade: CopiedTrade, notes: list[str]) -> Decimal | None:
        if not trade.is_late:
            return self._limited(trade.symbol, trade.open_price, trade.known_at, notes)
        notes.append(LATE)
        return self._market(trade, trade.copied_at, notes)

    def _parts(self, trade: CopiedTrade, notes: list[str]) -> list[Part] | None:
        """The provider's closes since the copy is known, and what was left then or is still open."""
        parts, rest = [], Decimal(1)
        for deal in trade.deals:
            rest -= deal.share
            if trade.is_late and deal.at <= trade.copied_at:
                continue
            price = self._limited(trade.symbol, deal.price, deal.at, notes)
            volume = fees.share_of(trade.lots, deal.share)
            parts.append(Part(volume, price, self._rate(trade.symbol, deal.at), is_providers=True))
        if trade.closed_at is not None:
            return parts
        if trade.left_at is not None:
            notes.append(LEFT)
            price_then, moment = self._market(trade, trade.left_at, notes), trade.left_at
        else:
            price_then, moment = self._mark(trade, notes), self.at
        if price_then is None:
            return None
        return [
            *parts,
            Part(fees.share_of(trade.lots, rest), price_then, self._rate(trade.symbol, moment), is_providers=False),
        ]

    def _limited(self, symbol: str, price: Decimal, moment: datetime, notes: list[str]) -> Decimal:
        """The provider's price, within what the market was at that time, where the desk knows it."""
        bar = prices.covering(symbol, at=moment)
        if bar is None:
            return price
        margin = max(bar.high - bar.low, bar.high * _LOWER_BOUND)
        if bar.low - margin <= price <= bar.high + margin:
            return price
        notes.append(LIMITED)
        limit: Decimal = bar.low if price < bar.low else bar.high
        return limit

    def _market(self, trade: CopiedTrade, moment: datetime, notes: list[str]) -> Decimal | None:
        """The first price that nobody knew at that moment: a bot chooses when it reports, but not the price.

        Without bars it is the provider's close price, not the last known one, which a bot could wait for.
        """
        if (known := prices.after(trade.symbol, at=moment)) is not None:
            return known.close
        if not self.takes_any or trade.later_close is None:
            return None
        notes.append(PROVIDERS_PRICE.format(symbol=trade.symbol))
        return trade.later_close

    def _mark(self, trade: CopiedTrade, notes: list[str]) -> Decimal | None:
        if (known := prices.last(trade.symbol, at=self.at)) is not None:
            return known.close
        old = prices.last_known(trade.symbol, at=self.at) if self.takes_any else None
        if old is None:
            return None
        notes.append(OLD_PRICE.format(symbol=trade.symbol))
        return old.close

    def _without_prices(self, trade: CopiedTrade, blank: Line) -> Line:
        provider = self.agreement.strategy.account
        if (
            trade.closed_at is not None and not trade.is_late and trade.profit is not None
            and provider.currency == self.currency
        ):  # fmt: skip
            share_of = -trade.provider_lots if trade.is_reversed else trade.provider_lots
            share = _share(trade.profit, trade.lots, share_of)
            return replace(blank, share=share, share_of=share_of, why=SHARE.format(currency=self.currency))
        missing = NO_PRICE.format(symbol=trade.symbol, currency=self.currency)
        # It stays open, so that it counts in the first period that knows a price.
        return replace(blank, is_open=True, why=f"{missing}: not valued yet", missing="" if self.takes_any else missing)

    def _contract_size(self, symbol: str) -> Decimal | None:
        """Units in a lot: the desk's, or the provider's of a symbol that the desk does not list. Never the payer's."""
        if symbol not in self._sizes:
            listed = Instrument.objects.filter(symbol=symbol).values_list("contract_size", flat=True).first()
            of_provider = AccountSymbol.objects.filter(account=self.agreement.strategy.account_id, symbol=symbol)
            self._sizes[symbol] = listed or of_provider.values_list("contract_size", flat=True).first()
        return self._sizes[symbol]

    def _rate(self, symbol: str, moment: datetime) -> Decimal | None:
        converted = profit.needs_rate(symbol, self.currency)
        known = prices.rate(converted, self.currency, at=moment) if converted else None
        return None if known is None else known.value


def again(line: Line, trade: CopiedTrade) -> Line:
    """The line calculated once more from the trade, with the market's prices, sizes and rates that are stored in it."""
    if line.share_of is not None:
        return replace(line, lots=trade.lots, share=_share(trade.profit or ZERO, trade.lots, line.share_of))
    deals = [deal for deal in trade.deals if not (trade.is_late and deal.at <= trade.copied_at)]
    shares = [deal.share for deal in deals]
    if trade.closed_at is None:
        shares.append(Decimal(1) - sum((deal.share for deal in trade.deals), ZERO))
    if len(shares) != len(line.parts):
        return line if not line.parts else replace(line, parts=())
    parts = tuple(
        replace(
            part, volume=fees.share_of(trade.lots, share),
            price=deals[number].price if part.is_providers and LIMITED not in line.why else part.price,
        )
        for number, (part, share) in enumerate(zip(line.parts, shares, strict=True))
    )  # fmt: skip
    return replace(line, lots=trade.lots, side=trade.side, parts=parts)


def realised(lines: Iterable[Line], corrections: Sequence[Any], currency: str) -> Decimal:
    """The P/L of these lines with these corrections of trades, oldest first: the latest of each trade counts."""
    latest = {str(row.trade_id): row for row in corrections}
    return sum((_realised(line, latest, currency) for line in lines), ZERO)


def _realised(line: Line, latest: Mapping[str, Any], currency: str) -> Decimal:
    of_copies = [latest[copy] for copy in line.copies if copy in latest]
    if of_copies and not line.is_open:
        return sum((row.profit for row in of_copies), ZERO)
    if line.trade in latest:
        line = line.corrected(latest[line.trade].close_price, latest[line.trade].profit)
    return line.realised(currency)
