"""How much a copy trades. Pure."""

from decimal import ROUND_DOWN, Decimal

from core import money


def copy_volume(master_volume: Decimal, multiplier: Decimal) -> Decimal:
    """Lots the copy should hold for a master that holds `master_volume` lots, rounded down to 10⁻⁸."""
    return (master_volume * multiplier).quantize(money.UNIT, rounding=ROUND_DOWN)
