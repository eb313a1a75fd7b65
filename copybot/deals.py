"""Reads the trades of a position out of a broker's deals: how each was opened, reduced and closed. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from copybot.broker import RECONCILED, Deal, Entry
from copybot.magic import index_of

_UNIT = Decimal("0.00000001")


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a trade that one deal closed. `remaining`: the lots still open afterwards. `note`: what is not known
    about it, empty if the deal shows all."""

    deal: str
    remaining: Decimal
    price: Decimal
    profit: Decimal
    at_ms: int
    reason: str
    note: str = ""


@dataclass(slots=True)
class Trade:
    """The share of a position that one order opened, from its deals alone. `costs`: what the opening deals charged.
    `magic`: that order's. `note`: what is not known about its opening."""

    ticket: str
    position: str
    order: str
    symbol: str
    side: str
    volume: Decimal
    price: Decimal
    opened_ms: int
    costs: Decimal
    remaining: Decimal
    parts: list[Part] = field(default_factory=list)
    magic: int = 0
    note: str = ""


class DealsIncomplete(Exception):
    """The deals close more than they opened: some are missing."""


def trades_of(deals: Iterable[Deal]) -> list[Trade]:
    """The trades of one position, in the order in which they were opened.

    On a hedging account there is one. On a netting account each order that increases the position is its own trade:
    the first has the position's number as its ticket, later ones their order's. Closing deals close the oldest trade
    first (a copy's deal that copy, other deals the trades that are no copies), a reversal closes all of them and opens
    another. Raises DealsIncomplete.
    """
    trades: list[Trade] = []
    for deal in deals:
        if deal.entry is Entry.IN:
            _add(trades, deal)
        else:
            _take_off(trades, deal)
    return trades


def _add(trades: list[Trade], deal: Deal) -> None:
    filled = next((trade for trade in trades if trade.order == deal.order and trade.side == deal.side), None)
    if filled is None:
        ticket = deal.order if trades else deal.position
        trades.append(
            Trade(ticket, deal.position, deal.order, deal.symbol, deal.side, deal.volume, deal.price, deal.at_ms,
                  deal.profit, deal.volume, magic=deal.magic, note=_note_of(deal))
        )  # fmt: skip
        return
    volume = filled.volume + deal.volume
    filled.price = ((filled.price * filled.volume + deal.price * deal.volume) / volume).quantize(_UNIT)
    filled.volume, filled.remaining = volume, filled.remaining + deal.volume
    filled.costs += deal.profit
    filled.note = filled.note or _note_of(deal)


def _take_off(trades: list[Trade], deal: Deal) -> None:
    left, unshared = deal.volume, deal.profit
    for trade in sorted(trades, key=lambda trade: not _is_of_one_bot(trade, deal)):
        taken = min(left, trade.remaining)
        if not taken:
            continue
        left -= taken
        profit = (deal.profit * taken / deal.volume).quantize(_UNIT) if left else unshared
        unshared -= profit
        trade.remaining -= taken
        if not trade.remaining:
            profit += trade.costs
        trade.parts.append(Part(deal.id, trade.remaining, deal.price, profit, deal.at_ms, deal.reason, _note_of(deal)))
    if left:
        raise DealsIncomplete(f"deal {deal.id} closes {left} lots more than were opened")


def _note_of(deal: Deal) -> str:
    if deal.reason != RECONCILED:
        return ""
    lots, price = f"{deal.volume.normalize():f}", f"{deal.price.normalize():f}"
    return f"the broker shows no deal for {lots} lots that its net position shows: reported at {price}. Check it there"


def _is_of_one_bot(trade: Trade, deal: Deal) -> bool:
    """Whether a deal of a copy meets that copy, or any other deal a trade that is no copy."""
    return trade.magic == deal.magic or index_of(trade.magic) is index_of(deal.magic) is None
