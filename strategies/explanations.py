"""Terms in words, and the arithmetic of a copy's size step by step, for pages."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from core import money
from strategies import facts, sizing
from strategies.models import Subscription, Terms


def terms(row: Terms) -> str:
    """How a subscription copies, in one line."""
    return "; ".join([_mode(row), *_limits(row)])


def _mode(terms: Terms) -> str:
    if terms.mode == Terms.Mode.FIXED:
        return f"{_short(terms.fixed_lots)} lots each time"
    if terms.mode == Terms.Mode.RISK:
        return f"{_short(terms.risk_pct)} % of the equity at risk"
    times = "" if terms.multiplier == 1 and terms.mode == Terms.Mode.EQUITY else f"× {_short(terms.multiplier)}"
    return f"provider's lots {times}" if terms.mode == Terms.Mode.MULTIPLIER else f"by equity {times}".rstrip()


def _limits(terms: Terms) -> list[str]:
    texts = [
        terms.reverse and "reversed",
        terms.min_volume
        and f"at least {_short(terms.min_volume)} lots{', raised to it' if terms.raises_to_min else ''}",
        terms.max_volume and f"at most {_short(terms.max_volume)} lots",
        terms.max_open_trades is not None and f"at most {terms.max_open_trades} open",
        terms.max_slippage_bps is not None and f"at most {_short(terms.max_slippage_bps)} bps slippage",
        terms.max_drawdown_pct and f"stops {_short(terms.max_drawdown_pct)} % below the highest equity"
        f"{' and closes all' if terms.closes_on_drawdown else ''}",
        terms.symbols and f"only {', '.join(terms.symbols)}",
        terms.symbol_map and ", ".join(f"{symbol} as {own}" for symbol, own in terms.symbol_map.items()),
        terms.symbol_factors and ", ".join(f"{symbol} × {factor}" for symbol, factor in terms.symbol_factors.items()),
        terms.risk_default_stop_bps
        and terms.mode == Terms.Mode.RISK
        and f"without a stop loss as if it were {_short(terms.risk_default_stop_bps)} bps away",
    ]  # fmt: skip
    return [text for text in texts if text]


def settings(terms: Terms, *, currency: str, contracts: Mapping[str, Decimal]) -> sizing.Settings:
    """The settings by which a copy is sized under these terms, saved or not. Same as the SQL function `sizing_of`.

    `currency`: of the account now, for terms that were made before they stored it. `contracts`: the desk's.
    """
    known = terms.facts
    rates = {name: rate["rate"] for name, rate in known.get("rates", {}).items()}
    return sizing.Settings(
        mode=terms.mode,
        multiplier=terms.multiplier,
        fixed_lots=terms.fixed_lots,
        risk_pct=terms.risk_pct,
        risk_default_stop_bps=terms.risk_default_stop_bps,
        min_volume=terms.min_volume,
        max_volume=terms.max_volume,
        raises_to_min=terms.raises_to_min,
        reverse=terms.reverse,
        symbols=tuple(terms.symbols),
        symbol_map=terms.symbol_map,
        equity=terms.equity,
        master_equity=terms.master_equity,
        currency=known.get("currency", currency),
        contracts={**contracts, **sizing.amounts(known.get("contracts", {}))},
        master_currency=known.get("master_currency", ""),
        rates=sizing.amounts(rates),
        sizes=sizing.sides(known.get("sizes", {})),
        known=frozenset(known["known"]) if "known" in known else None,
        symbol_factors=sizing.amounts(terms.symbol_factors),
    )


def warnings(subscription: Subscription, contracts: Iterable[facts.Contract]) -> list[str]:
    """What makes copies of this subscription uncertain, for its owner."""
    own, provider = subscription.account, subscription.strategy.account
    texts = []
    if own.currency_differs:
        texts.append(
            f"Your bot reports an account in {own.reported_currency}, registered is {own.currency}. Until they agree, "
            "nothing is sized by your equity, and your fee period waits some days. Use the registered account, or "
            "ask staff."
        )
    if provider.currency_differs:
        texts.append(
            "The provider's bot reports another currency than registered: nothing is sized by equity meanwhile."
        )
    both_report = facts.both_report_sizes(subscription)
    for contract in contracts:
        if both_report and contract.provider is None:
            continue  # its bot reports each symbol that it trades
        if contract.deserves_a_warning:
            size, silent = contract.copier or contract.provider, "provider" if contract.provider is None else "copier"
            whose = "your broker" if silent == "provider" else "the provider's broker"
            assumption = (
                f"{contract.symbol} is not copied until it has, unless your settings have a factor for it."
                if both_report and contract.listed is None
                else f"{_assumption(contract)}. Correct it by a factor for {contract.symbol}."
            )
            texts.append(
                f"One lot of {contract.symbol} is {_short(size)} units at {whose}, and the {silent}'s bot has not "
                f"reported its size: {assumption}"
            )
    return texts


def _assumption(contract: facts.Contract) -> str:
    if contract.sides is None:
        return "lots are copied as if it were the same"
    provider, copier = contract.sides
    return f"copies are made {money.plain(round(copier / provider, 2))} times smaller"


@dataclass(frozen=True, slots=True)
class Line:
    """One step of the arithmetic, and the lots after it; None if the lots cannot be calculated."""

    says: str
    lots: Decimal | None


def arithmetic(settings: sizing.Settings, trade: sizing.ProviderTrade) -> list[Line]:
    """The calculation of a copy's lots, step by step. The lots of the last line are opened."""
    if settings.symbols and trade.symbol not in settings.symbols:
        return [
            Line(f"{trade.symbol} is not among the symbols to copy ({', '.join(settings.symbols)})", sizing.NOTHING)
        ]
    unlimited = dataclasses.replace(settings, min_volume=None, max_volume=None)
    unlimited_lots, why_not = sizing.opened_volume(unlimited, trade)
    if why_not == "not_sizable":
        return [Line(_what_is_unknown(settings, trade), None)]
    return [Line(_formula(settings, trade, unlimited_lots), unlimited_lots), *_limit_lines(settings, unlimited_lots)]


