"""Positions whose deals the broker does not show: how long to wait for them, and what to report after that.

A broker may never show a closing deal, drop old opening deals from its history, or cancel deals. Then the list of open
positions, the deals that exist and a price must do, so that no copy stays open for ever.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from copybot.assumed_trades import Assumption, assumed_end, by_list, by_position, cancelled, closings
from copybot.broker import Deal, Position, Terminal
from copybot.deals import DealsIncomplete, Trade, trades_of

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

_ZERO = Decimal(0)
_LONGEST_STEP_MS = 5_000  # a machine that slept was not watching meanwhile
_GAP_MS = 60_000


@dataclass(frozen=True)
class DealHistory:
    """The deals of an account's trades. `position_of`: the position that an order opened or increased."""

    terminal: Terminal
    position_of: Callable[[str], str]

    def deals(self, ticket: str) -> list[Deal]:
        """The deals of a position, or of the one that an order increased."""
        if deals := self.terminal.deals(ticket):
            return deals
        position = self.position_of(ticket)
        return [] if position == ticket else self.terminal.deals(position)

    def trades(self, ticket: str) -> list[Trade]:
        """The trades of a position; empty if its deals cannot be read, so that the other positions go on."""
        try:
            return trades_of(self.deals(ticket))
        except DealsIncomplete:
            return []
        except Exception as fault:
            log.warning("deals of %s: %s", ticket, fault)
            return []


@dataclass(slots=True)
class Wait:
    """`price`: at which the position could have been closed when its deals were first missed, if there was one."""

    waited_ms: int
    last_ms: int
    price: Decimal | None = None


@dataclass
class Waits:
    """How long deals have been missing, by ticket, while the terminal stayed connected. In memory only: after a restart
    each wait begins anew."""

    longest_ms: int
    _waits: dict[str, Wait] = field(default_factory=dict, init=False)

    def __bool__(self) -> bool:
        return bool(self._waits)

    def go_on(self, ticket: str, now: int) -> Wait:
        """Begin a wait, or add the time since the last call to it."""
        wait = self._waits.setdefault(ticket, Wait(0, now))
        wait.waited_ms += max(0, min(now - wait.last_ms, _LONGEST_STEP_MS))
        wait.last_ms = now
        return wait

    def is_over(self, wait: Wait) -> bool:
        return wait.waited_ms >= self.longest_ms

    def end(self, tickets: Iterable[str]) -> None:
        for ticket in tickets:
            self._waits.pop(ticket, None)

    def tidy(self, now: int, *, is_connected: bool) -> None:
        """Forget waits that did not go on lately, and all of them after a lost connection."""
        kept = self._waits.items() if is_connected else ()
        self._waits = {ticket: wait for ticket, wait in kept if now - wait.last_ms <= _GAP_MS}


