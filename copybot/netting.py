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
- A deal that the broker never shows is assumed by one process. The next one does so again, after the same wait. In the
  meantime the copy that it closed shows as open, and is not closed again.
- After a broker has raised its smallest order or its step, a copy that is off the step closes only with the last of the
  net position: the server takes such a volume only as all that is left.

Other orders (by hand, say) and the broker's own deals (a stop-out) change the net position. As far as they make it
smaller, they close volume that is not a copy's first, then copies on that side, the oldest first. If an order closes
too much, because its answer was lost and it was executed twice, a virtual position on the other side remains under the
same magic number, and the guard goes on closing until it is gone.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Protocol

from copybot.broker import REBOOKED, Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Terminal, Trace
from copybot.unshown_deals import Gap, OpenCopy, Sent, UnshownDeals, signed

log = logging.getLogger(__name__)

_UNIT = Decimal("1e-8")
_SPLIT_MS = 600_000
_BY_BROKER = frozenset({"STOP_OUT", "TP", "SL"})


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
    broker's lots for one lot of it, other than 1 after a split. `orders`: the lots of its orders that have deals.
    `costs`: charges of bookings, not yet in a deal."""

    magic: int
    symbol: str
    opened_ms: int
    volume: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    factor: Decimal = Decimal(1)
    costs: Decimal = Decimal(0)
    deals: list[Deal] = field(default_factory=list)
    orders: dict[str, Decimal] = field(default_factory=dict)

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
        volume = signed(deal)
        if deal.reason in REBOOKED:
            self._rebook(deal)
        elif self._is_ours(deal.magic) and deal.reason == "MANUAL":
            held = self.virtuals.setdefault(deal.magic, Virtual(deal.magic, deal.symbol, deal.at_ms))
            held.orders[deal.order] = held.orders.get(deal.order, Decimal(0)) + volume
            held.apply(deal, volume, deal.costs, self._worth(deal.symbol))
        else:
            self._take_of_others(deal, volume)

    def assume(self, deal: Deal) -> Decimal:
        """Apply a deal that the broker does not show, as far as there still is something that it closes. Returns the
        volume applied."""
        lots, held = signed(deal), self.virtuals.get(deal.magic)
        if deal.entry is Entry.IN and deal.magic:
            held = self.virtuals.setdefault(deal.magic, Virtual(deal.magic, deal.symbol, deal.at_ms))
            held.apply(deal, lots, Decimal(0), self._worth(deal.symbol))
        elif not deal.magic:
            self.others[deal.symbol] = self.others.get(deal.symbol, Decimal(0)) + lots
        elif held is None or held.lots * lots >= 0:
            return Decimal(0)
        else:
            lots = max(lots, -held.lots) if lots < 0 else min(lots, -held.lots)
            held.apply(replace(deal, volume=abs(lots)), lots, Decimal(0), self._worth(deal.symbol))
        return abs(lots)

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
        # The broker itself opens nothing: if its deal closes more than there seems to be, a deal before it is missing.
        net = -volume if deal.reason in _BY_BROKER else self.net(deal.symbol)
        others, costs = self.others.get(deal.symbol, Decimal(0)), deal.costs
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

    `hold_ms`: how long a copy's next close waits for the deals of the last one, unless it was refused, and any close
    for deals that do not add up to the net position; at most twice as long while the history is not complete. The books
    may be behind an answer, and on a netting account a second close does not fail with "nothing to close" but closes
    another copy's volume. Longer than the broker's slowest answer. After that `unshown_deals` assumes what is missing.
    """

    terminal: NetTerminal
    is_ours: Callable[[int], bool] = is_copy
    hold_ms: int = 60_000
    clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    _pending_ms: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    _last: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        self._unshown = UnshownDeals(self.hold_ms)

    def positions(self) -> list[Position]:
        return [self._position(virtual) for virtual in self._compared().virtuals.values() if virtual.volume]

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
        return self._tell_order(
            magic, symbol, volume if side == "BUY" else -volume, Entry.IN,
            lambda: self.terminal.open(magic=magic, symbol=symbol, side=side, volume=volume, sl=None, tp=None),
        )  # fmt: skip

    def close(self, position: Position, volume: Decimal) -> Result:
        book = self._compared()
        held = book.virtuals.get(position.magic)
        if held is None or not held.volume or held.side != position.side:
            return Result(Outcome.REJECTED, 10036, "rejected")
        spec = self.terminal.spec(held.symbol)
        if spec is None:
            return Result(Outcome.REJECTED, 10013, "symbol_unknown")
        lots = abs(held.lots)
        if volume < abs(held.volume):
            lots = volume if held.factor == 1 else spec.lots(volume * held.factor)
        self._unshown.wanted[held.magic] = lots
        if self._is_closing(held):
            return Result(Outcome.UNKNOWN)
        if self._doubt(book, held.symbol, self.terminal.positions()) or self._is_less(held):
            return Result(Outcome.REJECTED, 10031, "rejected")
        del self._unshown.wanted[held.magic]
        return self._close_in_parts(held, self._closings(held, lots, spec))

    def _close_in_parts(self, held: Virtual, parts: list[tuple[Position | None, Decimal]]) -> Result:
        answer = Result(Outcome.REJECTED, 10036, "rejected")
        for named, part in parts:
            named = named or self._whole_net(held, part)  # a query that fails here has sent nothing to wait for
            answer = self._tell_order(
                held.magic, held.symbol, -part if held.volume > 0 else part, Entry.OUT,
                partial(self._send_close, held, named, part),
            )  # fmt: skip
            if answer.outcome is not Outcome.DONE:
                return answer
        return answer

    def _tell_order(self, magic: int, symbol: str, lots: Decimal, entry: Entry, send: Callable[[], Result]) -> Result:
        """Send an order of a copy, and remember it until its deal is shown. `lots`: negative for a SELL."""
        sent = Sent(magic, symbol, entry, lots, self.clock_ms(), self._price(symbol, lots), self._last)
        self._unshown.sent.append(sent)
        answer = send()
        sent.is_done = answer.outcome is Outcome.DONE
        if answer.outcome is Outcome.REJECTED:
            self._unshown.sent.remove(sent)
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
        """Whether an order of this copy may still be in flight, or its deal still to come. A deal that never comes ends
        the wait: what it did shows in the net position."""
        now, trace = self.clock_ms(), self.terminal.trace(held.magic)
        if trace is Trace.WAITING:
            return True
        if trace is not Trace.PENDING or self._unshown.has_assumed(held.magic):
            self._pending_ms.pop(held.magic, None)
        elif now - self._pending_ms.setdefault(held.magic, now) < 2 * self.hold_ms:
            return True
        return self._unshown.is_awaited(held.magic, now, self.terminal.is_settled)

    # --- deals that the broker does not show

    def _is_less(self, held: Virtual) -> bool:
        """Whether less of a copy is open than its deals show, once the deals of all orders answered DONE are there: how
        much a stop-out took off it depends on what was closed before."""
        if not any(sent.is_done for sent in self._unshown.sent):
            return False
        return abs(_lots(self._book(expects_done=True), held.magic)) < abs(held.lots)

    def _doubt(self, book: Book, symbol: str, rows: Iterable[Position]) -> Decimal:
        """The lots by which deals and net position differ, beyond the orders under way if the history is complete. As
        long as there are any, a close may be executed already."""
        gap = self._gap(book, symbol, rows)
        if not (gap or self._unshown.sent) or not self.terminal.is_settled():
            return gap
        return self._unshown.unexplained(symbol, gap, self.clock_ms())

    def _gap(self, book: Book, symbol: str, rows: Iterable[Position]) -> Decimal:
        """By how many lots the net position is above the deals."""
        lots = (row.volume if row.side == "BUY" else -row.volume for row in rows if row.symbol == symbol)
        gap = sum(lots, Decimal(0)) - book.net(symbol)
        spec = self.terminal.spec(symbol)
        least = _UNIT if spec is None else spec.volume_step  # a split rounds
        return gap if abs(gap) >= least else Decimal(0)

    def _compared(self) -> Book:
        """The book, after the deals that have been missing for too long were assumed."""
        book, now, unshown = self._book(), self.clock_ms(), self._unshown
        unshown.wanted = {magic: lots for magic, lots in unshown.wanted.items() if _lots(book, magic)}
        symbols = {held.symbol for held in book.virtuals.values() if held.volume} | unshown.symbols()
        unshown.forget_all_but(symbols)
        rows = self.terminal.positions() if symbols else []
        for symbol in symbols:
            lots = self._doubt(book, symbol, rows)
            gap = unshown.see(symbol, lots, now, partial(self._price, symbol, lots), self._last)
            is_due = gap is None or unshown.is_lasting(gap, now, self.terminal.is_settled)
            if is_due and self._assume(book, symbol, gap, rows):
                book = self._book()
        return book

    def _assume(self, book: Book, symbol: str, gap: Gap | None, rows: Iterable[Position]) -> bool:
        """Assume the deals of a lasting difference, or of the orders that were answered DONE if there is none. Whether
        there were any."""
        wait_ms = self.hold_ms if self.terminal.is_settled() else 2 * self.hold_ms
        overdue = self._unshown.overdue(symbol, self.clock_ms() - wait_ms)
        if not (gap or overdue) or not self.terminal.account().is_connected:
            return False
        left = self._unshown.unexplained(symbol, self._gap(book, symbol, rows), self.clock_ms())
        if left and gap is not None:
            self._conclude(book, symbol, replace(gap, lots=left))
        for sent in () if left else overdue:
            self._unshown.assume_done(sent, _lots(self._book(), sent.magic) + sent.lots)
        return True

    def _conclude(self, book: Book, symbol: str, gap: Gap) -> None:
        log.warning("the deals of %s do not add up to its position: %s lots are assumed", symbol, gap.lots)
        held = [held for held in book.virtuals.values() if held.symbol == symbol and held.volume]
        has_order = {copy.magic for copy in held if self.terminal.trace(copy.magic) is Trace.PENDING}
        copies = [OpenCopy(copy.magic, copy.lots) for copy in held]
        self._unshown.conclude(symbol, gap, copies, book.others.get(symbol, Decimal(0)), has_order)

    def _price(self, symbol: str, lots: Decimal) -> Decimal:
        """At which an order of these lots would be executed now, or the last one was."""
        with suppress(Exception):  # a close at another price is better than none
            if quote := self.terminal.quote(symbol):
                return quote.of("BUY" if lots > 0 else "SELL")
        prices = (deal.price for deal in reversed(self.terminal.history()) if deal.symbol == symbol)
        return next(prices, Decimal(0))

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

    def _book(self, *, expects_done: bool = False) -> Book:
        """The book after the deals that are shown or assumed. `expects_done`: and after those that are to come."""
        book, self._last = Book(self.terminal.worth, self.is_ours), ""
        self._take_assumed(book, expects_done)
        for deal in self._renamed(self.terminal.history()):
            book.take(deal)
            self._last = deal.id
            self._take_assumed(book, expects_done)
        for held in book.virtuals.values():
            self._unshown.match(held.magic, held.orders)
        return book

    def _take_assumed(self, book: Book, expects_done: bool) -> None:
        """Apply the assumed deals that follow the last one, and forget those that closed nothing."""
        for deal in self._unshown.assumed.get(self._last, ()):
            self._unshown.replace(self._last, deal, book.assume(deal))
        for deal in self._unshown.done_after(self._last) if expects_done else ():
            book.assume(deal)

    def _renamed(self, deals: list[Deal]) -> list[Deal]:
        """The deals under the present names of their symbols. A broker that renames a symbol leaves its old deals as
        they are, and a close in a symbol that no longer exists would be refused for ever."""
        gone = {symbol for symbol in {deal.symbol for deal in deals} if self.terminal.spec(symbol) is None}
        if not gone:
            return deals
        rows = {row.id: row.symbol for row in self.terminal.positions()}
        names = {deal.symbol: rows[deal.position] for deal in deals if deal.symbol in gone and deal.position in rows}
        return [replace(deal, symbol=names.get(deal.symbol, deal.symbol)) for deal in deals]


def _lots(book: Book, magic: int) -> Decimal:
    held = book.virtuals.get(magic)
    return Decimal(0) if held is None else held.lots


def book_of(deals: Iterable[Deal], worth: Callable[[str], Decimal], is_ours: Callable[[int], bool] = is_copy) -> Book:
    book = Book(worth, is_ours)
    for deal in deals:
        book.take(deal)
    return book
