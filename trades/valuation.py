"""What a close at a price is worth, and how far a price is from the market.

For closes that no bot reports: by staff, or by a copy's owner.
"""

from datetime import datetime
from decimal import Decimal

from django.conf import settings

from accounts.models import AccountSymbol, TradingAccount
from market import prices
from market import profit as pnl
from market.models import Instrument
from market.prices import Price
from trades.models import ActiveTrade, TradeHistory

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
    symbols, currency = symbols_of(trade), trade.account.currency
    size, symbol = _contract_size(trade.account, symbols), symbols[-1]
    if size is None:
        return None
    converted = pnl.needs_rate(symbol, currency)
    rate = prices.rate(converted, currency, at=now) if converted and currency else None
    return pnl.profit(
        symbol=symbol, currency=currency, side=trade.type, volume=trade.volume, open_price=trade.open_price,
        price=price, contract_size=size, rate=None if rate is None else rate.value,
    )  # fmt: skip


def _contract_size(account: TradingAccount, symbols: list[str]) -> Decimal | None:
    """Units in a lot: as the account's bot reported them, or as the desk lists them."""
    reported = AccountSymbol.objects.filter(account=account, symbol=symbols[0]).values_list("contract_size", flat=True)
    listed = Instrument.objects.filter(symbol__in=symbols).values_list("contract_size", flat=True)
    return reported.first() or listed.first()
