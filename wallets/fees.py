"""The formulas of fees. Pure: Decimals and datetimes in, Decimals out. Rounding always favours the subscriber.

The performance fee is a share of the cumulative P/L, floating included, above its highest value so far (the high-water
mark). The high-water mark never falls and never expires, so nobody pays twice for the same profit, nor for the recovery
of a loss.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal, localcontext

from core import money

WIDE = 60  # digits: enough for an exact product of three amounts


@dataclass(frozen=True, slots=True)
class Performance:
    fee: Decimal
    high_water_mark: Decimal


def performance(*, cumulative_pnl: Decimal, high_water_mark: Decimal, rate_bps: int) -> Performance:
    """fee = rate × max(0, cumulative P/L − high-water mark), cut to 10⁻⁸; the new mark is the higher of the two.

    `cumulative_pnl` is before brokers' costs and fees. (Binance's lead trading and Darwinex use the same formula;
    cTrader's high-water mark on equity gives the same result.)
    """
    above = max(cumulative_pnl - high_water_mark, Decimal(0))
    fee = (above * rate_bps).scaleb(-4).quantize(money.UNIT, rounding=ROUND_DOWN)
    return Performance(fee, max(cumulative_pnl, high_water_mark))


@dataclass(frozen=True, slots=True)
class Period:
    """A settled period: the cumulative P/L at its end, and the rate."""

    cumulative_pnl: Decimal
    rate_bps: int


def over(periods: Iterable[Period]) -> Performance:
    """The fees of all these periods together, oldest first, and the high-water mark after them."""
    total, mark = Decimal(0), Decimal(0)
    for period in periods:
        due = performance(cumulative_pnl=period.cumulative_pnl, high_water_mark=mark, rate_bps=period.rate_bps)
        total, mark = total + due.fee, due.high_water_mark
    return Performance(total, mark)


def part_of(amount: Decimal, part: Decimal, whole: Decimal, rounding: str = ROUND_DOWN) -> Decimal:
    """amount × part / whole, by default rounded towards zero."""
    with localcontext(prec=WIDE):
        return (amount * part / whole).quantize(money.UNIT, rounding=rounding)


def share_of(lots: Decimal, share: Decimal) -> Decimal:
    return part_of(lots, share, Decimal(1))


def provider_share(fee: Decimal, platform_bps: int) -> Decimal:
    """The provider's share of a fee. The house keeps the rest, with the unit that rounding leaves."""
    return (fee * (10_000 - platform_bps)).scaleb(-4).quantize(money.UNIT, rounding=ROUND_DOWN)


def subscription(*, monthly: Decimal, begins: datetime, ends: datetime) -> Decimal:
    """The subscription fee from `begins` to the end of the month at `ends`, by whole days."""
    days = (ends - begins) // timedelta(days=1)
    in_month = (ends - month_of(ends - timedelta(microseconds=1))) // timedelta(days=1)
    with localcontext(prec=WIDE):
        return (monthly * min(days, in_month) / in_month).quantize(money.UNIT, rounding=ROUND_DOWN)


def month_of(at: datetime) -> datetime:
    """The start of the calendar month that contains `at`, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(at: datetime) -> datetime:
    """The start of the next calendar month, in UTC."""
    return month_of(month_of(at) + timedelta(days=32))
