"""A symbol's properties at a MetaTrader server, and what they allow: prices on ticks, stops at their distance."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

from copybot.broker import SymbolSpec

FINE = Decimal("1e-8")
_FILLING_FOK, _FILLING_IOC = 1, 2  # bits of a symbol's filling_mode; the package does not name them
_LONG_ONLY, _SHORT_ONLY, _CLOSE_ONLY, _DISABLED = 10042, 10043, 10044, 10017


@dataclass(frozen=True, slots=True)
class Symbol:
    """`stops_level`, `freeze_level`: distances in price. `worth`: what one lot gains when the price rises by one.
    `no_buy`, `no_sell`: the code of the refusal of an open on that side, 0 if it is allowed; closes always are."""

    digits: int
    tick: Decimal
    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal
    stops_level: Decimal
    freeze_level: Decimal
    fillings: tuple[int, ...]
    worth: Decimal
    contract_size: Decimal
    no_buy: int
    no_sell: int

    @property
    def spec(self) -> SymbolSpec:
        return SymbolSpec(
            self.tick, self.volume_min, self.volume_step, self.volume_max, self.contract_size,
            not (self.no_buy and self.no_sell),
        )  # fmt: skip

    def refusal(self, side: str) -> int:
        return self.no_buy if side == "BUY" else self.no_sell

    def price(self, value: float | Decimal, rounding: str = ROUND_HALF_EVEN) -> Decimal:
        ticks = (Decimal(str(value)) / self.tick).to_integral_value(rounding)
        return (ticks * self.tick).quantize(Decimal(1).scaleb(-self.digits))

    def stop(self, value: float) -> Decimal | None:
        """A stop as the terminal shows it; its zero means that there is none."""
        return self.price(value) if value else None

    def allowed(self, price: Decimal, stop: Decimal | None) -> Decimal | None:
        """The stop, moved away from the price if it is closer than the server accepts."""
        if stop is None or abs(price - stop) >= self.stops_level:
            return stop
        return self.nearest(price, below=stop < price)

    def nearest(self, price: Decimal, *, below: bool) -> Decimal:
        """The closest price to this one at which the server accepts a stop."""
        away = max(self.stops_level, self.tick)
        return self.price(price - away, ROUND_FLOOR) if below else self.price(price + away, ROUND_CEILING)


UNLISTED = Symbol(8, FINE, FINE, FINE, FINE, Decimal(0), Decimal(0), (), Decimal(0), Decimal(0), _DISABLED, _DISABLED)


def symbol_of(info: Any, module: Any) -> Symbol:
    """A symbol from its SymbolInfo. `module`: the MetaTrader5 package."""
    point = Decimal(1).scaleb(-info.digits)
    tick = Decimal(str(info.trade_tick_size)) or point
    named = ((_FILLING_FOK, module.ORDER_FILLING_FOK), (_FILLING_IOC, module.ORDER_FILLING_IOC))
    fillings = [filling for bit, filling in named if info.filling_mode & bit]
    if info.trade_exemode != module.SYMBOL_TRADE_EXECUTION_MARKET:
        fillings.append(module.ORDER_FILLING_RETURN)
    rest = [filling for _, filling in named if filling not in fillings]
    least, most, step = (Decimal(str(lots)) for lots in (info.volume_min, info.volume_max, info.volume_step))
    step = step or FINE  # zero while the terminal has not loaded the symbol: then orders are exact
    no_buy, no_sell = {
        module.SYMBOL_TRADE_MODE_FULL: (0, 0),
        module.SYMBOL_TRADE_MODE_LONGONLY: (0, _LONG_ONLY),
        module.SYMBOL_TRADE_MODE_SHORTONLY: (_SHORT_ONLY, 0),
        module.SYMBOL_TRADE_MODE_CLOSEONLY: (_CLOSE_ONLY, _CLOSE_ONLY),
    }.get(info.trade_mode, (_DISABLED, _DISABLED))
    return Symbol(
        info.digits, tick, least, most, step, info.trade_stops_level * point, info.trade_freeze_level * point,
        (*fillings, *rest), Decimal(str(info.trade_tick_value)) / tick, Decimal(str(info.trade_contract_size)),
        no_buy, no_sell,
    )  # fmt: skip


def lots_of(volume: float) -> Decimal:
    """A volume exactly as the terminal shows it. The present step must not round what is held: a broker may change it
    while positions are open."""
    return Decimal(f"{Decimal(str(volume)):.8f}".rstrip("0").rstrip("."))


def fine(price: float) -> Decimal:
    """An open or deal price, which may lie between two ticks if the order was filled in parts."""
    return Decimal(str(price)).quantize(FINE)


def is_passed(side: str, price: Decimal, stop: Decimal | None, *, target: bool) -> bool:
    """Whether the price has reached or passed a stop loss, or a target, of a position on this side."""
    if stop is None:
        return False
    return stop <= price if (side == "BUY") == target else stop >= price
