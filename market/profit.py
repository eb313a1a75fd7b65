"""The one formula of a trade's P/L, from its prices. Pure; trades, wallets and trust calculate with it.

    P/L = (price − open price) × lots × contract size, negated for a SELL, in the symbol's second currency

An account in the symbol's first currency divides it by the price, one in a third currency multiplies it by a rate.
"""

from decimal import ROUND_FLOOR, Decimal, localcontext

from core import money

WIDE = 60  # digits: enough for an exact product of four amounts


def currencies(symbol: str) -> tuple[str, str] | None:
    """The two currencies of a symbol such as EURUSD, EURUSDm or EURUSD.vip; None of US30, say."""
    rest = symbol[6:]
    if not (len(symbol) >= 6 and symbol[:6].isascii() and symbol[:6].isalpha() and symbol[:6].isupper()):
        return None
    return (symbol[:3], symbol[3:6]) if len(rest) <= 1 or not rest[0].isalnum() else None


def needs_rate(symbol: str, currency: str) -> str:
    """The currency that has to be converted into `currency`; empty where none has to, or where it is not known."""
    pair = currencies(symbol)
    return "" if pair is None or currency in pair else pair[1]


def profit(
    *,
    symbol: str,
    currency: str,
    side: str,
    volume: Decimal,
    open_price: Decimal,
    price: Decimal,
    contract_size: Decimal,
    rate: Decimal | None = None,
) -> Decimal | None:
    """The P/L in `currency` of `volume` lots at `price`, rounded down to 10⁻⁸, so in favour of who pays for it.

    `rate`: the value of one unit of the symbol's second currency in `currency`, where that is a third one. None where
    the symbol's currencies or the rate are not known, or where the result is absurd.
    """
    with localcontext(prec=WIDE):
        value = _value(symbol, currency, price, rate)
        if value is None:
            return None
        moved = price - open_price if side == "BUY" else open_price - price
        amount = moved * volume * contract_size * value[0] / value[1]
        if abs(amount) >= money.LIMIT:
            return None
        return amount.quantize(money.UNIT, rounding=ROUND_FLOOR)


def value_of_move(*, symbol: str, currency: str, contract_size: Decimal, price: Decimal | None) -> Decimal | None:
    """The value in `currency` of a price move of 1 for one lot, at this price; None where it is not known."""
    value = _value(symbol, currency, price, None)
    return None if value is None else contract_size * value[0] / value[1]


def _value(symbol: str, currency: str, price: Decimal | None, rate: Decimal | None) -> tuple[Decimal, Decimal] | None:
    """By what an amount in the symbol's second currency is multiplied, and then divided."""
    pair = currencies(symbol)
    if pair is None:
        return None
    if currency == pair[1]:
        return Decimal(1), Decimal(1)
    if currency == pair[0]:
        return (Decimal(1), price) if price else None
    return None if rate is None else (rate, Decimal(1))
