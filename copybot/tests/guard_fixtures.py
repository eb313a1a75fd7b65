"""What tests of the guard and its neighbours share: signals as a desk signs them, limits that end soon, a death."""

from decimal import Decimal
from typing import Any

from copybot import desk_model
from copybot.desk_model import SECRET
from copybot.faulty_broker import PRICE, BrokerFaults, FaultyBroker
from copybot.limits import Limits
from copybot.simulation import NOON, Crash

__all__ = ["CALM", "LIMITS", "NOON", "PRICE", "SECRET", "SUB", "Crash", "FaultyBroker", "packet"]

SUB = desk_model.SUB_ID
LIMITS = Limits(max_open_age_ms=6_000, settle_ms=8_000, second_look_ms=2_000, brake_ms=1_000)
CALM = BrokerFaults(reject=0.0)


def packet(seq: Any, at_ms: Any, action: Any, target: Any, *, secret: Any = SECRET, generation: str = "1") -> Any:
    """Of what a trade's copy must be; a close and a gap's filling say nothing of stops."""
    volume = Decimal(0) if action == "CLOSE" else target.volume
    sl, tp = ("" if one is None or action == "CLOSE" else f"{one:.8f}" for one in (target.sl, target.tp))
    fields = {
        "symbol": target.symbol, "type": target.side, "volume": f"{volume:.8f}", "price": f"{PRICE:.8f}", "sl": sl,
        "tp": tp,
    }  # fmt: skip
    return desk_model.packet(seq, at_ms, action, target.ref, fields, secret=secret, generation=generation)


def gapfill(seq: Any, at_ms: Any) -> Any:
    fields = {"symbol": "-", "type": "-", "volume": "0.00000000", "price": "0.00000000", "sl": "", "tp": ""}
    return desk_model.packet(seq, at_ms, "GAPFILL", str(seq + 1), fields)
