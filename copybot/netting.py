"""Many copies on an account that has one position per symbol: virtual positions, read out of the account's deals.

All orders of a copy carry its magic number, closing orders too. So the open volume of a copy is the sum of the deals
with that number, and nothing has to be stored: whichever process is killed, the deals remain. Opposite copies of a
symbol cancel out at the broker and remain as virtual positions.

Limits:
- No stops. The one net position cannot carry the stops of each copy, so `spec` says that there are none. A copy whose
  bot or connection is down has no protection until the provider's stop arrives as a close.
- Swap and commission per copy are not exact: they count where the broker booked them, so the sum is right but the share
  of one copy is arbitrary. In a currency other than the account's, profits use today's rate.
- A close may need margin: closing one of two opposite copies makes the net position larger, and may be refused.
- The history must reach back to the first open. If a broker cuts it off, copies vanish.
- After a broker has raised its smallest order or its step, a copy that is off the step closes only with the last of the
  net position: the server takes such a volume only as all that is left.

Other orders (by hand, say) and the broker's own deals (a stop-out) change the net position. As far as they make it
smaller, they close volume that is not a copy's first, then copies on that side, the oldest first. If an order closes
too much, because its answer was lost and it was executed twice, a virtual position on the other side remains under the
same magic number, and the guard goes on closing until it is gone.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

from copybot.broker import REBOOKED, Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Terminal, Trace

_UNIT = Decimal("1e-8")
_SPLIT_MS = 600_000


class NetTerminal(Terminal, Protocol):
    """A terminal of a netting account: an `open` against the net position reduces or reverses it."""

    def history(self) -> list[Deal]:
        """All deals of the account, oldest first; complete if `is_settled()`."""

    def worth(self, symbol: str) -> Decimal:
        """What one lot gains, in the account's currency, when the price rises by one."""

    def take_off(self, position: Position, volume: Decimal, *, magic: int | None = None) -> Result:
        """Close `volume` lots of a position by orders with this magic; by default the position's own."""


def is_copy(magic: int) -> bool:
    """Whether a magic number is a copy's."""
    return magic >> 56 == 0x43


@dataclass
class Virtual:
    """The open volume under one magic number, in the units of its open. `volume`: negative for a SELL. `factor`: the
    broker's lots for one lot of it, other than 1 after a split. `orders`: its orders that have deals. `costs`: charges
    of bookings, not yet in a deal."""

    magic: int
    symbol: str
    opened_ms: int
    volume: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    factor: Decimal = Decimal(1)
    costs: Decimal = Decimal(0)
    deals: list[Deal] = field(default_factory=list)
    orders: set[str] = field(default_factory=set)

    @property
    def side(self) -> str:
        return "BUY" if self.volume > 0 else "SELL"

    @property
    def lots(self) -> Decimal:
        """The open volume in the broker's present units."""
        return self.volume if self.factor == 1 else (self.volume * self.factor).quantize(_UNIT)

    def apply(self, deal: Deal, lots: Decimal, costs: Decimal, worth: Decimal) -> None:
        """Apply `lots` of a deal (negative: sold) to this position, on either side."""
        costs, self.costs = costs + self.costs, Decimal(0)
        volume = lots if self.factor == 1 else (lots / self.factor).quantize(_UNIT)
        volume, price = -self.volume if lots == -self.lots else volume, deal.price * self.factor
        closing = min(abs(volume), abs(self.volume)) if volume * self.volume < 0 else Decimal(0)
        if closing:
            sign = 1 if self.volume > 0 else -1
            gain = ((price - self.price) * sign * closing * worth).quantize(Decimal("0.01"))
            self._note(deal, Entry.OUT, closing, gain + costs, costs)
            self.volume -= sign * closing
            costs = Decimal(0)
        adding = abs(volume) - closing
        if adding:
            paid = self.price * abs(self.volume) + price * adding
            self.price = paid / (abs(self.volume) + adding)
            self.volume += adding if volume > 0 else -adding
            self._note(deal, Entry.IN, adding, costs, costs)

    def _note(self, deal: Deal, entry: Entry, volume: Decimal, profit: Decimal, costs: Decimal) -> None:
        # Several orders may open one copy, which is one trade for all that.
        first = self.deals[0] if self.deals and entry is Entry.IN and self.deals[0].side == deal.side else deal
        own_deal = replace(
            deal, position=str(self.magic), magic=self.magic, entry=entry, volume=volume, order=first.order,
            price=deal.price * self.factor, profit=profit, costs=costs,
        )  # fmt: skip
        self.deals.append(own_deal)


