"""Translates symbols between the desk's names and a broker's: one table and one affix, the same in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from copybot.broker import Account, Deal, Outcome, Position, Quote, Result, Terminal, Trace

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
        for ours, theirs in self.table.items():
            other = self._back.setdefault(theirs, ours)
            if other != ours:
                raise ValueError(f"{theirs} would be both {other} and {ours}")

    def theirs(self, ours: str) -> str | None:
        """The broker's name; None if there is none, or if it belongs to another symbol already."""
        name = self.table.get(ours) or f"{self.prefix}{ours}{self.suffix}"
        if ours.startswith(_FOREIGN):
            name = ours.removeprefix(_FOREIGN)
        return name if name and self.ours(name) == ours else None

    def ours(self, theirs: str) -> str:
        """The desk's name. A symbol without one keeps the broker's name with a `~` before it, so that it is not taken
        for another symbol."""
        if theirs in self._back:
            return self._back[theirs]
        name = theirs.removeprefix(self.prefix).removesuffix(self.suffix)
        is_plain = f"{self.prefix}{name}{self.suffix}" == theirs and name and name not in self.table
        return name if is_plain and not name.startswith(_FOREIGN) else _FOREIGN + theirs


@dataclass(frozen=True)
class Named:
    """A terminal that uses the desk's names. A symbol that the broker has no name for is an unknown symbol."""

    terminal: Terminal
    names: Names

    def positions(self) -> list[Position]:
        return [replace(position, symbol=self.names.ours(position.symbol)) for position in self.terminal.positions()]

    def deals(self, position: str) -> list[Deal]:
        return [replace(deal, symbol=self.names.ours(deal.symbol)) for deal in self.terminal.deals(position)]

    def position_under(self, magic: int) -> str:
        return self.terminal.position_under(magic)

    def trace(self, magic: int) -> Trace:
        return self.terminal.trace(magic)

    def is_settled(self) -> bool:
        return self.terminal.is_settled()

    def account(self) -> Account:
        return self.terminal.account()

    def quote(self, symbol: str) -> Quote | None:
        name = self.names.theirs(symbol)
        return None if name is None else self.terminal.quote(name)

    def fit(
        self, symbol: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> tuple[Decimal, Decimal | None, Decimal | None]:
        name = self.names.theirs(symbol)
        return (volume, sl, tp) if name is None else self.terminal.fit(name, volume, sl, tp)

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        name = self.names.theirs(symbol)
        if name is None:
            return Result(Outcome.REJECTED, 10013, "symbol_unknown")
        return self.terminal.open(magic=magic, symbol=name, side=side, volume=volume, sl=sl, tp=tp)

    def close(self, position: Position, volume: Decimal) -> Result:
        return self.terminal.close(self._theirs(position), volume)

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        return self.terminal.modify(self._theirs(position), sl=sl, tp=tp)

    def _theirs(self, position: Position) -> Position:
        return replace(position, symbol=self.names.theirs(position.symbol) or position.symbol)
