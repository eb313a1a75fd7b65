"""Terms in words."""

from core import money
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


def _short(value: object) -> str:
    text = money.text(value)  # type: ignore[arg-type]
    return text.rstrip("0").rstrip(".")