class Book:
    """The virtual positions, and by symbol the volume that belongs to no copy, after the deals taken so far."""

    def __init__(self, worth: Callable[[str], Decimal], is_ours: Callable[[int], bool] = is_copy) -> None:
        self._worth, self._is_ours = worth, is_ours
        self.virtuals: dict[int, Virtual] = {}
        self.others: dict[str, Decimal] = {}
        self._booked_out: dict[str, list[Deal]] = {}
        self._split_ms: dict[str, int] = {}

    def take(self, deal: Deal) -> None:
        volume = deal.volume if deal.side == "BUY" else -deal.volume
        if deal.reason in REBOOKED:
            self._rebook(deal)
        elif self._is_ours(deal.magic) and deal.reason == "MANUAL":
            held = self.virtuals.setdefault(deal.magic, Virtual(deal.magic, deal.symbol, deal.at_ms))
            held.orders.add(deal.order)
            held.apply(deal, volume, deal.costs, self._worth(deal.symbol))
        else:
            self._take_of_others(deal, volume)

    def net(self, symbol: str) -> Decimal:
        copies = (virtual.lots for virtual in self.virtuals.values() if virtual.symbol == symbol)
        return sum(copies, self.others.get(symbol, Decimal(0)))

    def _rebook(self, deal: Deal) -> None:
        """The server booked a position of the symbol anew: out and in, after a split with another volume. A split of
        several positions is one split."""
        open_copies = [held for held in self.virtuals.values() if held.symbol == deal.symbol and held.volume]
        if open_copies:
            open_copies[0].costs += deal.costs
        halves = self._booked_out.setdefault(deal.symbol, [])
        if deal.entry is Entry.OUT:
            halves.append(deal)
        elif halves:
            half = next((half for half in halves if half.position == deal.position), halves[0])
            halves.remove(half)
            is_next = deal.at_ms - self._split_ms.get(deal.symbol, 0) > _SPLIT_MS
            if deal.reason == "SPLIT" and is_next:
                self._split_ms[deal.symbol] = deal.at_ms
                self._split(deal.symbol, deal.volume / half.volume)

    def _split(self, symbol: str, factor: Decimal) -> None:
        for held in self.virtuals.values():
            if held.symbol == symbol and held.volume:
                held.factor *= factor
        self.others[symbol] = self.others.get(symbol, Decimal(0)) * factor

    def _take_of_others(self, deal: Deal, volume: Decimal) -> None:
        net, others, costs = self.net(deal.symbol), self.others.get(deal.symbol, Decimal(0)), deal.costs
        sign = 1 if volume > 0 else -1
        closing = min(abs(volume), abs(net)) if volume * net < 0 else Decimal(0)
        left = closing - (min(closing, abs(others)) if others * net > 0 else Decimal(0))
        self.others[deal.symbol] = others + volume - sign * left
        for held in list(self.virtuals.values()):
            if not left:
                return
            if held.symbol == deal.symbol and held.volume * net > 0:
                taken = min(left, abs(held.lots))
                held.apply(deal, sign * taken, costs, self._worth(deal.symbol))
                left, costs = left - taken, Decimal(0)


