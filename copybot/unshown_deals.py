"""Deals of a shared account that its broker does not show, by what its net position lacks. It asks no terminal.

The deals of a netting or FIFO account say how much of each copy is open, and add up to the net position. Where the two
differ by more than the orders under way, no deal is certain: a close may have been executed already, and sent again it
would trade. Deals and position agree within seconds. If they differ for longer than a bounded time, a deal is missing
for good, and is assumed: an order that was answered DONE, else an order without an answer, else a close that is wanted
(an earlier process may have sent it), else an order of somebody else.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import combinations

from copybot.broker import RECONCILED, Deal, Entry

_ZERO = Decimal(0)
_MOST_AT_ONCE, _MOST_FRESH = 3, 10


@dataclass(slots=True)
class Sent:
    """An order of a copy whose deal is not shown yet. `entry`: whether it opens or closes. `lots`: negative for a SELL.
    `price`: when it was sent. `after`: the number of the last deal at that time."""

    magic: int
    symbol: str
    entry: Entry
    lots: Decimal
    at_ms: int
    price: Decimal
    after: str
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """By how many lots the net position is above the deals (negative: below). `since_ms`: since when they differ.
    `same_ms`: since when by this much. `price`, `after`: of an order that would explain it, as it was first seen."""

    lots: Decimal
    since_ms: int
    same_ms: int
    price: Decimal
    after: str


@dataclass(slots=True)
class OpenCopy:
    """What a copy has open by its deals: lots, negative for a SELL."""

    magic: int
    lots: Decimal


@dataclass
class UnshownDeals:
    """`hold_ms`: how long a deal may take to be shown. `wanted`: the volumes of the closes that are held back, by copy.
    `assumed`: the assumed deals by the number of the deal that they follow."""

    hold_ms: int
    sent: list[Sent] = field(default_factory=list)
    wanted: dict[int, Decimal] = field(default_factory=dict)
    assumed: dict[str, list[Deal]] = field(default_factory=dict)
    _known: dict[int, set[str]] = field(default_factory=dict)
    _gaps: dict[str, Gap] = field(default_factory=dict)

    # --- orders of this process

    def match(self, magic: int, orders: Mapping[str, Decimal]) -> None:
        """Take the orders of a copy that have deals, and their lots."""
        known = self._known.setdefault(magic, set())
        for order in [order for order in orders if order not in known]:
            known.add(order)
            own = [sent for sent in self.sent if sent.magic == magic and sent.lots * orders[order] > 0]
            if own:
                self.sent.remove(max(own, key=lambda sent: (sent.lots == orders[order], sent.is_done)))

    def is_awaited(self, magic: int, now: int, is_settled: Callable[[], bool]) -> bool:
        """Whether the deal of an order of this copy may still come."""
        return any(sent.magic == magic and not self._is_over(sent.at_ms, now, is_settled) for sent in self.sent)

    def _is_over(self, since_ms: int, now: int, is_settled: Callable[[], bool]) -> bool:
        """Whether a wait is over. A broker's history may never count as complete, and no wait must last for ever."""
        waited_ms = now - since_ms
        return waited_ms >= self.hold_ms and (waited_ms >= 2 * self.hold_ms or is_settled())

    # --- the difference between positions and deals

    def unexplained(self, symbol: str, gap: Decimal, now: int) -> Decimal:
        """The part of a difference that no order of this process explains: one that was sent a short time ago may have
        been executed or not, later only one that was answered DONE."""
        own = [sent for sent in self.sent if sent.symbol == symbol]
        fresh = [sent.lots for sent in own if now - sent.at_ms < self.hold_ms // 2]
        sums = {sum((sent.lots for sent in own if sent.is_done and now - sent.at_ms >= self.hold_ms // 2), _ZERO)}
        for lots in fresh[-_MOST_FRESH:]:
            sums |= {lots + others for others in sums}
        return min((gap - lots for lots in sums), key=abs)

    def see(self, symbol: str, lots: Decimal, now: int, price: Callable[[], Decimal], after: str) -> Gap | None:
        """Take the present difference; None if there is none. Then an old order without an answer was not executed."""
        last = self._gaps.pop(symbol, None)
        if not lots:
            old_ms = now - 2 * self.hold_ms
            self.sent = [sent for sent in self.sent if sent.symbol != symbol or sent.is_done or sent.at_ms > old_ms]
            return None
        if last is None or last.same_ms > now:
            last = Gap(lots, now, now, price(), after)
        elif last.lots != lots:
            last = replace(last, lots=lots, same_ms=now, after=after)
        self._gaps[symbol] = last
        return last

    def forget_all_but(self, symbols: Collection[str]) -> None:
        """Begin anew with symbols of which there is no copy now."""
        self._gaps = {symbol: gap for symbol, gap in self._gaps.items() if symbol in symbols}

    def is_lasting(self, gap: Gap, now: int, is_settled: Callable[[], bool]) -> bool:
        is_steady = now - gap.same_ms >= self.hold_ms // 2 or now - gap.since_ms >= 2 * self.hold_ms
        return is_steady and self._is_over(gap.since_ms, now, is_settled)

    # --- the deals that are assumed

    def symbols(self) -> set[str]:
        """The symbols of which a deal is assumed or may have to be."""
        assumed = {deal.symbol for deals in self.assumed.values() for deal in deals}
        return assumed | {sent.symbol for sent in self.sent if sent.is_done}

    def has_assumed(self, magic: int) -> bool:
        return any(deal.magic == magic for deals in self.assumed.values() for deal in deals)

    def replace(self, after: str, deal: Deal, volume: Decimal) -> None:
        """Change an assumed deal to this volume, or drop it."""
        if volume != deal.volume:
            self.assumed[after] = [
                replace(each, volume=volume) if each is deal else each
                for each in self.assumed[after]
                if volume or each is not deal
            ]

    def done_after(self, last: str) -> list[Deal]:
        """The orders that were answered DONE and sent after this deal, as the deals that are to be expected."""
        return [
            _deal("", sent.entry, sent.magic, sent.symbol, sent.lots, sent.price)
            for sent in self.sent
            if sent.is_done and sent.after == last
        ]

    def overdue(self, symbol: str, before_ms: int) -> list[Sent]:
        """The orders that were answered DONE so long ago that their deals will not be shown any more."""
        return [sent for sent in self.sent if sent.symbol == symbol and sent.is_done and sent.at_ms <= before_ms]

    def assume_done(self, sent: Sent, remaining: Decimal) -> None:
        """Assume the deal of an order that was answered DONE. `remaining`: of its copy after it."""
        self.sent.remove(sent)
        self._assume(sent.symbol, sent.magic, remaining, sent.lots, sent, sent.entry)

    def conclude(
        self, symbol: str, gap: Gap, copies: list[OpenCopy], others: Decimal, has_order: Collection[int]
    ) -> None:
        """Assume the deals that make up a lasting difference, or take back assumed ones that it contradicts.

        `copies`: of the symbol, the oldest first. `others`: the volume of no copy. `has_order`: the copies of which
        the broker shows an order without a deal.
        """
        likely = list(self._likely(copies, has_order))
        exact = next((some for some in _some_of(likely) if sum(lots for _, lots in some) == gap.lots), None)
        if exact is not None:
            for copy, lots in exact:
                self._close(symbol, copy, lots, gap)
        else:
            left = self._taken_back(symbol, gap.lots)
            for copy, lots in likely:
                left -= self._close(symbol, copy, _least(lots, left), gap)
            for copy, lots in _oldest_first(copies, others, left):
                left -= self._close(symbol, copy, _least(lots, left), gap)
            if left:
                self._assume(symbol, 0, _ZERO, left, gap)
        self._gaps.pop(symbol, None)

    def _likely(self, copies: list[OpenCopy], has_order: Collection[int]) -> Iterator[tuple[OpenCopy, Decimal]]:
        """The orders of ours that may have been executed, the likeliest first: by copy, with their lots."""
        by_magic = {copy.magic: copy for copy in copies}
        wanted = {magic: volume for magic, volume in self.wanted.items() if magic in by_magic}
        for sent in self.sent:
            if sent.magic in by_magic and by_magic[sent.magic].lots * sent.lots < 0 and not sent.is_done:
                yield by_magic[sent.magic], sent.lots
                wanted.pop(sent.magic, None)
        for magic in sorted(wanted, key=lambda magic: magic not in has_order):
            yield by_magic[magic], -wanted[magic] if by_magic[magic].lots > 0 else wanted[magic]

    def _close(self, symbol: str, copy: OpenCopy, lots: Decimal, gap: Gap) -> Decimal:
        """Close these lots of a copy, at most all of it. Returns the lots closed."""
        if copy.lots * lots >= 0:
            return _ZERO
        lots = _least(lots, -copy.lots)
        for sent in [sent for sent in self.sent if sent.magic == copy.magic and not sent.is_done][:1]:
            self.sent.remove(sent)
        copy.lots += lots
        self._assume(symbol, copy.magic, copy.lots, lots, gap)
        return lots

    def _taken_back(self, symbol: str, left: Decimal) -> Decimal:
        """Drop what contradicts the difference: of the orders that were answered DONE, which may have been filled in
        part, and of the assumed deals. Returns what is left of it."""
        against = [sent for sent in self.sent if sent.symbol == symbol and sent.is_done and sent.lots * left < 0]
        for sent in sorted(against, key=lambda sent: sent.lots != -left):
            taken = _least(sent.lots, -left)
            sent.lots, left = sent.lots - taken, left + taken
            if not sent.lots:
                self.sent.remove(sent)
        for after, deals in list(self.assumed.items()):
            for deal in reversed(deals):
                if deal.symbol == symbol and signed(deal) * left < 0:
                    taken = min(deal.volume, abs(left))
                    left += signed(replace(deal, volume=taken))
                    self.replace(after, deal, deal.volume - taken)
        return left

    def _assume(
        self, symbol: str, magic: int, remaining: Decimal, lots: Decimal, at: Sent | Gap, entry: Entry = Entry.OUT
    ) -> None:
        number = f"{magic}-{abs(remaining):.8f}"
        deal = _deal(number, entry, magic, symbol, lots, at.price)
        self.assumed.setdefault(at.after, []).append(deal)


def _deal(number: str, entry: Entry, magic: int, symbol: str, lots: Decimal, price: Decimal) -> Deal:
    side = "BUY" if lots > 0 else "SELL"
    return Deal(number, number, str(magic), entry, magic, symbol, side, abs(lots), price, _ZERO, 0, RECONCILED)


def signed(deal: Deal) -> Decimal:
    """A deal's lots, negative for a SELL."""
    return deal.volume if deal.side == "BUY" else -deal.volume


def _least(lots: Decimal, other: Decimal) -> Decimal:
    """The smaller of two volumes on the same side; zero if they are on different ones."""
    return min(lots, other, key=abs) if lots * other > 0 else _ZERO


def _some_of(likely: list[tuple[OpenCopy, Decimal]]) -> Iterator[tuple[tuple[OpenCopy, Decimal], ...]]:
    """Up to three of these orders at a time: each by itself first."""
    for count in range(1, _MOST_AT_ONCE + 1):
        yield from combinations(likely, count)


def _oldest_first(copies: list[OpenCopy], others: Decimal, left: Decimal) -> Iterator[tuple[OpenCopy, Decimal]]:
    """The copies that an order of somebody else takes volume off: none as far as there is other volume on that side.
    What is not a copy's is nobody's to close, so a copy is preferred, whatever the net position is."""
    most = abs(left) - (abs(others) if others * left < 0 else _ZERO)
    for copy in copies:
        if most > 0 and copy.lots * left < 0:
            lots = min(most, abs(copy.lots))
            most -= lots
            yield copy, -lots if copy.lots > 0 else lots
