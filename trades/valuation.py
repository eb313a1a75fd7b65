"""What a close at a price is worth, and how far a price is from the market.

For closes that no bot reports: by staff, or told by a copy's owner.
"""

from datetime import datetime
from decimal import ROUND_FLOOR, Decimal, localcontext

from django.conf import settings

from accounts.models import AccountSymbol, TradingAccount
from core import money
from market import prices
from market.models import Instrument
from market.prices import Price
from trades.models import ActiveTrade, TradeHistory

_WIDE = 60  # digits: enough for an exact product of four amounts
_RANGES = 10


def is_near(price: Decimal, fair: Decimal, spread: Decimal = Decimal(0)) -> bool:
    """Whether a price is within STAFF_PRICE_BOUND_PCT of a fair one, or within ten times a bar's range (`spread`)."""
    return abs(price - fair) <= max(abs(fair) * settings.STAFF_PRICE_BOUND_PCT / 100, _RANGES * spread)


def is_near_market(price: Decimal, market: Price) -> bool:
    return is_near(price, market.close, market.range)


def price_of(trade: ActiveTrade, *, now: datetime) -> Price | None:
    """The market's last price; None where the symbol is unknown or its price is stale."""
    known = (prices.last(symbol, at=now) for symbol in symbols_of(trade))
    return next((price for price in known if price is not None), None)


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
    rate = prices.rate(quote, currency, at=now)
    return None if rate is None else amount * rate.value
