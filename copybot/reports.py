"""The reports that keep a row at the desk in line with a trade at the broker: what each verb sends. Pure."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from copybot.broker import Position
from copybot.deals import Trade

_LONGEST_RETRY = {"reduce": 4, "close": 4, "modify": 20, "open": 20}  # as multiples of the first wait


@dataclass(frozen=True, slots=True)
class Report:
    """A report to the desk: a verb about a ticket. `base`: the seq or deal that the change builds on. `note`: what a
    person should know about it once the desk has taken it."""

    verb: str
    ticket: str
    fields: Mapping[str, Any]
    base: str = ""
    note: str = ""

    @property
    def key(self) -> str:
        """The idempotency key: the same for the same effect, in every process and at any time."""
        content = json.dumps([self.base, dict(self.fields)], sort_keys=True)
        return f"{self.verb}-{self.ticket}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The outcome of a report: `code` is empty if the desk took it, else the code of the refusal."""

    verb: str
    ticket: str
    code: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RefusedReport:
    """A report that the desk refused `times` times in a row."""

    code: str
    at_ms: int
    times: int

    def wait_ms(self, verb: str, first_ms: int) -> int:
        """The time until the next attempt: twice as long each time, up to a longest that is shorter for a close."""
        most = _LONGEST_RETRY[verb]
        return first_ms * min(1 << min(self.times - 1, most), most)


def opening(trade: Trade, position: Position | None, extra: Mapping[str, str], opened_ms: int) -> Report:
    """The open of a trade. `opened_ms`: by the desk's clock, 0 if unknown."""
    fields: dict[str, Any] = {
        "ticket_id": trade.ticket,
        "symbol": trade.symbol,
        "type": trade.side,
        "volume": _text(trade.volume),
        "open_price": _text(trade.price),
    }
    if opened_ms:
        fields["opened_at"] = _iso(opened_ms)
    if position is not None:
        # A stop that was moved past the open price follows as a modification: an open with it would be refused.
        stops = {name: stop for name, stop in _stops(position).items() if stop is not None}
        fields |= {name: _text(stop) for name, stop in stops.items() if not _is_past(name, stop, trade)}
    return Report("open", trade.ticket, fields | dict(extra), note=trade.note)


def shrinking(trade: Trade, reported: Decimal) -> Iterator[Report]:
    """The reductions and the close that lead from the volume reported so far to the volume that remains."""
    for part in trade.parts:
        if part.remaining >= reported:
            continue
        amounts = {"close_price": _text(part.price), "profit": _text(part.profit)}
        if part.remaining:
            fields = {"deal_id": part.deal, "volume": _text(part.remaining), **amounts}
            yield Report("reduce", trade.ticket, fields, base=part.deal, note=part.note)
        else:
            fields = {**amounts, "reason": part.reason}
            yield Report("close", trade.ticket, fields, base=part.deal, note=part.note)


def moved_stops(ticket: str, position: Position, row: Mapping[str, Any]) -> Iterator[Report]:
    """The modification that brings a row's stops in line with its position's; nothing if they agree."""
    stops = _stops(position)
    if any(_number(row[name]) != stop for name, stop in stops.items()):
        fields = {name: None if stop is None else _text(stop) for name, stop in stops.items()}
        yield Report("modify", ticket, fields, base=str(row["seq"]))


def _is_past(name: str, stop: Decimal, trade: Trade) -> bool:
    """Whether a stop lies on the other side of the open price than the stop of a new trade does."""
    is_below = (name == "sl") == (trade.side == "BUY")
    return stop >= trade.price if is_below else stop <= trade.price


def _stops(position: Position) -> dict[str, Decimal | None]:
    return {"sl": position.sl, "tp": position.tp}


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(amount: Decimal) -> str:
    return f"{amount:.8f}"


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
