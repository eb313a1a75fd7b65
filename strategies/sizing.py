"""The plan of a copy: its symbol, side, volume and stops, from the provider's trade and the terms in force. Pure.

The rule is public, so that subscribers can recompute the copies that they pay fees for:

    multiplier   lots = provider's lots × multiplier × contracts
    fixed        lots = fixed lots
    equity       lots = provider's lots × multiplier × contracts × equity / (provider's equity × rate)
    risk         lots = equity × risk % / (|open price − stop loss| × contract size × rate)

all × the symbol's factor, if the settings have one. `contracts` is the provider's contract size of the symbol divided
by the copier's, so that a copy gains as much with each step of the price as its lots say. `rate` is the value of one
unit of the provider's currency (equity) or of the symbol's quoted currency (risk) in the account's currency; in the
symbol's own base currency it is 1 / open price. `contract size` is the copier's, or the desk's where the copier's is
not known. An unknown equity or rate gives no copy: nothing is guessed. Nor does an unknown contract size where both
bots report them, as at the first trade in a symbol that the desk does not list; a factor of the settings stands for it.
Where a bot reports none, contract sizes count as equal.

Each is calculated for the opened lots, rounded down to 10⁻⁸ and reduced to the largest volume. A result below the
smallest volume is raised to it or not copied. After partial closes a copy keeps the same share of its opened lots as
the provider's trade. Equities, rates and contract sizes are those of the time at which the terms were made, and are
stored with them. The stop loss is that of the open. Without one, it is the default distance of the settings, or else
the first stop loss that came within five seconds of the open: until then the copy waits for it.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from typing import Any

from core import money

NOTHING = Decimal(0)
FIRST_STOP_MS = 5_000  # how long copies by risk wait for the first stop loss of a trade that was opened without one
_EXACT = Context(prec=60, rounding=ROUND_DOWN)  # room for three amounts of 20 digits; ratios are rounded down


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the terms that sizes a copy.

    `contracts`: the copier's contract size (units per lot) by symbol, for mode RISK. `sizes`: the provider's and the
    copier's contract size by symbol, where lots are converted. `known`: the symbols whose sizes are known; None where
    all others count as equal. `rates`: the value of one unit of a currency in the account's currency.
    `master_currency`: the provider's; empty where it is the account's.
    """

    mode: str
    multiplier: Decimal
    fixed_lots: Decimal | None = None
    risk_pct: Decimal | None = None
    risk_default_stop_bps: Decimal | None = None
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
    master_currency: str = ""
    rates: Mapping[str, Decimal] | None = None
    sizes: Mapping[str, tuple[Decimal, Decimal]] | None = None
    known: frozenset[str] | None = None
    symbol_factors: Mapping[str, Decimal] | None = None


_AMOUNTS = (
    "multiplier", "fixed_lots", "risk_pct", "risk_default_stop_bps", "min_volume", "max_volume", "equity",
    "master_equity",
)  # fmt: skip
_BY_NAME = ("contracts", "rates", "symbol_factors")


@functools.lru_cache(maxsize=16_384)
def settings(text: str) -> Settings:
    """The settings in a JSON text. Equal texts give the same object, so subscriptions with equal settings share it."""
    values: dict[str, Any] = json.loads(text, parse_float=Decimal)
    for name in _AMOUNTS:
        if values.get(name) is not None:
            values[name] = Decimal(values[name])
    values["symbols"] = tuple(values["symbols"])
    for name in _BY_NAME:
        values[name] = amounts(values.get(name) or {})
    values["sizes"] = sides(values.get("sizes") or {})
    if "known" in values:
        values["known"] = frozenset(values["known"])
    return Settings(**values)


def amounts(texts: Mapping[str, str]) -> dict[str, Decimal]:
    return {name: Decimal(text) for name, text in texts.items()}


def sides(texts: Mapping[str, Sequence[str]]) -> dict[str, tuple[Decimal, Decimal]]:
    """The provider's and the copier's contract size, by symbol."""
    return {symbol: (Decimal(provider), Decimal(copier)) for symbol, (provider, copier) in texts.items()}


