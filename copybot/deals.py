"""What a broker's deals say of a position: which trades it is made of, and how each of them came to its end. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from copybot.broker import Deal, Entry

_UNIT = Decimal("0.00000001")


@dataclass(frozen=True, slots=True)
class Part:
    """What one closing deal took off a trade, and what remained of it then."""

    deal: str
    remaining: Decimal
    price: Decimal
    profit: Decimal
    at_ms: int
    reason: str


@dataclass(slots=True)
class Trade:
    """One opening order's share of a position, from its deals alone. `costs`: what opening it was charged."""

    ticket: str
    order: str
    symbol: str
    side: str
    volume: Decimal
    price: Decimal
    opened_ms: int
    costs: Decimal
    remaining: Decimal
    parts: list[Part] = field(default_factory=list)


class DealsIncomplete(Exception):
    """Deals that take off more than was opened: some are missing."""


def trades_of(deals: Iterable[Deal]) -> list[Trade]:
    """The trades of one position, in the order in which they were opened.

    On a hedging account that is one. On a netting account each order that adds to the position is a trade of its own:
    the first has the position's number, later ones their order's. What is taken off is taken off the oldest first; a
    reversal closes all and opens another. Raises DealsIncomplete.
    """
    trades: list[Trade] = []
    for deal in deals:
        if deal.entry is Entry.IN:
            _add(trades, deal)
        else:
            _take_off(trades, deal)
    return trades


def _add(trades: list[Trade], deal: Deal) -> None:
    filled = next((one for one in trades if one.order == deal.order and one.side == deal.side), None)
    if filled is None:
        ticket = deal.order if trades else deal.position
        trades.append(
            Trade(ticket, deal.order, deal.symbol, deal.side, deal.volume, deal.price, deal.at_ms, deal.profit,
                  deal.volume)
        )  # fmt: skip
        return
    volume = filled.volume + deal.volume
    filled.price = ((filled.price * filled.volume + deal.price * deal.volume) / volume).quantize(_UNIT)
    filled.volume, filled.remaining = volume, filled.remaining + deal.volume
    filled.costs += deal.profit


def _take_off(trades: list[Trade], deal: Deal) -> None:
    left, unshared = deal.volume, deal.profit
    for trade in trades:
        taken = min(left, trade.remaining)
        if not taken:
            continue
        left -= taken
        profit = (deal.profit * taken / deal.volume).quantize(_UNIT) if left else unshared
        unshared -= profit
        trade.remaining -= taken
        if not trade.remaining:
            profit += trade.costs
        trade.parts.append(Part(deal.id, trade.remaining, deal.price, profit, deal.at_ms, deal.reason))
    if left:
        raise DealsIncomplete(f"deal {deal.id} takes off {left} lots more than was opened")