@dataclass
class MissingDeals:
    """Trades by the list of positions and a price, where deals are missing. `is_of_copies`: each trade has a position
    of its own, also on a netting account."""

    history: DealHistory
    waits: Waits
    is_of_copies: bool
    _open: dict[str, Position] = field(default_factory=dict, init=False)
    _last: dict[str, Position] = field(default_factory=dict, init=False)
    _homes: dict[str, str] = field(default_factory=dict, init=False)
    _is_hedging: bool | None = field(default=None, init=False)

    @property
    def terminal(self) -> Terminal:
        return self.history.terminal

    def see(self, positions: Iterable[Position], now: int) -> None:
        """Take the present list of open positions."""
        self._open = {position.id: position for position in positions}
        self._last |= self._open
        self.waits.end(self._open)
        if self.waits:
            self.waits.tidy(now, is_connected=self.is_connected())

    def place(self, ticket: str, position: str) -> None:
        """Remember which position a trade is part of, by deals that add up."""
        self._homes[ticket] = position
        self.waits.end([_open(position)])

    def tidy(self, tickets: Iterable[str]) -> None:
        """Forget all trades but these."""
        self._homes = {ticket: self._homes[ticket] for ticket in tickets if ticket in self._homes}
        known = {*tickets, *self._homes.values()}
        self._last = {number: position for number, position in self._last.items() if number in known}

    def is_connected(self) -> bool:
        with suppress(Exception):
            return self.terminal.account().is_connected
        return False

    # --- positions that have gone

    def ended(self, row: Row, now: int) -> Trade | None:
        """A row's trade as ended; None while its position may be open, or its deals may still come."""
        if self._may_be_open(row):
            return None
        wait = self._wait_over(row["ticket_id"], row["symbol"], row["type"], now)
        return None if wait is None else self._assumed(row, wait)

    def ended_unseen(self, ticket: str, now: int, known: Row | None) -> list[Trade]:
        """The trades of a position that was never at the desk, as ended; empty while its deals may still come.

        `known`: the row that the desk would have by what else is known; without it, deals must show the opening.
        """
        trades = self.history.trades(ticket)
        if ticket in self._open or not (trades or known):
            return []
        symbol, side = (known["symbol"], known["type"]) if known else (trades[0].symbol, trades[0].side)
        wait = self._wait_over(ticket, symbol, side, now)
        if wait is None:
            return []
        if known and not trades:
            ended = self._assumed(known, wait)
            return [] if ended is None else [ended]
        last = next((trade.parts[-1].price for trade in reversed(trades) if trade.parts), wait.price)
        return [assumed_end(trade, Assumption(trade.price if last is None else last, None)) for trade in trades]

    def _may_be_open(self, row: Row) -> bool:
        """Whether a trade may be part of an open position under another number, as on a netting account."""
        if self._homes.get(row["ticket_id"], "") in self._open:
            return True
        return self._nets() and any(position.symbol == row["symbol"] for position in self._open.values())

    def _wait_over(self, ticket: str, symbol: str, side: str, now: int) -> Wait | None:
        wait = self.waits.go_on(ticket, now)
        if wait.price is None:
            wait.price = self._closing_price(symbol, side)
        return wait if self.waits.is_over(wait) else None

    def _assumed(self, row: Row, wait: Wait) -> Trade | None:
        try:
            return self._assumed_end(row, wait)
        except Exception as fault:  # deals that cannot be read are not missing
            log.warning("deals of %s: %s", row["ticket_id"], fault)
            return None

    def _assumed_end(self, row: Row, wait: Wait) -> Trade:
        ticket: str = row["ticket_id"]
        with suppress(Exception):
            if self.terminal.was_cancelled(ticket):
                return cancelled(row)
        closed_by = closings(self.history.deals(ticket), row["type"])
        assumption = self._assumption(row, closed_by, wait.price, self._last.get(self._homes.get(ticket, ticket)))
        for trade in self.history.trades(ticket):
            if trade.ticket == ticket and trade.remaining and trade.volume >= Decimal(row["volume"]):
                return assumed_end(trade, assumption)
        return by_list(row, _ZERO, [] if self._nets() else closed_by, assumption)

    # --- open positions

    def rows_of(self, position: Position, rows: Mapping[str, Row]) -> list[Row]:
        """The rows of an open position, the oldest first."""
        nets = self._nets()
        return [
            row for ticket, row in rows.items() if ticket == position.id or (nets and row["symbol"] == position.symbol)
        ]

    def unreported(self, position: Position, now: int) -> Trade | None:
        """An open copy that has no row, as a trade; None while its deals may still come.

        Its opening deal says with which volume it was opened, if there is one; else the list of positions must do. A
        provider's trade is not published that late, without its deals: its copies would get another price.
        """
        if not (self.is_of_copies and self.waits.is_over(self.waits.go_on(_open(position.id), now))):
            return None
        opened = (trade for trade in self.history.trades(position.id) if trade.side == position.side)
        return next((trade for trade in opened if trade.volume >= position.volume), by_position(position))

    def shrunk(self, position: Position, rows: Sequence[Row], now: int) -> list[Trade] | None:
        """The trades of an open position that are smaller than their rows, or over; None while deals may still come.

        What the position has lost was taken off the oldest trade first, and off all trades of the other side. There is
        no wait where only the opening deal is missing, and closing deals explain what has gone.
        """
        is_over = self.waits.is_over(self.waits.go_on(_open(position.id), now))
        try:
            if not is_over and self.history.trades(position.id):
                return None
            trades = list(self._all_shrunk(position, rows))
            return trades if is_over else [trade for trade in trades if not _is_assumed(trade)] or None
        except Exception as fault:  # deals that cannot be read are not missing
            log.warning("deals of %s: %s", position.id, fault)
            return None

    def _all_shrunk(self, position: Position, rows: Sequence[Row]) -> Iterator[Trade]:
        left = position.volume
        for row in reversed(rows):
            volume = Decimal(row["volume"])
            remaining = min(left, volume) if row["type"] == position.side else _ZERO
            left -= remaining
            if remaining < volume:
                yield self._shrunk(row, remaining, position)

    def _shrunk(self, row: Row, remaining: Decimal, position: Position) -> Trade:
        closed_by = closings(self.history.deals(position.id), row["type"])
        price = None if closed_by else self._closing_price(row["symbol"], row["type"])
        assumption = self._assumption(row, closed_by, price, position)
        return by_list(row, remaining, [] if self._nets() else closed_by, assumption)

    def _assumption(
        self, row: Row, closed_by: Sequence[Deal], price: Decimal | None, last: Position | None
    ) -> Assumption:
        """By the last closing deal, else a price, else the open price."""
        if closed_by:
            price = closed_by[-1].price
        return Assumption.of(Decimal(row["open_price"]) if price is None else price, last)

    def _closing_price(self, symbol: str, side: str) -> Decimal | None:
        with suppress(Exception):  # a close at another price is better than none
            if quote := self.terminal.quote(symbol):
                return quote.of("SELL" if side == "BUY" else "BUY")
        return None

    def _nets(self) -> bool:
        """Whether all trades of a symbol are one position."""
        if self._is_hedging is None:
            self._is_hedging = self.is_of_copies or self.terminal.account().is_hedging
        return not self._is_hedging


def _is_assumed(trade: Trade) -> bool:
    return any(part.note for part in trade.parts)


def _open(position: str) -> str:
    """The name of the wait for the deals of a position that is still open."""
    return f"open {position}"
