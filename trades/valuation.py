"""What a close at a price is worth, and how far a price is from the market.

For closes that no bot reports: by staff, or told by a copy's owner.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext

from django.conf import settings

from accounts.models import AccountSymbol, TradingAccount
from core import money
from market.models import Candle, Instrument
from trades.models import ActiveTrade, TradeHistory

STALE = timedelta(days=4)  # a weekend with a holiday beside it
_WIDE = 60  # digits: enough for an exact product of four amounts
_RANGES = 10


@dataclass(frozen=True, slots=True)
class MarketPrice:
    """The close of the newest bar, when the bar ended, and the bar's range from low to high."""

    price: Decimal
    at: datetime
    range: Decimal

    def is_near(self, price: Decimal) -> bool:
        """Whether a price is within STAFF_PRICE_BOUND_PCT of this one, or within ten times the bar's range."""
        bound = max(abs(self.price) * settings.STAFF_PRICE_BOUND_PCT / 100, _RANGES * self.range)
        return abs(price - self.price) <= bound


def market_price(symbols: Iterable[str], *, now: datetime) -> MarketPrice | None:
    """The newest price of the first of these symbols that has one; None where all are unknown or stale."""
    for symbol in symbols:
        bars = Candle.objects.filter(instrument_id=symbol, opened_at__gt=now - STALE, opened_at__lte=now)
        ends = [(bar.opened_at + timedelta(minutes=bar.minutes), bar) for bar in bars.order_by("-opened_at")[:100]]
        if ends:
            at, bar = max(ends, key=lambda end: end[0])
            return MarketPrice(bar.close, min(at, now), bar.high - bar.low)
    return None


def price_of(trade: ActiveTrade, *, now: datetime) -> MarketPrice | None:
    return market_price(symbols_of(trade), now=now)


def symbols_of(trade: ActiveTrade) -> list[str]:
    """The trade's symbol; of a copy also the provider's, because the copier's broker may name it otherwise."""
    homes = (ActiveTrade.objects, TradeHistory.objects)
    masters = [home.filter(pk=trade.master_trade).values_list("symbol", flat=True).first() for home in homes]
    return [trade.symbol, *(symbol for symbol in masters if symbol and symbol != trade.symbol)]


def profit(trade: ActiveTrade, price: Decimal, *, now: datetime) -> Decimal | None:
    """The profit of closing what is open at this price, in the account's currency.

    None where the contract size is unknown, or no price converts the symbol's currency into the account's.
    """
    symbols = symbols_of(trade)
    size = _contract_size(trade.account, symbols)
    symbol = symbols[-1]
    if size is None or not 6 <= len(symbol) <= 7 or not symbol[:6].isalpha():
        return None
    with localcontext(prec=_WIDE):
        moved = price - trade.open_price if trade.type == "BUY" else trade.open_price - price
        amount = _converted(moved * trade.volume * size, symbol, price, trade.account.currency, now)
    result = None if amount is None else amount.quantize(money.UNIT, rounding=ROUND_FLOOR)
    return None if result is None or abs(result) >= money.LIMIT else result


def _contract_size(account: TradingAccount, symbols: list[str]) -> Decimal | None:
    """Units in a lot: as the account's bot reported them, or as the desk lists them."""
    reported = AccountSymbol.objects.filter(account=account, symbol=symbols[0]).values_list("contract_size", flat=True)
    listed = Instrument.objects.filter(symbol__in=symbols).values_list("contract_size", flat=True)
    return reported.first() or listed.first()


def _converted(amount: Decimal, symbol: str, price: Decimal, currency: str, now: datetime) -> Decimal | None:
    """An amount in the symbol's second currency, in the account's."""
    base, quote = symbol[:3], symbol[3:6]
    if currency == quote:
        return amount
    if currency == base:
        return amount / price if price else None
    if (rate := market_price([f"{quote}{currency}"], now=now)) is not None:
        return amount * rate.price
    if (rate := market_price([f"{currency}{quote}"], now=now)) is not None:
        return amount / rate.price
    return None
