"""What a copy must be: its symbol, side, volume and stops, from the trade and the terms it was opened under. Pure.

The rule is public, so that whoever is charged for a copy can work it out again:

    multiplier   lots = master's lots × multiplier
    fixed        lots = fixed lots
    equity       lots = master's lots × multiplier × equity / master's equity
    risk         lots = equity × risk % / (|open price − stop loss| × contract size), in the account's currency

each for the lots as opened, rounded down to 10⁻⁸, cut to the largest, and below the smallest raised to it or not
copied. Of what was opened, a copy keeps the share that the master keeps. Equity is what both bots had told when the
terms were made; the stop loss is that of the open.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from typing import Any

from core import money

NOTHING = Decimal(0)
_EXACT = Context(prec=60, rounding=ROUND_DOWN)  # three amounts of 20 digits, and their ratio never too large


@dataclass(frozen=True, slots=True)
class Settings:
    """Terms as the copy is worked out from them. `contracts`: units in a lot by symbol, where risk is fixed."""

    mode: str
    multiplier: Decimal
    fixed_lots: Decimal | None = None
    risk_pct: Decimal | None = None
    min_volume: Decimal | None = None
    max_volume: Decimal | None = None
    raises_to_min: bool = False
    reverse: bool = False
    symbols: tuple[str, ...] = ()
    symbol_map: Mapping[str, str] | None = None
    equity: Decimal | None = None
    master_equity: Decimal | None = None
    currency: str = ""
    contracts: Mapping[str, Decimal] | None = None


_AMOUNTS = ("multiplier", "fixed_lots", "risk_pct", "min_volume", "max_volume", "equity", "master_equity")


@functools.lru_cache(maxsize=16_384)
def settings(text: str) -> Settings:
    """The settings of a JSON text. The same text gives the same object: whoever copies alike shares it."""
    told: dict[str, Any] = json.loads(text, parse_float=Decimal)
    for name in _AMOUNTS:
        if told.get(name) is not None:
            told[name] = Decimal(told[name])
    told["symbols"] = tuple(told["symbols"])
    told["contracts"] = {symbol: Decimal(size) for symbol, size in (told.get("contracts") or {}).items()}
    return Settings(**told)


@dataclass(frozen=True, slots=True)
class ProviderTrade:
    """The trade that is copied: as opened, and as it is now."""

    symbol: str
    type: str
    opened_volume: Decimal
    open_price: Decimal
    opened_sl: Decimal | None
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the copy must be now. `why_not`: why there is none; its volume is zero then."""

    symbol: str
    type: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    why_not: str = ""


def plan(terms: Settings, master: ProviderTrade) -> Plan:
    """What a copy of this trade must be under these terms."""
    opened, why_not = opened_volume(terms, master)
    with localcontext(_EXACT):
        volume = _down(opened * master.volume / master.opened_volume)
    symbol = (terms.symbol_map or {}).get(master.symbol, master.symbol)
    if terms.reverse:
        other = "SELL" if master.type == "BUY" else "BUY"
        return Plan(symbol, other, volume, master.tp, master.sl, why_not)
    return Plan(symbol, master.type, volume, master.sl, master.tp, why_not)


def opened_volume(terms: Settings, master: ProviderTrade) -> tuple[Decimal, str]:
    """Lots to open for the whole of the master's trade, and why none, where it is none."""
    if terms.symbols and master.symbol not in terms.symbols:
        return NOTHING, "symbol_not_allowed"
    with localcontext(_EXACT):
        wanted = _wanted(terms, master)
    if wanted is not None and terms.max_volume is not None:
        wanted = min(wanted, terms.max_volume)
    if wanted is None or wanted >= money.LIMIT:  # what no broker takes is a mistake somewhere
        return NOTHING, "not_sizable"
    volume = _down(wanted)
    if terms.min_volume is not None and volume < terms.min_volume:
        volume = terms.min_volume if terms.raises_to_min and wanted else NOTHING
    return volume, "" if volume else "volume_too_small"


def _wanted(terms: Settings, master: ProviderTrade) -> Decimal | None:
    """Lots before any limit; None where something is not known."""
    if terms.mode == "FIXED":
        return terms.fixed_lots
    if terms.mode == "RISK":
        return _risked(terms, master)
    wanted = master.opened_volume * terms.multiplier
    if terms.mode != "EQUITY":
        return wanted
    if terms.equity is None or terms.master_equity is None or terms.master_equity <= 0:
        return None
    return wanted * max(terms.equity, NOTHING) / terms.master_equity


def _risked(terms: Settings, master: ProviderTrade) -> Decimal | None:
    """Lots that lose the share of the equity between the open and its stop."""
    size = (terms.contracts or {}).get(master.symbol)
    if terms.equity is None or terms.risk_pct is None or master.opened_sl is None or size is None:
        return None
    loss = abs(master.open_price - master.opened_sl) * size  # of one lot, in the quoted currency
    base, quoted = master.symbol[:3], master.symbol[3:6]
    if quoted != terms.currency:
        if base != terms.currency:
            return None
        loss /= master.open_price
    return max(terms.equity, NOTHING) * terms.risk_pct / 100 / loss if loss else None


def _down(volume: Decimal) -> Decimal:
    """What cannot be kept exactly is never too much."""
    return volume.quantize(money.UNIT, rounding=ROUND_DOWN)
