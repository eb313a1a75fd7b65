"""What a fee is. Pure: Decimals and moments in, Decimals out. Rounding is always in the subscriber's favour.

The performance fee is a share of the cumulative net result, floating included, above the highest it has ever been (the
mark). The mark never falls and never ends, so nobody pays twice for the same profit, nor for winning back a loss.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_FLOOR, Decimal, localcontext

from core import money

WIDE = 60  # digits: products of three amounts are exact within that


@dataclass(frozen=True, slots=True)
class Performance:
    fee: Decimal
    high_water_mark: Decimal


def performance(*, cumulative_pnl: Decimal, high_water_mark: Decimal, rate_bps: int) -> Performance:
    """fee = rate × max(0, base − mark), cut to 10⁻⁸; the new mark is the higher of the two.

    `cumulative_pnl` is the cumulative net result before fees. (Binance's lead trading and Darwinex reckon so; cTrader's
    high-water mark on equity comes to the same.)
    """
    above = max(cumulative_pnl - high_water_mark, Decimal(0))
    fee = (above * rate_bps).scaleb(-4).quantize(money.UNIT, rounding=ROUND_DOWN)
    return Performance(fee, max(cumulative_pnl, high_water_mark))


def provider_share(fee: Decimal, platform_bps: int) -> Decimal:
    """What the provider gets of a fee; the house keeps the rest, the odd unit included."""
    return (fee * (10_000 - platform_bps)).scaleb(-4).quantize(money.UNIT, rounding=ROUND_DOWN)


def subscription(*, monthly: Decimal, begins: datetime, ends: datetime) -> Decimal:
    """The fee for what is left of the month that ends at `ends`, by whole days."""
    days = (ends - begins) // timedelta(days=1)
    in_month = (ends - month_of(ends - timedelta(microseconds=1))) // timedelta(days=1)
    with localcontext(prec=WIDE):
        return (monthly * min(days, in_month) / in_month).quantize(money.UNIT, rounding=ROUND_DOWN)


def floating(
    *, side: str, volume: Decimal, open_price: Decimal, price: Decimal, contract_size: Decimal, inverse: bool = False
) -> Decimal:
    """What an open position would bring at `price`: (price − open_price) × lots × contract size, for a SELL the other
    way round, in the symbol's second currency; `inverse`: in its first, so divided by the price.
    """
    with localcontext(prec=WIDE):
        moved = price - open_price if side == "BUY" else open_price - price
        result = moved * volume * contract_size
        return (result / price if inverse else result).quantize(money.UNIT, rounding=ROUND_FLOOR)


def month_of(at: datetime) -> datetime:
    """When the calendar month of that moment began, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(at: datetime) -> datetime:
    """When the next calendar month begins."""
    return month_of(month_of(at) + timedelta(days=32))
