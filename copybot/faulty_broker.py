"""A model of a broker for simulations, and the faults of a simulation.

The broker refuses orders, answers late or never, executes orders that it did not answer (at once or later), fills in
part, and closes positions by itself. Its character adds the habits and rules of real brokers. It reads no clock.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from copybot.broker import Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Trace
from copybot.broker_character import FINE, LARGEST, PLAIN, Character

PRICE = Decimal("1.10000000")
SPREAD = Decimal("0.00010000")
SYMBOL, RENAMED = "EURUSD", "EURUSD.r"
NO = Decimal(0)
CONTRACT = Decimal(100_000)
HOUR_MS = 3_600_000
_REFUSED_BY_CHANCE = 10006


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


@dataclass(frozen=True, slots=True)
class Order:
    """An order under way: `do` executes it at `turn`, or when the market opens."""

    magic: int
    turn: int
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Booking:
    """A position that was booked anew: its first number, its present one, and its lots for one lot of before."""

    head: str = ""
    row: str = ""
    factor: Decimal = Decimal(1)


_UNCHANGED = Booking()


@dataclass
class FaultyBroker:
    """A hedging account at a broker. `sent`: open orders received, by magic number. `opens`: those executed.

    `is_troubled`: in this tick the broker failed to answer, or refused or lost an order by chance or because its market
    was closed. `unanswered`: the magic numbers of the orders that it did not answer in this tick. `on_less`: called
    with a position and what an order left of it.
    """

    rng: random.Random
    weather: BrokerFaults
    first: int
    character: Character = PLAIN
    now: int = 0
    turn: int = 0
    symbol: str = SYMBOL
    ahead_ms: int = 0
    is_troubled: bool = False
    unanswered: set[int] = field(default_factory=set)
    held: dict[str, Position] = field(default_factory=dict)
    books: dict[str, list[Deal]] = field(default_factory=dict)
    bookings: dict[str, Booking] = field(default_factory=dict)
    entered: list[Deal] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    late: list[Order] = field(default_factory=list)
    queue: list[Order] = field(default_factory=list)
    opens: Counter[int] = field(default_factory=Counter)
    sent: Counter[int] = field(default_factory=Counter)
    filled: dict[int, Decimal] = field(default_factory=dict)
    born_ms: dict[str, int] = field(default_factory=dict)
    point: Callable[[], None] = lambda: None
    on_sent: Callable[[int], None] = lambda _: None
    on_open: Callable[[int], None] = lambda _: None
    on_less: Callable[[Position, Decimal], None] = lambda *_: None
    _shown: dict[str, Position] = field(default_factory=dict)
    _shown_deals: dict[str, int] = field(default_factory=dict)
    _unseen: list[tuple[int, str, Position | None]] = field(default_factory=list)
    _unseen_deals: list[tuple[int, str, int]] = field(default_factory=list)
    _executed: list[tuple[int, int]] = field(default_factory=list)
    _last_deal: int = -100
    _last_stop_out: int = -100

    def tick(self, now: int, turn: int = 0) -> None:
        self.now, self.turn, self.is_troubled = now, turn, self.is_shut
        self.unanswered.clear()
        if turn == self.character.renames_at != 0:
            self._rename()
        if turn == self.character.rebooks_at != 0:
            self._rebook()
        for order in [order for order in self.late if order.turn <= turn]:
            self.late.remove(order)
            order.do()
        if not self.is_shut:
            queue, self.queue = self.queue, []
            for order in queue:
                order.do()
                self._executed.append((turn + self.character.deal_lag, order.magic))
        self._show()
        if not self.is_shut and self.rng.random() < self.weather.stop_out:
            self._last_stop_out = turn
            self._stop_out()

    @property
    def is_shut(self) -> bool:
        return self.turn in self.character.shut

    @property
    def has_unseen_stop_out(self) -> bool:
        return self.turn - self._last_stop_out <= max(self.character.lag, self.character.deal_lag)

    @property
    def is_at_rest(self) -> bool:
        under_way = self.late or self.queue or self._unseen or self._unseen_deals
        return not under_way and self.turn >= self.character.shut.stop

    # --- positions and deals

    def truly_held(self) -> dict[str, Position]:
        """The open positions, whatever the broker shows."""
        return self.held

    def hides_deals_of(self, position: str) -> bool:
        return any(deal.id in self.hidden for deal in self.books.get(position, ()))

    def positions(self) -> list[Position]:
        self._ask()
        return list(self._shown.values()) if self.character.lag else self.rows()

    def rows(self) -> list[Position]:
        """The open positions as they are booked now."""
        return [self._row(position) for position in self.held.values()]

    def deals(self, position: str) -> list[Deal]:
        self._ask()
        return self._visible(position)

    def history(self) -> list[Deal]:
        self._ask()
        visible = {deal.id for number in self.books for deal in self._visible(number)}
        return [deal for deal in self.entered if deal.id in visible]

    def was_cancelled(self, position: str) -> bool:
        return False

    def position_under(self, magic: int) -> str:
        self._ask()
        return next((name for name in self.books if any(deal.magic == magic for deal in self._visible(name))), "")

    def trace(self, magic: int) -> Trace:
        self._ask()
        if self._is_waiting(magic):
            return Trace.WAITING
        if not any(deal.magic == magic for name in self.books for deal in self._visible(name)):
            return Trace.NONE
        return Trace.PENDING if any(held.magic == magic for held in self.held.values()) else Trace.DONE

    def is_settled(self) -> bool:
        if self.turn - self._last_deal < self.character.quiet:
            return False
        is_away = bool(self.weather.away) and self.rng.random() < self.weather.away
        self.is_troubled |= is_away
        return not is_away

    def quote(self, symbol: str) -> Quote | None:
        price = PRICE + self.character.feed
        return Quote(price, price + SPREAD) if symbol == self.symbol else None

    def account(self) -> Account:
        is_hedging, is_fifo = not self.character.is_netting, self.character.is_fifo
        return Account("1", "model", "USD", Decimal(10_000), Decimal(10_000), is_hedging, True, is_fifo)

    def spec(self, symbol: str) -> SymbolSpec | None:
        return self._spec if symbol == self.symbol else None

    def accepts(self, side: str, name: str, stop: Decimal | None) -> bool:
        """Whether a position can have this stop now."""
        if stop is None:
            return True
        price = (PRICE + self.character.feed) + (SPREAD if side == "SELL" else NO)
        return stop < price if (name == "sl") == (side == "BUY") else stop > price

    def _is_waiting(self, magic: int) -> bool:
        """Whether the broker shows a queued order: until it shows the deals of its execution."""
        shown = (number for until, number in self._executed if self.turn < until)
        return any(order.magic == magic for order in self.queue) or magic in shown

    # --- orders

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        self._count_sent(magic)
        if self.character.two_step:
            sl = tp = None

        def do() -> None:
            filled = volume
            if self.weather.partial and volume > Decimal("0.1") and self.rng.random() < self.weather.partial:
                filled = volume - max(Decimal("0.05"), self.lots)
            if filled > 0:
                self.fill(magic, symbol, side, filled, sl, tp)

        has_stops = self.accepts(side, "sl", sl) and self.accepts(side, "tp", tp)
        return self._order(magic, do, self._refusal(symbol, volume) or (0 if has_stops else 10016))

    def close(self, position: Position, volume: Decimal) -> Result:
        """Close in as many orders as the largest one demands. The first that is not done ends the rest."""
        answer, booking = Result(Outcome.REJECTED, 10036, "rejected"), self._booking(position.id)
        held = self.held.get(booking.head)
        for part in [NO] if held is None else self._spec.parts(min(volume / booking.factor, held.volume)):
            answer = self._close(replace(position, id=booking.head), part)
            if answer.outcome is not Outcome.DONE:
                return answer
        return answer

    def _close(self, position: Position, volume: Decimal) -> Result:
        held = self.held.get(position.id)
        if held is None:
            return self._order(position.magic, lambda: None, 10036)

        refusal = 10045 if self._is_behind(held) else self._refusal(position.symbol, volume, held.volume)
        return self._order(position.magic, lambda: self._take_off(position.id, self._filled(volume), "MANUAL"), refusal)

    def _filled(self, volume: Decimal) -> Decimal:
        half = (volume / 2).quantize(FINE)
        return half if self.rng.random() < self.character.partial_closes and not half % self.lots else volume

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        """Set the stops that the broker accepts, as an adapter does, and leave the others as they are."""
        booking, side = self._booking(position.id), position.side
        held = self.held.get(booking.head, position)
        position = replace(position, id=booking.head)
        sl, tp = (None if stop is None else stop * booking.factor for stop in (sl, tp))
        is_whole = self.accepts(side, "sl", sl) and self.accepts(side, "tp", tp)
        sl, tp = sl if self.accepts(side, "sl", sl) else held.sl, tp if self.accepts(side, "tp", tp) else held.tp

        def do() -> None:
            if position.id in self.held:
                self._put(replace(self.held[position.id], sl=sl, tp=tp))

        if (sl, tp) == (held.sl, held.tp):
            return self._order(position.magic, do, 0 if is_whole else 10016)
        answer = self._order(position.magic, do, 0)
        return answer if is_whole or answer.outcome is not Outcome.DONE else Result(Outcome.REJECTED, 10016, "rejected")

    def cancel(self, magic: int) -> Result:
        self.point()
        queued = [order for order in self.queue if order.magic == magic]
        if not queued or not self.character.cancels:
            return Result(Outcome.REJECTED, 10013, "rejected")
        self.queue = [order for order in self.queue if order.magic != magic]
        self.point()
        return Result(Outcome.DONE, 10009)

    def _refusal(self, symbol: str, volume: Decimal, whole: Decimal | None = None) -> int:
        """The code of the rule that forbids an order of this volume; 0 if none does. `whole`: of the position."""
        if symbol != self.symbol:
            return 10013
        if volume > self._largest or (volume != whole and (volume < self.lots or volume % self.lots)):
            return 10014
        return 0

    def _is_behind(self, held: Position) -> bool:
        """Whether a FIFO rule demands that another position is closed first."""
        oldest = next(other for other in self.held.values() if (other.symbol, other.side) == (held.symbol, held.side))
        return self.character.is_fifo and oldest.id != held.id

    def _order(self, magic: int, do: Callable[[], object], refusal: int) -> Result:
        """Execute an order at once, later or never, and answer it or not."""
        self.point()
        if refusal:
            return Result(Outcome.REJECTED, refusal, "symbol_unknown" if refusal == 10013 else "rejected")
        if self.is_shut:
            return self._after_hours(Order(magic, self.turn, do))
        luck, weather = self.rng.random(), self.weather
        if luck < weather.reject + self.character.requotes * bool(weather.reject):
            self.is_troubled = True
            self.point()
            return Result(Outcome.REJECTED, _REFUSED_BY_CHANCE, "rejected")
        if self.rng.random() < weather.timeout:
            self.is_troubled = True
            self.unanswered.add(magic)
            fate = self.rng.random()
            if fate < 0.34:
                do()
            elif fate < 0.67:
                self.late.append(Order(magic, self.turn + self.rng.randint(1, weather.slowest), do))
            self.point()
            if self.rng.random() < 0.5:
                raise TimeoutError
            return Result(Outcome.UNKNOWN, 10012)
        do()
        self.point()
        return Result(Outcome.DONE, 10009)

    def _after_hours(self, order: Order) -> Result:
        if not self.character.queues:
            return Result(Outcome.REJECTED, 10018, "market_closed")
        self.queue.append(order)
        self.point()
        return Result(Outcome.UNKNOWN, 10008)

    # --- executions

    def fill(
        self, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Position:
        self._count_trade(magic, side, volume)
        number = str(self.first + len(self.born_ms))
        self.born_ms[number], symbol = self.now, self.symbol
        price = PRICE + self.character.feed + (SPREAD if side == "BUY" else NO)
        opened = Position(number, magic, symbol, side, volume, sl, tp, price, self.now + self.ahead_ms)
        self._put(opened, self._deal(opened, Entry.IN, volume, "MANUAL"))
        return opened

    def close_by_hand(self, position: Position) -> None:
        self._take_off(position.id, position.volume, "MANUAL")

    def _count_sent(self, magic: int) -> None:
        self.sent[magic] += 1
        self.on_sent(magic)

    def _count_open(self, magic: int, volume: Decimal) -> None:
        self.opens[magic] += 1
        self.filled[magic] = volume
        self.on_open(magic)

    def _count_trade(self, magic: int, side: str, volume: Decimal) -> None:
        if magic:
            self._count_open(magic, volume)

    def _take_off(self, number: str, volume: Decimal, reason: str, magic: int | None = None) -> None:
        held = self.held.get(number)
        if held is None:
            return
        volume = min(volume, held.volume)
        by = held if magic is None else replace(held, magic=magic)
        deal = self._deal(by, Entry.OUT, volume, reason)
        if reason == "MANUAL":
            self._may_hide(deal)
            self._note_less(by, volume)
        elif not self.character.is_shared:  # or nobody could tell which copy a stop-out closed
            self._may_hide(deal)
        self._put(replace(held, volume=held.volume - volume), deal)

    def _may_hide(self, deal: Deal) -> None:
        if self.rng.random() < self.character.hides:
            self.hidden.add(deal.id)

    def _note_less(self, position: Position, volume: Decimal) -> None:
        self.on_less(position, position.volume - volume)

    def _put(self, position: Position, deal: Deal | None = None) -> None:
        """Store a position and its newest deal, and show them when the character allows."""
        number, is_open = position.id, bool(position.volume)
        if is_open:
            self.held[number] = position
        else:
            self.held.pop(number, None)
        row = self._row(position)
        if self.character.lag:
            self._unseen.append((self.turn + self.character.lag, row.id, row if is_open else None))
        if deal is not None:
            self._enter(row.id, deal)

    def _enter(self, number: str, deal: Deal) -> None:
        self.books.setdefault(number, []).append(deal)
        self.entered.append(deal)
        self._last_deal = self.turn
        if self.character.deal_lag:
            self._unseen_deals.append((self.turn + self.character.deal_lag, number, len(self.books[number])))

    def _stop_out(self) -> None:
        if self.held:
            position = self.held[self.rng.choice(sorted(self.held))]
            self._take_off(position.id, position.volume, "STOP_OUT")

    def _rename(self) -> None:
        self.symbol = RENAMED
        for position in list(self.held.values()):
            self._put(replace(position, symbol=RENAMED))

    # --- what is shown

    @property
    def _spec(self) -> SymbolSpec:
        return SymbolSpec(FINE, self.lots, self.lots, self._largest, CONTRACT)

    @property
    def _largest(self) -> Decimal:
        if self.turn < self.character.largest_at:
            return LARGEST
        return self.character.largest // self.lots * self.lots

    @property
    def lots(self) -> Decimal:
        return self.character.lots if self.turn >= self.character.lots_at else FINE

    def catch_up(self) -> None:
        """Execute what is under way, and show everything, as after an hour."""
        late, self.late = self.late, []
        for order in late:
            order.do()
        turn, self.turn = self.turn, self.turn + max(self.character.lag, self.character.deal_lag)
        self._show()
        self.turn = turn

    def _show(self) -> None:
        while self._unseen and self._unseen[0][0] <= self.turn:
            _, number, position = self._unseen.pop(0)
            if position is None:
                self._shown.pop(number, None)
            else:
                self._shown[number] = position
        while self._unseen_deals and self._unseen_deals[0][0] <= self.turn:
            _, number, count = self._unseen_deals.pop(0)
            self._shown_deals[number] = count

    def _visible(self, position: str) -> list[Deal]:
        deals = self.books.get(position, [])
        if self.character.deal_lag:
            deals = deals[: self._shown_deals.get(position, 0)]
        return [deal for deal in deals if deal.id not in self.hidden] if self.hidden else list(deals)

    def _deal(self, position: Position, entry: Entry, volume: Decimal, reason: str) -> Deal:
        row, factor = self._row(position), self.bookings.get(position.id, _UNCHANGED).factor
        number = f"{row.id}{len(self.books.get(row.id, ())):02}"
        side = position.side if entry is Entry.IN else other_side(position.side)
        return Deal(
            number, number, row.id, entry, position.magic, position.symbol, side, volume * factor, PRICE / factor, NO,
            self.now + self.ahead_ms, reason,
        )  # fmt: skip

    # --- bookings

    def _rebook(self) -> None:
        """Book each position out and in again: under its own number or another, at a rollover or a split."""
        factor = Decimal(self.rng.choice((1, 1, 2)))
        reason = "ROLLOVER" if factor == 1 else "SPLIT"
        for number, position in list(self.held.items()):
            self._enter(number, self._deal(position, Entry.OUT, position.volume, reason))
            is_new = self.rng.random() < 0.5
            self.bookings[number] = Booking(number, f"{int(number) + 500_000}" if is_new else number, factor)
            if self.character.lag and is_new:
                self._unseen.append((self.turn + self.character.lag, number, None))
            self._put(position, self._deal(position, Entry.IN, position.volume, reason))

    def _row(self, position: Position) -> Position:
        booking = self.bookings.get(position.id)
        if booking is None:
            return position
        factor = booking.factor
        sl, tp = (None if stop is None else stop / factor for stop in (position.sl, position.tp))
        return replace(
            position, id=booking.row, volume=position.volume * factor, sl=sl, tp=tp,
            open_price=position.open_price / factor,
        )  # fmt: skip

    def _booking(self, row: str) -> "Booking":
        found = (booking for booking in self.bookings.values() if booking.row == row)
        return next(found, replace(_UNCHANGED, head=row, row=row))

    def _ask(self) -> None:
        if self.weather.away and self.rng.random() < self.weather.away:
            self.is_troubled = True
            raise ConnectionError("the terminal is not connected")


def other_side(side: str) -> str:
    return "SELL" if side == "BUY" else "BUY"
