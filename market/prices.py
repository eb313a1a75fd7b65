"""The last known prices, and rates between currencies that follow from them. An old price counts as none."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal

from market.models import Candle

STALE = timedelta(days=4)  # a weekend with a holiday beside it
LONGEST = timedelta(days=1)  # longer bars say too little about a moment
_RATE = Context(prec=12)  # so that a rate is short enough to be recorded and recomputed with
_THROUGH = "USD"
# Cent accounts are kept in a hundredth of a currency, which brokers give a code of its own.
_CENTS = {"USC": "USD", "EUC": "EUR"}


@dataclass(frozen=True, slots=True)
class Price:
    """The close of a bar, when that bar ended, and its range from low to high."""

    close: Decimal
    at: datetime
    range: Decimal


@dataclass(frozen=True, slots=True)
class Rate:
    """The value of one unit of a currency in another. `by`: the symbols that it comes from. `at`: the oldest price."""

    value: Decimal
    by: str
    at: datetime


def last(symbol: str, *, at: datetime) -> Price | None:
    """The close of the last bar that had ended by then; None if there is none within the last four days."""
    bars = Candle.objects.filter(instrument_id=symbol, opened_at__lt=at, opened_at__gt=at - STALE)
    for bar in bars.order_by("-opened_at")[:100]:
        ends = bar.opened_at + timedelta(minutes=bar.minutes)
        if ends <= at:
            return Price(bar.close, ends, bar.high - bar.low)
    return None


def last_known(symbol: str, *, at: datetime) -> Price | None:
    """The close of the last bar that had ended by then, however old it is."""
    bar = Candle.objects.filter(instrument_id=symbol, opened_at__lt=at).order_by("-opened_at").first()
    if bar is None:
        return None
    return last(symbol, at=at) or Price(bar.close, bar.opened_at + timedelta(minutes=bar.minutes), bar.high - bar.low)


def covering(symbol: str, *, at: datetime) -> Candle | None:
    """The shortest bar in which that moment lies; None where there is none."""
    bars = Candle.objects.filter(instrument_id=symbol, opened_at__lte=at, opened_at__gt=at - LONGEST)
    inside = [bar for bar in bars.order_by("-opened_at")[:100] if bar.opened_at + _length(bar) > at]
    return min(inside, key=_length, default=None)


def after(symbol: str, *, at: datetime) -> Price | None:
    """The first close of a bar that nobody knew at that moment, or else the last one before; None if both are stale."""
    bars = Candle.objects.filter(instrument_id=symbol, opened_at__gt=at - LONGEST, opened_at__lt=at + STALE)
    ends = [(bar.opened_at + _length(bar), bar) for bar in bars.order_by("opened_at")[:3000]]
    later = [(end, bar) for end, bar in ends if at < end <= at + STALE]
    if not later:
        return last(symbol, at=at)
    end, bar = min(later, key=lambda pair: pair[0])
    return Price(bar.close, end, bar.high - bar.low)


def _length(bar: Candle) -> timedelta:
    return timedelta(minutes=bar.minutes)


def rate(currency: str, into: str, *, at: datetime) -> Rate | None:
    """The value of one unit of `currency` in `into`: by their pair, its inverse, or both pairs with USD; else None."""
    whole, parts = _whole(currency), _whole(into)
    cents = _RATE.divide(_unit(currency), _unit(into))
    found = _pair(whole, parts, at)
    if found is None and _THROUGH not in (whole, parts):
        first, second = _pair(whole, _THROUGH, at), _pair(_THROUGH, parts, at)
        if first is not None and second is not None:
            value = _RATE.multiply(first.value, second.value)
            found = Rate(value, f"{first.by}, {second.by}", min(first.at, second.at))
    return None if found is None else Rate(_RATE.multiply(found.value, cents), found.by, found.at)


def _pair(currency: str, into: str, at: datetime) -> Rate | None:
    if currency == into:
        return Rate(Decimal(1), "", at)
    if (price := last(f"{currency}{into}", at=at)) is not None:
        return Rate(_RATE.plus(price.close), f"{currency}{into}", price.at)
    if (price := last(f"{into}{currency}", at=at)) is not None:
        return Rate(_RATE.divide(Decimal(1), price.close), f"{into}{currency}", price.at)
    return None


def _whole(currency: str) -> str:
    return _CENTS.get(currency, currency)


def _unit(currency: str) -> Decimal:
    return Decimal("0.01") if currency in _CENTS else Decimal(1)
