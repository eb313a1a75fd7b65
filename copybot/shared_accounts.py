"""Models of accounts whose positions are shared by copies: a netting account, and one that closes oldest first (FIFO).

An adapter makes virtual positions of their deals, one for each magic number. What a user has is what those amount to.
"""

from dataclasses import dataclass, field, replace
from decimal import Decimal

from copybot.broker import Deal, Entry, Position, Result, Trace
from copybot.faulty_broker import CONTRACT, NO, PRICE, FaultyBroker, other_side
from copybot.netting import Book, book_of

_LONGEST_OPEN = 10  # ticks from the first to the last order of an open


@dataclass
class SharedAccount(FaultyBroker):
    """`ledger`: all deals, oldest first. `sides`: of each copy, by its magic number."""

    ledger: list[Deal] = field(default_factory=list)
    sides: dict[int, str] = field(default_factory=dict)
    _book: tuple[int, Book] | None = None

    def book(self) -> Book:
        if self._book is None or self._book[0] != len(self.ledger):
            self._book = len(self.ledger), book_of(self.ledger, self.worth)
        return self._book[1]

    def truly_held(self) -> dict[str, Position]:
        return {
            str(virtual.magic): Position(
                str(virtual.magic), virtual.magic, virtual.symbol, virtual.side, abs(virtual.volume), None, None,
                virtual.price, virtual.opened_ms,
            )
            for virtual in self.book().virtuals.values()
            if virtual.volume
        }  # fmt: skip

    def history(self) -> list[Deal]:
        self._ask()
        return self._visible("")

    def trace(self, magic: int) -> Trace:
        self._ask()
        if self._is_waiting(magic):
            return Trace.WAITING
        if magic % 2 and any(deal.magic == magic and deal.id in self.hidden for deal in self.ledger):
            return Trace.PENDING  # some brokers show the order without its deal
        return Trace.DONE if any(deal.magic == magic for deal in self._visible("")) else Trace.NONE

    def worth(self, symbol: str) -> Decimal:
        return CONTRACT

    def _count_sent(self, magic: int) -> None:
        if magic not in self.filled:  # a later order closes the copy
            super()._count_sent(magic)

    def _count_trade(self, magic: int, side: str, volume: Decimal) -> None:
        """A further order under one magic number closes the copy, unless it is on the copy's own side."""
        before, own_side = self.truly_held().get(str(magic)), self.sides.setdefault(magic, side)
        if side == own_side and (before is None or before.side == side):
            self._count_open(magic, volume)
        elif before is not None and before.side == own_side:
            self.on_less(before, max(NO, before.volume - volume))

    def _may_hide(self, deal: Deal) -> None:
        """Only a copy's close: without the deals of its open a copy is gone for an adapter that starts anew."""
        held = self.truly_held().get(str(deal.magic))
        if held is not None and held.side == self.sides[deal.magic] != deal.side:
            super()._may_hide(deal)

    def _note(self, deal: Deal) -> None:
        number = f"{self.first + len(self.ledger)}"
        if deal.id in self.hidden:
            self.hidden.remove(deal.id)
            self.hidden.add(number)
        self.ledger.append(replace(deal, id=number, order=number))
        self.books[""], self._last_deal = self.ledger, self.turn
        if self.character.deal_lag:
            self._unseen_deals.append((self.turn + self.character.deal_lag, "", len(self.ledger)))


@dataclass
class FaultyFifo(SharedAccount):
    """A hedging account on which only the oldest position of a symbol and side can be closed.

    An adapter opens a copy by several orders, where it closes positions of the other side first.
    """

    opened_at: dict[int, int] = field(default_factory=dict)

    def take_off(self, position: Position, volume: Decimal, *, magic: int | None = None) -> Result:
        held, number = self.held.get(position.id), position.magic if magic is None else magic
        if held is None:
            return self._order(number, lambda: None, 10036)
        refusal = 10045 if self._is_behind(held) else self._refusal(position.symbol, volume, held.volume)
        return self._order(number, lambda: self._take_off(held.id, self._filled(volume), "MANUAL", number), refusal)

    def _count_open(self, magic: int, volume: Decimal) -> None:
        if self.turn - self.opened_at.setdefault(magic, self.turn) > _LONGEST_OPEN or magic not in self.filled:
            super()._count_open(magic, volume)
        else:
            self.filled[magic] += volume

    def _note_less(self, position: Position, volume: Decimal) -> None:
        self._count_trade(position.magic, other_side(position.side), volume)

    def _put(self, position: Position, deal: Deal | None = None) -> None:
        super()._put(position)
        if deal is not None:
            self._note(deal)


@dataclass
class FaultyNet(SharedAccount):
    """A netting account: one net position a symbol."""

    def positions(self) -> list[Position]:
        self._ask()
        net = self.book().net(self.symbol)
        side = "BUY" if net > 0 else "SELL"
        return [Position("net", 0, self.symbol, side, abs(net), None, None, PRICE, self.now)] if net else []

    def take_off(self, position: Position, volume: Decimal, *, magic: int | None = None) -> Result:
        """Close volume of the net position, all of it whatever the smallest order and the step are now."""
        net = abs(self.book().net(self.symbol))
        number = position.magic if magic is None else magic
        return self._order(
            number,
            lambda: self._fill_net(number, other_side(position.side), volume),
            self._refusal(position.symbol, volume, net),
        )

    def fill(
        self, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Position:
        return self._fill_net(magic, side, volume)

    def _fill_net(self, magic: int, side: str, volume: Decimal) -> Position:
        self._count_trade(magic, side, volume)
        filled = Position(str(magic), magic, self.symbol, side, volume, None, None, PRICE, self.now)
        deal = self._deal(filled, Entry.IN, volume, "MANUAL")
        self._may_hide(deal)
        self._note(deal)
        return filled

    def _stop_out(self) -> None:
        net = self.book().net(self.symbol)
        if net:
            side = "SELL" if net > 0 else "BUY"
            taken = Position("", 0, self.symbol, other_side(side), abs(net), None, None, PRICE, self.now)
            self._note(self._deal(taken, Entry.OUT, abs(net), "STOP_OUT"))
