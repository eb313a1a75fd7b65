"""What a copy's position must be at the broker: how much of it to close, and where its stops belong. Pure functions."""

from decimal import ROUND_DOWN, ROUND_UP, Decimal

from copybot.broker import Position, SymbolSpec
from copybot.state_store import Copy

_ZERO = Decimal(0)

Stops = tuple[Decimal | None, Decimal | None]


def volume_to_close(held: Decimal, target: Decimal, spec: SymbolSpec | None) -> Decimal:
    """The lots to close so that a position of `held` lots follows its target; zero for none.

    The target alone says what is held: the broker's limits bound the order that closes, not the position. The order is
    rounded up to the symbol's present step, so that no more than the target remains. Where that would close all of it
    although the target is above zero, it is rounded down, and more than the target remains. A volume that the broker
    would refuse as too small is not ordered. Without a spec, or a step, the volume is exact.
    """
    excess = held - target
    if excess <= 0:
        return _ZERO
    if not target or spec is None or not spec.volume_step:
        return excess
    for rounding in (ROUND_UP, ROUND_DOWN):
        volume = (excess / spec.volume_step).to_integral_value(rounding) * spec.volume_step
        if spec.volume_min <= volume < held:
            return volume
    return _ZERO


def stops_of(copy: Copy, position: Position, spec: SymbolSpec | None, *, by_distance: bool) -> Stops:
    """The stop loss and take profit that a position must have.

    `by_distance`: as far from the position's open price as the provider's are from his, for a broker whose prices
    differ from the provider's; where the open price is unknown, at the provider's prices.
    """
    opened = position.open_price or copy.filled_price
    shift = opened - copy.price if by_distance and opened else _ZERO
    sl, tp = (None if stop is None else stop + shift for stop in (copy.sl, copy.tp))
    return (sl, tp) if spec is None else (spec.stop(sl), spec.stop(tp))
