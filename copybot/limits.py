"""How long a guard waits, how often it tries again, when it asks for a second snapshot, and how it follows."""

from dataclasses import dataclass
from decimal import Decimal

BY_PRICE, BY_DISTANCE = "price", "distance"


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in ms. `settle_ms` must be longer than the broker's slowest answer.

    `closes_below_least`: where a partial close of the provider leaves less than the broker can reduce a copy to, close
    the copy; otherwise it stays as it is until the provider is out. `stops`: at the provider's prices (BY_PRICE), or as
    far from the copy's own open price as the provider's are from his (BY_DISTANCE).
    """

    max_open_age_ms: int = 5_000
    settle_ms: int = 60_000
    second_look_ms: int = 5_000
    attempts: int = 3
    brake_least: int = 5
    brake_share: Decimal = Decimal("0.5")
    brake_ms: int = 2_000
    stops_again_ms: int = 5_000
    closes_below_least: bool = False
    stops: str = BY_PRICE
