"""Amounts, prices and volumes: Decimals of at most 20 digits, 8 of them after the point. Never a float."""

from decimal import Decimal

PLACES = 8
DIGITS = 20
UNIT = Decimal(1).scaleb(-PLACES)
LIMIT = Decimal(10) ** (DIGITS - PLACES)


def exact(value: Decimal) -> Decimal:
    """Return `value` with exactly 8 decimals; raise ValueError where that would change it, or where it is too large."""
    if not value.is_finite():
        raise ValueError("must be a finite number")
    if value.adjusted() >= DIGITS or abs(value) >= LIMIT:
        raise ValueError(f"must be below {LIMIT:f}")
    if value.adjusted() < -PLACES and value != 0:
        raise ValueError(f"has more than {PLACES} decimals")
    scaled = value.quantize(UNIT)
    if scaled != value:
        raise ValueError(f"has more than {PLACES} decimals")
    return scaled + 0


def text(value: Decimal) -> str:
    """Return the amount as the API writes it: fixed point, 8 decimals, no exponent."""
    return f"{value:.{PLACES}f}"


def plain(value: Decimal, places: int = 0) -> str:
    """Return the amount for people: without trailing zeros, with at least `places` and at most 8 decimals."""
    whole, _, digits = text(value).partition(".")
    digits = digits.rstrip("0").ljust(places, "0")
    return f"{whole}.{digits}" if digits else whole


def grouped(value: Decimal, places: int = 2) -> str:
    """Return an amount of money or lots for people, its thousands separated by commas. Prices have no separators."""
    return f"{Decimal(plain(value, places)):,f}"
