"""Translates symbols between the desk's names and a broker's: one table and one affix, the same in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from copybot.broker import Account, Deal, Outcome, Position, Quote, Result, SymbolSpec, Terminal, Trace

_FOREIGN = "~"


@dataclass(frozen=True)
class Names:
    """`table`: desk's name to broker's. Other symbols get the affixes: EURUSD becomes `prefix` + EURUSD + `suffix`.

    Raises ValueError if two of the desk's names would be the same name at the broker.
    """

    table: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    suffix: str = ""
    _back: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for desk_name, broker_name in self.table.items():
            other = self._back.setdefault(broker_name, desk_name)
            if other != desk_name:
                raise ValueError(f"{broker_name} would be both {other} and {desk_name}")

    def at_broker(self, desk_name: str) -> str | None:
        """The broker's name; None if there is none, or if it belongs to another symbol already."""
        name = self.table.get(desk_name) or f"{self.prefix}{desk_name}{self.suffix}"
        if desk_name.startswith(_FOREIGN):
            name = desk_name.removeprefix(_FOREIGN)
        return name if name and self.at_desk(name) == desk_name else None

    def at_desk(self, broker_name: str) -> str:
        """The desk's name. A symbol without one keeps the broker's name with a `~` before it, so that it is not taken
        for another symbol."""
        if broker_name in self._back:
            return self._back[broker_name]
        name = broker_name.removeprefix(self.prefix).removesuffix(self.suffix)
        is_plain = f"{self.prefix}{name}{self.suffix}" == broker_name and name and name not in self.table
        return name if is_plain and not name.startswith(_FOREIGN) else _FOREIGN + broker_name


@dataclass(frozen=True)
class Named:
    """A terminal that uses the desk's names. A symbol that the broker has no name for is an unknown symbol."""

    terminal: Terminal
    names: Names

    def positions(self) -> list[Position]:
        return [replace(position, symbol=self.names.at_desk(position.symbol)) for position in self.terminal.positions()]

    def deals(self, position: str) -> list[Deal]:
        return [replace(deal, symbol=self.names.at_desk(deal.symbol)) for deal in self.terminal.deals(position)]

    def was_cancelled(self, position: str) -> bool:
        return self.terminal.was_cancelled(position)

    def position_under(self, magic: int) -> str:
        return self.terminal.position_under(magic)

    def trace(self, magic: int) -> Trace:
        return self.terminal.trace(magic)

    def is_settled(self) -> bool:
        return self.terminal.is_settled()

    def account(self) -> Account:
        return self.terminal.account()

    def quote(self, symbol: str) -> Quote | None:
        name = self.names.at_broker(symbol)
        return None if name is None else self.terminal.quote(name)

    def spec(self, symbol: str) -> SymbolSpec | None:
        name = self.names.at_broker(symbol)
        return None if name is None else self.terminal.spec(name)

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        name = self.names.at_broker(symbol)
        if name is None:
            return Result(Outcome.REJECTED, 10013, "symbol_unknown")
        return self.terminal.open(magic=magic, symbol=name, side=side, volume=volume, sl=sl, tp=tp)

    def close(self, position: Position, volume: Decimal) -> Result:
        return self.terminal.close(self._at_broker(position), volume)

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        return self.terminal.modify(self._at_broker(position), sl=sl, tp=tp)

    def cancel(self, magic: int) -> Result:
        return self.terminal.cancel(magic)

    def _at_broker(self, position: Position) -> Position:
        return replace(position, symbol=self.names.at_broker(position.symbol) or position.symbol)