@dataclass(frozen=True, slots=True)
class ProviderTrade:
    """The provider's trade, as opened and as it is now. `first_sl`: the first stop loss, if it came soon after the open
    of a trade that had none."""

    symbol: str
    type: str
    opened_volume: Decimal
    open_price: Decimal
    opened_sl: Decimal | None
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    first_sl: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The copy that must be held now. `why_not`: the reason for no copy; the volume is zero then.

    `waits`: the trade was opened without a stop loss that this copy is sized by: it is opened with the first stop loss.
    """

    symbol: str
    type: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    why_not: str = ""
    waits: bool = False


def plan(terms: Settings, trade: ProviderTrade) -> Plan:
    """Calculate the copy of this trade under these terms."""
    opened, why_not = opened_volume(terms, trade)
    with localcontext(_EXACT):
        volume = _down(opened * trade.volume / trade.opened_volume)
    symbol = (terms.symbol_map or {}).get(trade.symbol, trade.symbol)
    if terms.reverse:
        other = "SELL" if trade.type == "BUY" else "BUY"
        return Plan(symbol, other, volume, trade.tp, trade.sl, why_not)
    return Plan(symbol, trade.type, volume, trade.sl, trade.tp, why_not, waits(terms, trade))


def opened_volume(terms: Settings, trade: ProviderTrade) -> tuple[Decimal, str]:
    """The lots of a copy of the trade's opened volume, and the reason if there are none."""
    if terms.symbols and trade.symbol not in terms.symbols:
        return NOTHING, "symbol_not_allowed"
    with localcontext(_EXACT):
        lots = _unlimited(terms, trade)
        if lots is not None:
            lots *= (terms.symbol_factors or {}).get(trade.symbol, 1)
    if lots is not None and terms.max_volume is not None:
        lots = min(lots, terms.max_volume)
    if lots is None or lots >= money.LIMIT:  # no broker accepts so many lots: some input must be wrong
        return NOTHING, "not_sizable"
    volume = _down(lots)
    if terms.min_volume is not None and volume < terms.min_volume:
        volume = terms.min_volume if terms.raises_to_min and lots else NOTHING
    return volume, "" if volume else "volume_too_small"


def waits(terms: Settings, trade: ProviderTrade) -> bool:
    """Whether a copy can be sized only when the trade's first stop loss has come."""
    is_copied = not terms.symbols or trade.symbol in terms.symbols
    return is_copied and terms.mode == "RISK" and trade.opened_sl is None and terms.risk_default_stop_bps is None


def is_size_known(terms: Settings, symbol: str) -> bool:
    """Whether lots of this symbol can be compared between the two brokers, or the settings have a factor for it."""
    if terms.known is None:
        return True
    return any(symbol in known for known in (terms.known, terms.sizes or {}, terms.symbol_factors or {}))


def _unlimited(terms: Settings, trade: ProviderTrade) -> Decimal | None:
    """The lots before any limit; None if an input is unknown."""
    if terms.mode == "FIXED":
        return terms.fixed_lots
    if terms.mode == "RISK":
        return _lots_at_risk(terms, trade)
    if not is_size_known(terms, trade.symbol):
        return None
    provider_size, own_size = (terms.sizes or {}).get(trade.symbol, (Decimal(1), Decimal(1)))
    lots = trade.opened_volume * terms.multiplier * provider_size
    if terms.mode != "EQUITY":
        return lots / own_size
    rate = _rate(terms, terms.master_currency or terms.currency)
    if terms.equity is None or terms.master_equity is None or terms.master_equity <= 0 or rate is None:
        return None
    return lots * max(terms.equity, NOTHING) / (terms.master_equity * rate * own_size)


def _lots_at_risk(terms: Settings, trade: ProviderTrade) -> Decimal | None:
    """The lots that lose the share of the equity between the open price and the stop loss."""
    size, distance = (terms.contracts or {}).get(trade.symbol), _stop_distance(terms, trade)
    if terms.equity is None or terms.risk_pct is None or distance is None or size is None:
        return None
    loss = distance * size  # of one lot, in the quoted currency
    if trade.symbol[:3] == terms.currency and trade.open_price > 0:
        loss /= trade.open_price
    else:
        rate = _rate(terms, trade.symbol[3:6])
        if rate is None:
            return None
        loss *= rate
    return max(terms.equity, NOTHING) * terms.risk_pct / 100 / loss if loss else None


def _stop_distance(terms: Settings, trade: ProviderTrade) -> Decimal | None:
    if trade.opened_sl is None and terms.risk_default_stop_bps is not None:
        return abs(trade.open_price) * terms.risk_default_stop_bps / 10_000
    stop = trade.first_sl if trade.opened_sl is None else trade.opened_sl
    return None if stop is None else abs(trade.open_price - stop)


def _rate(terms: Settings, currency: str) -> Decimal | None:
    """The value of one unit of the currency in the account's; None if it is not known."""
    return Decimal(1) if currency == terms.currency else (terms.rates or {}).get(currency)


def _down(volume: Decimal) -> Decimal:
    """Round down, so that rounding never makes a copy larger."""
    return volume.quantize(money.UNIT, rounding=ROUND_DOWN)
