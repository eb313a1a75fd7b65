"""Trades whose deals the broker shows only in part, with assumptions for what it does not show. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from copybot.broker import RECONCILED, Deal, Entry, Position
from copybot.deals import Part, Trade

_CHECK = "Check it at the broker"
_ZERO = Decimal(0)
_UNIT = Decimal("0.00000001")


@dataclass(frozen=True, slots=True)
class Assumption:
    """Price and floating profit for what no deal shows. `profit`: for one lot, None if it was never seen."""

    price: Decimal
    profit: Decimal | None

    @classmethod
    def of(cls, price: Decimal, seen: Position | None) -> "Assumption":
        return cls(price, seen.profit / seen.volume if seen is not None and seen.volume else None)

    def part(self, ticket: str, closed: Decimal, remaining: Decimal) -> Part:
        """The part of a trade that closed without a deal. Its deal's number is the same in every repeat."""
        profit = ((self.profit or _ZERO) * closed).quantize(_UNIT)
        known = "the profit is the last one seen" if self.profit is not None else "the profit is not known"
        note = f"the broker shows no deal for {closed.normalize():f} lots: reported at {self.price}, {known}. {_CHECK}"
        return Part(f"{ticket}-{remaining:.8f}", remaining, self.price, profit, 0, RECONCILED, note)


def closings(deals: Iterable[Deal], side: str) -> list[Deal]:
    """The deals that closed lots of a position of this side, oldest first."""
    return [deal for deal in deals if deal.entry is Entry.OUT and deal.side != side]


def assumed_end(trade: Trade, assumption: Assumption) -> Trade:
    """A trade whose opening deal is known and whose last closing deal is not."""
    if not trade.remaining:
        return trade
    rest = assumption.part(trade.ticket, trade.remaining, _ZERO)
    rest = replace(rest, profit=rest.profit + trade.costs)
    return replace(trade, remaining=_ZERO, parts=[*trade.parts, rest])


def by_list(row: Mapping[str, Any], remaining: Decimal, closed_by: Sequence[Deal], assumption: Assumption) -> Trade:
    """A trade whose opening deal is missing: from the volume that remains back through the deals that closed it, and by
    assumption for what they do not show. `row`: the desk's."""
    reported, left, parts = Decimal(row["volume"]), remaining, list[Part]()
    for deal in reversed(closed_by):
        if left >= reported:
            break
        share = min(deal.volume, reported - left) / deal.volume
        profit = (deal.profit * share).quantize(_UNIT)
        parts.append(Part(deal.id, left, deal.price, profit, deal.at_ms, deal.reason))
        left += deal.volume
    if left < reported:
        parts.append(assumption.part(row["ticket_id"], reported - left, left))
    parts.reverse()
    if not remaining and parts:
        parts[-1] = _without_opening_deal(parts[-1])
    return _trade(row, remaining, parts)


def by_position(position: Position) -> Trade:
    """A trade whose opening deal is missing and whose position is open: as the list of positions shows it."""
    return Trade(
        position.id, position.id, position.id, position.symbol, position.side, position.volume, position.open_price,
        position.opened_ms, _ZERO, position.volume, magic=position.magic,
    )  # fmt: skip


def cancelled(row: Mapping[str, Any]) -> Trade:
    """A trade whose deals the broker cancelled: nothing was gained or lost."""
    note = "the broker cancelled its deals: reported at its open price, without profit"
    part = Part("cancelled", _ZERO, Decimal(row["open_price"]), _ZERO, 0, RECONCILED, note)
    return _trade(row, _ZERO, [part])


def _without_opening_deal(part: Part) -> Part:
    note = f"the broker no longer shows its opening deal: reported by its closing deals. {_CHECK}"
    return replace(part, reason=RECONCILED, note=part.note or note)


def _trade(row: Mapping[str, Any], remaining: Decimal, parts: list[Part]) -> Trade:
    ticket, price = row["ticket_id"], Decimal(row["open_price"])
    volume = Decimal(row["volume"])
    return Trade(ticket, ticket, ticket, row["symbol"], row["type"], volume, price, 0, _ZERO, remaining, parts)