def in_one_line(lines: Sequence[Line]) -> str:
    """“0.50 lots × 0.333 = 0.1665; at most 0.10 → 0.10”."""
    first, *others = lines
    start = first.says if first.lots is None else f"{first.says} = {lots(first.lots)}"
    return "; ".join([start, *(f"{line.says} → {lots(line.lots or sizing.NOTHING)}" for line in others)])


def lots(volume: Decimal) -> str:
    """The volume as text with at least two decimals."""
    return money.grouped(volume)


def _formula(settings: sizing.Settings, trade: sizing.ProviderTrade, unlimited_lots: Decimal) -> str:
    factor = (settings.symbol_factors or {}).get(trade.symbol, Decimal(1))
    by_factor = "" if factor == 1 else f" × {_short(factor)} for {trade.symbol}"
    if settings.mode == Terms.Mode.FIXED:
        return "the same lots each time" if not by_factor else f"{lots(settings.fixed_lots or factor)} lots{by_factor}"
    if settings.mode == Terms.Mode.RISK:
        return f"{_risk(settings, trade)}{by_factor}"
    times = f"{lots(trade.opened_volume)} lots × {_short(settings.multiplier)}"
    product, by = trade.opened_volume * settings.multiplier * factor, Decimal(1)
    if sides := (settings.sizes or {}).get(trade.symbol):
        times += f" × {_short(sides[0])} / {_short(sides[1])} units in a lot"
        product, by = product * sides[0], by * sides[1]
    if settings.mode == Terms.Mode.EQUITY and settings.equity is not None and settings.master_equity:
        provider = settings.master_currency or settings.currency
        rate = (settings.rates or {}).get(provider)
        times += f" × {_short(settings.equity)} / {_short(settings.master_equity)} of equity"
        product, by = product * max(settings.equity, sizing.NOTHING), by * settings.master_equity
        if provider != settings.currency and rate is not None:
            times += f", at {rate} {settings.currency} for 1 {provider}"
            by *= rate
    times += by_factor
    return times if unlimited_lots * by == product else f"{times}, rounded down"


def _risk(settings: sizing.Settings, trade: sizing.ProviderTrade) -> str:
    risked = (settings.equity or sizing.NOTHING) * (settings.risk_pct or sizing.NOTHING) / 100
    share = f"{_short(settings.risk_pct)} % of an equity of {_short(settings.equity)}"
    stop = trade.first_sl if trade.opened_sl is None else trade.opened_sl
    if trade.opened_sl is None and settings.risk_default_stop_bps is not None:
        distance = (
            f"{_short(settings.risk_default_stop_bps)} bps from {money.plain(trade.open_price)}, there being no stop,"
        )
    else:
        distance = f"between {money.plain(trade.open_price)} and the stop at {_price(stop)}"
    quoted = trade.symbol[3:6]
    rate = (settings.rates or {}).get(quoted)
    needs_rate = settings.currency not in (trade.symbol[:3], quoted) and rate is not None
    at = f" at {rate} {settings.currency} for 1 {quoted}" if needs_rate else ""
    return f"{share} is {_short(risked)} {settings.currency}, lost {distance} by lots{at}"


def _limit_lines(settings: sizing.Settings, unlimited_lots: Decimal) -> list[Line]:
    lines, volume = [], unlimited_lots
    if settings.max_volume is not None and volume > settings.max_volume:
        volume = settings.max_volume
        lines.append(Line(f"at most {lots(volume)}", volume))
    if settings.min_volume is not None and volume < settings.min_volume:
        smallest = lots(settings.min_volume)
        if settings.raises_to_min:
            lines.append(Line(f"raised to the smallest, {smallest}", settings.min_volume))
        else:
            lines.append(Line(f"below the smallest, {smallest}: not copied", sizing.NOTHING))
    return lines


def _what_is_unknown(settings: sizing.Settings, trade: sizing.ProviderTrade) -> str:
    is_by_equity = settings.mode == Terms.Mode.EQUITY
    if settings.mode in (Terms.Mode.MULTIPLIER, Terms.Mode.EQUITY) and not sizing.is_size_known(settings, trade.symbol):
        return (
            f"the contract size of {trade.symbol} was not known at both brokers. Both bots report it after the first "
            "trade in a symbol"
        )
    if settings.equity is None or (is_by_equity and not settings.master_equity):
        return "the equity of both accounts was not known" if is_by_equity else "the account's equity was not known"
    if is_by_equity:
        return f"no rate of {settings.master_currency} in {settings.currency or 'the account’s currency'} was known"
    if sizing.waits(settings, trade):
        return "it was opened without a stop loss, and none came within five seconds, so its risk is not known"
    if trade.symbol not in (settings.contracts or {}):
        return f"the contract size of {trade.symbol} was not known"
    quoted = trade.symbol[3:6]
    return (
        f"the loss of {trade.symbol} at its stop cannot be converted to {settings.currency}: "
        f"no rate of {quoted} was known"
    )


def _short(value: Decimal | None) -> str:
    """The amount as short text. The terms' mode or an earlier check guarantees that it is present."""
    assert value is not None
    return money.grouped(value, 0)


def _price(value: Decimal | None) -> str:
    assert value is not None
    return money.plain(value)