@dataclass
class Netting:
    """A Terminal over a netting account. A virtual position's id is its magic number.

    `hold_ms`: how long a copy's next close waits for the deals of the last one, unless it was refused; at most twice as
    long while the history is not complete. The books may be
    behind an answer, and on a netting account a second close does not fail with "nothing to close" but closes another
    copy's volume. Longer than the broker's slowest answer.
    """

    terminal: NetTerminal
    is_ours: Callable[[int], bool] = is_copy
    hold_ms: int = 60_000
    clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    _closing: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)
    _behind_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def positions(self) -> list[Position]:
        return [self._position(virtual) for virtual in self._book().virtuals.values() if virtual.volume]

    def deals(self, position: str) -> list[Deal]:
        held = self._book().virtuals.get(int(position))
        return [] if held is None else held.deals

    def was_cancelled(self, position: str) -> bool:
        return False  # a cancelled deal is no part of a virtual position

    def position_under(self, magic: int) -> str:
        return str(magic) if magic in self._book().virtuals else ""

    def trace(self, magic: int) -> Trace:
        held, trace = self._book().virtuals.get(magic), self.terminal.trace(magic)
        return Trace.PENDING if held is not None and held.volume and trace is not Trace.WAITING else trace

    def is_settled(self) -> bool:
        return self.terminal.is_settled()

    def account(self) -> Account:
        return self.terminal.account()

    def quote(self, symbol: str) -> Quote | None:
        return self.terminal.quote(symbol)

    def spec(self, symbol: str) -> SymbolSpec | None:
        """As the terminal's, but without stops."""
        spec = self.terminal.spec(symbol)
        return None if spec is None else replace(spec, has_stops=False)

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        if not self.is_ours(magic):
            raise ValueError(f"{magic} is not a copy's magic: its deals could not be told from other orders")
        return self.terminal.open(magic=magic, symbol=symbol, side=side, volume=volume, sl=None, tp=None)

    def close(self, position: Position, volume: Decimal) -> Result:
        book = self._book()
        held = book.virtuals.get(position.magic)
        if held is None or not held.volume or held.side != position.side:
            return Result(Outcome.REJECTED, 10036, "rejected")
        if self._is_closing(held):
            return Result(Outcome.UNKNOWN)
        if self._is_behind(held.symbol, book.net(held.symbol)):
            return Result(Outcome.REJECTED, 10031, "rejected")
        spec = self.terminal.spec(held.symbol)
        if spec is None:
            return Result(Outcome.REJECTED, 10013, "symbol_unknown")
        lots = abs(held.lots)
        if volume < abs(held.volume):
            lots = volume if held.factor == 1 else spec.lots(volume * held.factor)
        answer = Result(Outcome.REJECTED, 10036, "rejected")
        for number, (named, part) in enumerate(self._closings(held, lots, spec), 1):
            named = named or self._whole_net(held, part)  # a query that fails here has sent nothing to wait for
            self._closing[held.magic] = self.clock_ms(), len(held.orders) + number
            answer = self._send_close(held, named, part)
            if answer.outcome is Outcome.REJECTED:
                self._closing[held.magic] = self.clock_ms(), len(held.orders) + number - 1
            if answer.outcome is not Outcome.DONE:
                return answer
        return answer

    def _closings(self, held: Virtual, lots: Decimal, spec: SymbolSpec) -> list[tuple[Position | None, Decimal]]:
        """The orders that close this much of a copy, and the position that each names, if any."""
        return [(None, part) for part in spec.parts(lots)]

    def _whole_net(self, held: Virtual, lots: Decimal) -> Position | None:
        """The net position, if an order to close these lots closes all of it. Such an order names the position: a
        server closes all of one whatever its present smallest order and step are."""
        net = next((row for row in self.terminal.positions() if row.symbol == held.symbol), None)
        return net if net is not None and net.side == held.side and net.volume == lots else None

    def _send_close(self, held: Virtual, position: Position | None, lots: Decimal) -> Result:
        """Close a part of the copy, by the position that the order names, if it names one."""
        if position is not None:
            return self.terminal.take_off(position, lots, magic=held.magic)
        side = "SELL" if held.volume > 0 else "BUY"
        return self.terminal.open(magic=held.magic, symbol=held.symbol, side=side, volume=lots, sl=None, tp=None)

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        """Do nothing: a virtual position cannot carry a stop."""
        if sl is None and tp is None:
            return Result(Outcome.DONE, 10025)
        return Result(Outcome.REJECTED, 10016, "rejected")

    def cancel(self, magic: int) -> Result:
        """As the terminal's. A copy that is open keeps its orders: one that waits may be its close."""
        held = self._book().virtuals.get(magic)
        if held is not None and held.volume:
            return Result(Outcome.REJECTED, 10013, "rejected")
        return self.terminal.cancel(magic)

    def _is_closing(self, held: Virtual) -> bool:
        """Whether an order of this copy may still be in flight, or its deal still to come."""
        if self.terminal.trace(held.magic) in (Trace.WAITING, Trace.PENDING):
            return True
        sent_ms, orders = self._closing.get(held.magic, (0, 0))
        if len(held.orders) >= orders:
            return False
        waited_ms = self.clock_ms() - sent_ms
        # A broker's history may never count as complete, and the close must not wait for ever.
        return waited_ms < self.hold_ms or (waited_ms < 2 * self.hold_ms and not self.terminal.is_settled())

    def _is_behind(self, symbol: str, net: Decimal) -> bool:
        """Whether the history may still load: it is not complete, and its sum differs from the broker's position.

        Then it may lack the deals by which a copy was closed long ago, and a second close would trade.
        """
        now, rows = self.clock_ms(), [row for row in self.terminal.positions() if row.symbol == symbol]
        shown = sum((row.volume if row.side == "BUY" else -row.volume for row in rows), Decimal(0))
        if shown == net or self.terminal.is_settled():
            self._behind_ms.pop(symbol, None)
            return False
        return now - self._behind_ms.setdefault(symbol, now) < 2 * self.hold_ms

    def _position(self, held: Virtual) -> Position:
        """As a Position; its profit is zero if there is no price."""
        quote, profit = self.terminal.quote(held.symbol), Decimal(0)
        if quote is not None:
            price = quote.of("SELL" if held.volume > 0 else "BUY") * held.factor
            profit = ((price - held.price) * held.volume * self.terminal.worth(held.symbol)).quantize(Decimal("0.01"))
        return Position(
            str(held.magic), held.magic, held.symbol, held.side, abs(held.volume), None, None, held.price,
            held.opened_ms, profit,
        )  # fmt: skip

    def _book(self) -> Book:
        book = book_of(self._renamed(self.terminal.history()), self.terminal.worth, self.is_ours)
        held = {magic for magic, virtual in book.virtuals.items() if virtual.volume}
        self._closing = {magic: sent for magic, sent in self._closing.items() if magic in held}
        return book

    def _renamed(self, deals: list[Deal]) -> list[Deal]:
        """The deals under the present names of their symbols. A broker that renames a symbol leaves its old deals as
        they are, and a close in a symbol that no longer exists would be refused for ever."""
        gone = {symbol for symbol in {deal.symbol for deal in deals} if self.terminal.spec(symbol) is None}
        if not gone:
            return deals
        rows = {row.id: row.symbol for row in self.terminal.positions()}
        names = {deal.symbol: rows[deal.position] for deal in deals if deal.symbol in gone and deal.position in rows}
        return [replace(deal, symbol=names.get(deal.symbol, deal.symbol)) for deal in deals]


def book_of(deals: Iterable[Deal], worth: Callable[[str], Decimal], is_ours: Callable[[int], bool] = is_copy) -> Book:
    book = Book(worth, is_ours)
    for deal in deals:
        book.take(deal)
    return book
