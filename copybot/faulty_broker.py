"""A model of a broker for simulations, and the faults of a simulation.

The broker refuses orders, answers late or never, executes orders that it did not answer (at once or later), fills in
part, and closes positions by itself. It reads no clock.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from copybot.broker import Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Trace

PRICE = Decimal("1.10000000")
SPREAD = Decimal("0.00010000")
NO = Decimal(0)
UNIT = Decimal("0.00000001")


@dataclass(frozen=True)
class BrokerFaults:
    """A simulation's faults: each is a probability per tick, message, request or order."""

    ticks: int = 16
    drop: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    forge: float = 0.0  # an attacker on the line sends forged packets and snapshots
    breaks: float = 0.0  # the stream breaks off
    reject: float = 0.02
    timeout: float = 0.0
    partial: float = 0.0  # an order is filled in part
    slowest: int = 3  # ticks until an order that was not answered may still be executed
    away: float = 0.0  # the broker does not answer a query
    stop_out: float = 0.0  # the broker closes a position by itself
    crash: float = 0.0  # at each commit, order and request
    torn: float = 0.0  # at a crash: the state file is lost
    silent: float = 0.0  # a request is lost before or after its effect
    paused: float = 0.0  # the subscription is paused or resumed
    restore: float = 0.0  # once: the desk is restored from a backup
    rival: float = 0.0  # once: a second instance is started, elsewhere


@dataclass
class FaultyBroker:
    """A hedging account at a broker. `sent`: open orders received, by magic number. `opens`: those executed."""

    rng: random.Random
    weather: BrokerFaults
    first: int
    now: int = 0
    held: dict[str, Position] = field(default_factory=dict)
    books: dict[str, list[Deal]] = field(default_factory=dict)
    traced: set[int] = field(default_factory=set)
    late: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    opens: Counter[int] = field(default_factory=Counter)
    sent: Counter[int] = field(default_factory=Counter)
    point: Callable[[], None] = lambda: None
    on_open: Callable[[int], None] = lambda _: None

    def tick(self, now: int) -> None:
        self.now = now
        for order in [order for order in self.late if order[0] <= now]:
            self.late.remove(order)
            order[1]()
        if self.held and self.rng.random() < self.weather.stop_out:
            position = self.held[self.rng.choice(sorted(self.held))]
            self._take_off(position.id, position.volume, "STOP_OUT")

    # --- positions and deals

    def positions(self) -> list[Position]:
        self._ask()
        return list(self.held.values())

    def deals(self, position: str) -> list[Deal]:
        self._ask()
        return list(self.books.get(position, ()))

    def position_under(self, magic: int) -> str:
        self._ask()
        return next((name for name, deals in self.books.items() if deals[0].magic == magic), "")

    def trace(self, magic: int) -> Trace:
        self._ask()
        return Trace.DONE if magic in self.traced else Trace.NONE

    def is_settled(self) -> bool:
        return not self.weather.away or self.rng.random() >= self.weather.away

    def quote(self, symbol: str) -> Quote:
        return Quote(PRICE, PRICE + SPREAD)

    def account(self) -> Account:
        return Account("1", "model", "USD", Decimal(10_000), Decimal(10_000), True, True)

    def spec(self, symbol: str) -> SymbolSpec:
        return SymbolSpec(UNIT, UNIT, UNIT, Decimal(100), Decimal(100_000))

    # --- orders

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        self.sent[magic] += 1
        self.on_open(magic)

        def do() -> None:
            filled = volume
            if self.weather.partial and volume > Decimal("0.1") and self.rng.random() < self.weather.partial:
                filled = volume - Decimal("0.05")
            self.fill(magic, symbol, side, filled, sl, tp)

        return self._order(do)

    def close(self, position: Position, volume: Decimal) -> Result:
        return self._order(lambda: self._take_off(position.id, volume, "MANUAL"))

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        def do() -> None:
            if position.id in self.held:
                self.held[position.id] = replace(self.held[position.id], sl=sl, tp=tp)

        return self._order(do)

    def cancel(self, magic: int) -> Result:
        return Result(Outcome.REJECTED, 10013, "rejected")

    def fill(
        self, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Position:
        self.opens[magic] += 1
        self.traced.add(magic)
        number = str(self.first + len(self.books))
        price = self.quote(symbol).of(side)
        self.held[number] = Position(number, magic, symbol, side, volume, sl, tp, price, self.now)
        self.books[number] = [self._deal(self.held[number], Entry.IN, volume, "MANUAL")]
        return self.held[number]

    def _take_off(self, number: str, volume: Decimal, reason: str) -> None:
        held = self.held.get(number)
        if held is None:
            return
        volume = min(volume, held.volume)
        self.books.setdefault(number, []).append(self._deal(held, Entry.OUT, volume, reason))
        if held.volume > volume:
            self.held[number] = replace(held, volume=held.volume - volume)
        else:
            del self.held[number]

    def _deal(self, position: Position, entry: Entry, volume: Decimal, reason: str) -> Deal:
        count = len(self.books.get(position.id, ()))
        side = position.side if entry is Entry.IN else "SELL" if position.side == "BUY" else "BUY"
        return Deal(
            f"{position.id}{count:02}", f"{position.id}{count:02}", position.id, entry, position.magic,
            position.symbol, side, volume, PRICE, NO, self.now, reason,
        )  # fmt: skip

    def _ask(self) -> None:
        if self.weather.away and self.rng.random() < self.weather.away:
            raise ConnectionError("the terminal is not connected")

    def _order(self, do: Callable[[], None]) -> Result:
        """Execute an order at once, later or never, and answer it or not."""
        self.point()
        luck, weather = self.rng.random(), self.weather
        if luck < weather.reject:
            self.point()
            return Result(Outcome.REJECTED, 10006)
        if luck < weather.reject + weather.timeout:
            fate = self.rng.random()
            if fate < 0.34:
                do()
            elif fate < 0.67:
                self.late.append((self.now + self.rng.randint(1, weather.slowest) * 1000, do))
            self.point()
            if self.rng.random() < 0.5:
                raise TimeoutError
            return Result(Outcome.UNKNOWN, 10012)
        do()
        self.point()
        return Result(Outcome.DONE, 10009)
