"""The plan of a copy: its symbol, side, volume and stops, from the provider's trade and the terms in force. Pure.

The rule is public, so that subscribers can recompute the copies that they pay fees for:

    multiplier   lots = provider's lots × multiplier
    fixed        lots = fixed lots
    equity       lots = provider's lots × multiplier × equity / provider's equity
    risk         lots = equity × risk % / (|open price − stop loss| × contract size), in the account's currency

Each is calculated for the opened lots, rounded down to 10⁻⁸ and reduced to the largest volume. A result below the
smallest volume is raised to it or not copied. After partial closes a copy keeps the same share of its opened lots as
the provider's trade. Equities are those that both bots had reported when the terms were made. The stop loss is that of
the open.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from typing import Any

from core import money

NOTHING = Decimal(0)
_EXACT = Context(prec=60, rounding=ROUND_DOWN)  # room for three amounts of 20 digits; ratios are rounded down


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the terms that sizes a copy. `contracts`: contract size (units per lot) by symbol, for mode RISK."""

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
    """The settings in a JSON text. Equal texts give the same object, so subscriptions with equal settings share it."""
    values: dict[str, Any] = json.loads(text, parse_float=Decimal)
    for name in _AMOUNTS:
        if values.get(name) is not None:
            values[name] = Decimal(values[name])
    values["symbols"] = tuple(values["symbols"])
    values["contracts"] = {symbol: Decimal(size) for symbol, size in (values.get("contracts") or {}).items()}
    return Settings(**values)


@dataclass(frozen=True, slots=True)
class ProviderTrade:
    """The provider's trade, as opened and as it is now."""

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
    """The copy that must be held now. `why_not`: the reason for no copy; the volume is zero then."""

    symbol: str
    type: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    why_not: str = ""


def plan(terms: Settings, trade: ProviderTrade) -> Plan:
    """Calculate the copy of this trade under these terms."""
    opened, why_not = opened_volume(terms, trade)
    with localcontext(_EXACT):
        volume = _down(opened * trade.volume / trade.opened_volume)
    symbol = (terms.symbol_map or {}).get(trade.symbol, trade.symbol)
    if terms.reverse:
        other = "SELL" if trade.type == "BUY" else "BUY"
        return Plan(symbol, other, volume, trade.tp, trade.sl, why_not)
    return Plan(symbol, trade.type, volume, trade.sl, trade.tp, why_not)


def opened_volume(terms: Settings, trade: ProviderTrade) -> tuple[Decimal, str]:
    """The lots of a copy of the trade's opened volume, and the reason if there are none."""
    if terms.symbols and trade.symbol not in terms.symbols:
        return NOTHING, "symbol_not_allowed"
    with localcontext(_EXACT):
        lots = _unlimited(terms, trade)
    if lots is not None and terms.max_volume is not None:
        lots = min(lots, terms.max_volume)
    if lots is None or lots >= money.LIMIT:  # no broker accepts so many lots: some input must be wrong
        return NOTHING, "not_sizable"
    volume = _down(lots)
    if terms.min_volume is not None and volume < terms.min_volume:
        volume = terms.min_volume if terms.raises_to_min and lots else NOTHING
    return volume, "" if volume else "volume_too_small"


def _unlimited(terms: Settings, trade: ProviderTrade) -> Decimal | None:
    """The lots before any limit; None if an input is unknown."""
    if terms.mode == "FIXED":
        return terms.fixed_lots
    if terms.mode == "RISK":
        return _lots_at_risk(terms, trade)
    lots = trade.opened_volume * terms.multiplier
    if terms.mode != "EQUITY":
        return lots
    if terms.equity is None or terms.master_equity is None or terms.master_equity <= 0:
        return None
    return lots * max(terms.equity, NOTHING) / terms.master_equity


def _lots_at_risk(terms: Settings, trade: ProviderTrade) -> Decimal | None:
    """The lots that lose the share of the equity between the open price and the stop loss."""
    size = (terms.contracts or {}).get(trade.symbol)
    if terms.equity is None or terms.risk_pct is None or trade.opened_sl is None or size is None:
        return None
    loss = abs(trade.open_price - trade.opened_sl) * size  # of one lot, in the quoted currency
    base, quoted = trade.symbol[:3], trade.symbol[3:6]
    if quoted != terms.currency:
        if base != terms.currency:
            return None
        loss /= trade.open_price
    return max(terms.equity, NOTHING) * terms.risk_pct / 100 / loss if loss else None


def _down(volume: Decimal) -> Decimal:
    """Round down, so that rounding never makes a copy larger."""
    return volume.quantize(money.UNIT, rounding=ROUND_DOWN)
