"""What tests of the guard and its neighbours share: packets as the desk signs them, short limits, a calm broker."""

from decimal import Decimal

from copybot import desk_model
from copybot.desk_model import SECRET
from copybot.faulty_broker import PRICE, BrokerFaults, FaultyBroker
from copybot.limits import Limits
from copybot.simulation import NOON, Crash
from copybot.targets import Target

__all__ = ["CALM", "LIMITS", "NOON", "PRICE", "SECRET", "SUB", "Clock", "Crash", "FaultyBroker", "packet"]

SUB = desk_model.SUB_ID
LIMITS = Limits(max_open_age_ms=6_000, settle_ms=8_000, second_look_ms=2_000, brake_ms=1_000)
CALM = BrokerFaults(reject=0.0)


class Clock:
    """A clock that a test sets."""

    now = NOON

    def __call__(self) -> int:
        return self.now


def packet(
    seq: int, at_ms: int, action: str, target: Target, *, secret: str = SECRET, generation: str = "1"
) -> dict[str, str]:
    """A packet with this target; a close carries no volume and no stops."""
    volume = Decimal(0) if action == "CLOSE" else target.volume
    sl, tp = ("" if stop is None or action == "CLOSE" else f"{stop:.8f}" for stop in (target.sl, target.tp))
    fields = {
        "symbol": target.symbol, "type": target.side, "volume": f"{volume:.8f}", "price": f"{PRICE:.8f}", "sl": sl,
        "tp": tp,
    }  # fmt: skip
    return desk_model.packet(seq, at_ms, action, target.ref, fields, secret=secret, generation=generation)


def gapfill(seq: int, at_ms: int) -> dict[str, str]:
    fields = {"symbol": "-", "type": "-", "volume": "0.00000000", "price": "0.00000000", "sl": "", "tp": ""}
    return desk_model.packet(seq, at_ms, "GAPFILL", str(seq + 1), fields)
