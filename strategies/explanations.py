"""Terms in words, and the arithmetic of a copy's size as a person would write it down."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from core import money
from strategies import sizing
from strategies.models import Terms


def terms(one: Terms) -> str:
    """How a subscription copies, in one line."""
    return "; ".join([_mode(one), *_limits(one)])


def _mode(one: Terms) -> str:
    if one.mode == Terms.Mode.FIXED:
        return f"{_short(one.fixed_lots)} lots each time"
    if one.mode == Terms.Mode.RISK:
        return f"{_short(one.risk_pct)} % of the equity at risk"
    times = "" if one.multiplier == 1 and one.mode == Terms.Mode.EQUITY else f"× {_short(one.multiplier)}"
    return times if one.mode == Terms.Mode.MULTIPLIER else f"by equity {times}".rstrip()


def _limits(one: Terms) -> list[str]:
    told = [
        one.reverse and "in reverse",
        one.min_volume and f"at least {_short(one.min_volume)} lots{', raised to it' if one.raises_to_min else ''}",
        one.max_volume and f"at most {_short(one.max_volume)} lots",
        one.max_open_trades is not None and f"at most {one.max_open_trades} open",
        one.max_slippage_bps is not None and f"at most {_short(one.max_slippage_bps)} bps worse",
        one.max_drawdown_pct and f"stops {_short(one.max_drawdown_pct)} % below the highest equity"
        f"{' and closes all' if one.closes_on_drawdown else ''}",
        one.symbols and f"only {', '.join(one.symbols)}",
        one.symbol_map and ", ".join(f"{theirs} as {own}" for theirs, own in one.symbol_map.items()),
    ]  # fmt: skip
    return [text for text in told if text]


def settings(one: Terms, *, currency: str, contracts: Mapping[str, Decimal]) -> sizing.Settings:
    """Terms, saved or not, as a copy is worked out from them. The database spells them too: `settings_of`."""
    return sizing.Settings(
        mode=one.mode,
        multiplier=one.multiplier,
        fixed_lots=one.fixed_lots,
        risk_pct=one.risk_pct,
        min_volume=one.min_volume,
        max_volume=one.max_volume,
        raises_to_min=one.raises_to_min,
        reverse=one.reverse,
        symbols=tuple(one.symbols),
        symbol_map=one.symbol_map,
        equity=one.equity,
        master_equity=one.master_equity,
        currency=currency,
        contracts=contracts,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One step of the arithmetic, and the lots after it; none where they cannot be worked out."""

    says: str
    lots: Decimal | None


def arithmetic(one: sizing.Settings, master: sizing.ProviderTrade) -> list[Line]:
    """How the lots of a copy come about, step by step. The last line's are what is opened."""
    if one.symbols and master.symbol not in one.symbols:
        return [Line(f"{master.symbol} is not among the symbols to copy ({', '.join(one.symbols)})", sizing.NOTHING)]
    unlimited = dataclasses.replace(one, min_volume=None, max_volume=None)
    wanted, why_not = sizing.opened_volume(unlimited, master)
    if why_not == "not_sizable":
        return [Line(_unknown(one, master), None)]
    return [Line(_formula(one, master, wanted), wanted), *_cut(one, wanted)]


def in_one_line(lines: Sequence[Line]) -> str:
    """“0.50 lots × 0.333 = 0.1665; at most 0.10 → 0.10”."""
    first, *others = lines
    start = first.says if first.lots is None else f"{first.says} = {lots(first.lots)}"
    return "; ".join([start, *(f"{line.says} → {lots(line.lots or sizing.NOTHING)}" for line in others)])


def lots(volume: Decimal) -> str:
    """With at least two decimals."""
    return money.plain(volume, 2)


def _formula(one: sizing.Settings, master: sizing.ProviderTrade, wanted: Decimal) -> str:
    if one.mode == Terms.Mode.FIXED:
        return "the same lots each time"
    if one.mode == Terms.Mode.RISK:
        risked = (one.equity or sizing.NOTHING) * (one.risk_pct or sizing.NOTHING) / 100
        share = f"{_short(one.risk_pct)} % of an equity of {_short(one.equity)} is {_short(risked)} {one.currency}"
        return f"{share}, lost between {_short(master.open_price)} and the stop at {_short(master.opened_sl)} by lots"
    times = f"{lots(master.opened_volume)} lots × {_short(one.multiplier)}"
    product, by = master.opened_volume * one.multiplier, Decimal(1)
    if one.mode == Terms.Mode.EQUITY and one.equity is not None and one.master_equity:
        times += f" × {_short(one.equity)} / {_short(one.master_equity)} of equity"
        product, by = product * max(one.equity, sizing.NOTHING), one.master_equity
    return times if wanted * by == product else f"{times}, rounded down"


def _cut(one: sizing.Settings, wanted: Decimal) -> list[Line]:
    found, volume = [], wanted
    if one.max_volume is not None and volume > one.max_volume:
        volume = one.max_volume
        found.append(Line(f"at most {lots(volume)}", volume))
    if one.min_volume is not None and volume < one.min_volume:
        smallest = lots(one.min_volume)
        if one.raises_to_min:
            found.append(Line(f"raised to the smallest, {smallest}", one.min_volume))
        else:
            found.append(Line(f"less than the smallest, {smallest}: not copied", sizing.NOTHING))
    return found


def _unknown(one: sizing.Settings, master: sizing.ProviderTrade) -> str:
    if one.equity is None or (one.mode == Terms.Mode.EQUITY and not one.master_equity):
        return "the equity of both accounts was not known" if one.mode == Terms.Mode.EQUITY else "no equity was known"
    if master.opened_sl is None:
        return "it was opened without a stop loss, so what it risks is not known"
    return f"what {master.symbol} loses at its stop cannot be told in {one.currency}"


def _short(value: Decimal | None) -> str:
    """An amount that the terms' mode or a check before has made sure of."""
    assert value is not None
    return money.plain(value)
