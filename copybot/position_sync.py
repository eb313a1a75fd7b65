"""The desk's books brought in line with a broker's: what is open there is published, what is gone is closed.

State, not events: nothing is kept on disk. Each look compares what the desk says is active with the broker's open
positions, and takes prices and profits from the broker's deals. Every report names its effect by its content, so that
one repeated after a crash or a lost answer has one effect; and the desk never opens a ticket again that was closed.
"""

import hashlib
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from copybot.broker import Deal, Position, Terminal
from copybot.deals import Trade, trades_of
from copybot.errors import DeskError, KeyRefused, ScopeDenied, TradeUnknown

log = logging.getLogger(__name__)

_ZERO = Decimal(0)
_ACTIVE = "/api/v2/trades/active"
_CLOCKS_APART_MS = 60_000
_WATCH_GAP_MS = 60_000
_MOST_REMEMBERED = 10_000
_REMEMBERED_MS = 3_600_000
_RANK = {"reduce": 0, "close": 0, "modify": 1, "open": 2}

_MAY_PASS = frozenset({"new_seq", "same_key", "after"})  # a refusal of the moment, which the desk does not keep

Extra = Mapping[str, str]


class Desk(Protocol):
    """What is needed of a client. OSError: nobody knows whether the request was done. DeskError: it was refused."""

    def active(self) -> Any: ...

    def send(
        self, method: str, path: str, fields: Any = None, *, query: dict[str, str] | None = None,
        idempotency_key: str = "",
    ) -> Any: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """An open position of ours, and its trades; none while its deals do not add up to it."""

    position: Position
    extra: Extra
    trades: list[Trade] | None


@dataclass(frozen=True, slots=True)
class Report:
    """Something to tell the desk: a verb about a ticket. `base`: the number of the state that a change builds upon."""

    verb: str
    ticket: str
    fields: Mapping[str, Any]
    base: str = ""

    @property
    def key(self) -> str:
        """The same for the same effect, whoever sends it when."""
        said = json.dumps([self.base, dict(self.fields)], sort_keys=True)
        return f"{self.verb}-{self.ticket}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know of. `kind`: zombie, too_old, waiting, grew or refused."""

    ticket: str
    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What the desk took note of, or refused (`code`), for those who watch."""

    verb: str
    ticket: str
    code: str
    fields: Mapping[str, Any]


def everything(_: Position) -> Extra | None:
    """Every position is ours, and there is nothing to add about it."""
    return {}


def nothing(_: ReportResult) -> None:
    """Nobody watches."""


@dataclass
class PositionSync:
    """The active rows of one account at the desk, held in line with its positions. One thread at a time.

    `of`: what to add to a position's open report (a copy: its strategy and trade_ref); None leaves it alone.
    `role`: master or copy: which rows of the snapshot are this account's. `max_age_ms`: older positions that the desk
    does not know are left alone. `clock_ms`: the desk's time; `ahead_ms`: by how much the broker's is ahead of it (a
    trade server's is of a zone that nobody tells), None while that is not known. `position_of`: the position that
    an order opened or added to, by the order's number; needed on a netting account.
    """

    desk: Desk
    terminal: Terminal
    of: Callable[[Position], Extra | None] = everything
    role: str = "master"
    max_age_ms: int | None = None
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ahead_ms: Callable[[], int | None] = lambda: 0
    position_of: Callable[[str], str] = str
    on_reported: Callable[[ReportResult], None] = nothing
    refresh_ms: int = 15_000
    retry_ms: int = 30_000
    counts: Counter[str] = field(default_factory=Counter, init=False)
    findings: dict[str, Finding] = field(default_factory=dict, init=False)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    held: list[Held] = field(default_factory=list, init=False, repr=False)
    _read_ms: int | None = field(default=None, init=False, repr=False)
    _refused: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict, init=False, repr=False)
    _trades: dict[str, tuple[object, list[Trade]]] = field(default_factory=dict, init=False, repr=False)
    _settled: bool = field(default=False, init=False, repr=False)
    _here: set[str] = field(default_factory=set, init=False, repr=False)
    _unknown_there: set[str] = field(default_factory=set, init=False, repr=False)
    _born_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _watched_ms: int | None = field(default=None, init=False, repr=False)
    _published: set[str] = field(default_factory=set, init=False, repr=False)
    _unpublished: set[str] = field(default_factory=set, init=False, repr=False)
    _forgotten: set[str] = field(default_factory=set, init=False, repr=False)
    _epoch: str = field(default="", init=False, repr=False)

    def look(self) -> None:
        """Compare, and tell the desk what differs: what is smaller or gone first, what is new last.

        Raises OSError where the desk cannot be reached or the broker not be asked, DeskError where the desk refuses the
        key. What was told by then stands; the next look finds the rest.
        """
        self.watch()
        try:
            self._read()
            for report in sorted(self._plan(), key=lambda report: _RANK[report.verb]):
                self._tell(report)
        except BaseException:
            self._read_ms = None  # an answer may be lost: ask what is active before anything else
            raise

    def watch(self) -> None:
        """See what is `held` now; positions that went before the desk could be told of them are counted."""
        positions = self.terminal.positions()
        was_watching, unread = self._is_watching(), self._here - self._trades.keys()
        self.findings = {}
        self.held = [
            Held(position, extra, self._open_trades(position))
            for position in positions
            if (extra := self.of(position)) is not None
        ]
        for one in self.held:
            for trade in one.trades or ():
                # What appears under our eyes is new, whatever the terminal's clock says.
                is_new = was_watching and one.position.id not in unread
                if trade.ticket not in self._born_ms:
                    self._born_ms[trade.ticket] = self.clock_ms() if is_new else self._opened_ms(trade)
                    self._unknown_there |= {trade.ticket} if is_new else set()
        self._here = {position.id for position in positions}
        self._count_missed()
        self._unpublished |= {one.position.id for one in self.held if self._is_news(one)}

    def _is_watching(self) -> bool:
        """Whether the last look was a moment ago, at a terminal that was all there: then nothing old can turn up."""
        now, last = self.clock_ms(), self._watched_ms
        self._settled = self.terminal.is_settled()
        self._watched_ms = now if self._settled else None
        return last is not None and now - last <= (self.max_age_ms or _WATCH_GAP_MS)

    def _opened_ms(self, trade: Trade) -> int:
        """By the desk's clock; 0 where it cannot be told."""
        ahead_ms = self.ahead_ms()
        return 0 if ahead_ms is None else trade.opened_ms - ahead_ms

    def _is_news(self, held: Held) -> bool:
        ticket = held.position.id
        return ticket not in self._published and ticket in self._born_ms and not self._is_old(ticket)

    def _count_missed(self) -> None:
        missed = {ticket for ticket in self._unpublished if ticket not in self._here and ticket not in self.rows}
        self.counts["unpublished"] += len(missed)
        self._unpublished -= missed

    def age_ms(self, ticket: str) -> int:
        """How long a trade has been open, as far as is known."""
        return self.clock_ms() - self._born_ms.get(ticket, self.clock_ms())

    def forget(self) -> None:
        """Somebody else may have changed the desk's rows: read them on the next look."""
        self._read_ms = None

    def note_gone(self, position_id: str, extra: Extra) -> bool:
        """Report a position that opened and closed while nobody looked. True once the desk knows all of it."""
        self._settled = self.terminal.is_settled()
        trades = self._closed_trades(position_id)
        if trades is None:
            return False
        self._read()
        return all([self._tell_whole(trade, extra) for trade in trades])

    def _tell_whole(self, trade: Trade, extra: Extra) -> bool:
        if trade.ticket not in self.rows:
            self._tell(self._opening(trade, None, extra))
        if trade.ticket not in self.rows:  # a close of what is not open there would close it for ever
            return self._code(trade.ticket, "open") == "trade_closed"
        for report in self._shrinking(trade, Decimal(self.rows[trade.ticket]["volume"])):
            self._tell(report)
        return trade.ticket not in self.rows

    # --- what the desk has

    def _read(self) -> None:
        now = self.clock_ms()
        if self._read_ms is not None and abs(now - self._read_ms) < self.refresh_ms:
            return
        found = self.desk.active()
        self._note_epoch(str(found.get("stream_epoch", "")))
        self.rows, self._read_ms = {row["ticket_id"]: row for row in found["trades"] if row["role"] == self.role}, now
        self._published |= self.rows.keys()

    def _note_epoch(self, epoch: str) -> None:
        """A desk that was restored may have forgotten what was published: it is told again, however old it is."""
        if self._epoch and epoch != self._epoch:
            self._forgotten |= self._published
            self._published.clear()
            self._unknown_there.clear()
            self._refused.clear()
        self._epoch = epoch

    # --- what should be told

    def _plan(self) -> Iterator[Report]:
        here = set(self._here)  # of others too: a position that `of` disowns may have a row, and is not gone
        for one in self.held:
            for trade in one.trades or ():
                here.add(trade.ticket)
                yield from self._of_trade(trade, one)
        for ticket in list(self.rows.keys() - here):
            yield from self._of_gone(ticket)
        self._tidy(here)

    def _open_trades(self, position: Position) -> list[Trade] | None:
        """The trades of an open position; None while its deals do not add up to it."""
        state = (position.volume, position.side, position.open_price)
        kept = self._trades.get(position.id)
        if kept is not None and kept[0] == state:
            return kept[1]
        trades = self._history(position.id)
        held = [trade for trade in trades if trade.remaining]
        adds_up = sum((trade.remaining for trade in held), _ZERO) == position.volume
        if not adds_up or any(trade.side != position.side for trade in held):
            self._wait(position.id, "its deals do not add up to its volume yet")
            return None
        self._trades[position.id] = state, trades
        return trades

    def _history(self, position_id: str) -> list[Trade]:
        """By its deals; none where they cannot be had. One position's history must not hold up the others."""
        try:
            return trades_of(self.terminal.deals(position_id) or self._deals_of_order(position_id))
        except Exception as fault:
            log.warning("deals of %s: %s", position_id, fault)
            return []

    def _deals_of_order(self, order: str) -> list[Deal]:
        position = self.position_of(order)
        return [] if position == order else self.terminal.deals(position)

    def _wait(self, ticket: str, words: str) -> None:
        self.findings[ticket] = Finding(ticket, "waiting", words)

    def _of_trade(self, trade: Trade, held: Held) -> Iterator[Report]:
        row = self.rows.get(trade.ticket)
        if row is not None:
            yield from self._changes(trade, held.position, row)
        elif trade.remaining and self._may_open(trade.ticket):
            yield self._opening(trade, held.position, held.extra)

    def _may_open(self, ticket: str) -> bool:
        if ticket in self._published or self._code(ticket, "open") == "trade_closed":
            words = "open at the broker, but closed at the desk, for ever: close it, or leave it to itself"
            self.findings[ticket] = Finding(ticket, "zombie", words)
            return False
        if self._is_old(ticket):
            words = "not published: it was open before this publisher began, and copies would get another price"
            self.findings[ticket] = Finding(ticket, "too_old", words)
            return False
        return True

    def _is_old(self, ticket: str) -> bool:
        # A time in the future is no young trade: the terminal's clock is another, so its age is not known.
        if ticket in self._forgotten:
            return False
        return self.max_age_ms is not None and abs(self.clock_ms() - self._born_ms[ticket]) > self.max_age_ms

    def _opening(self, trade: Trade, position: Position | None, extra: Extra) -> Report:
        fields: dict[str, Any] = {
            "ticket_id": trade.ticket,
            "symbol": trade.symbol,
            "type": trade.side,
            "volume": _text(trade.volume),
            "open_price": _text(trade.price),
        }
        opened_ms = self._opened_ms(trade)
        if 0 < opened_ms <= self.clock_ms() + _CLOCKS_APART_MS:
            fields["opened_at"] = _iso(opened_ms)
        if position is not None:
            fields |= {name: _text(stop) for name, stop in _stops(position).items() if stop is not None}
        return Report("open", trade.ticket, fields | dict(extra))

    def _changes(self, trade: Trade, position: Position, row: Mapping[str, Any]) -> Iterator[Report]:
        yield from self._shrinking(trade, Decimal(row["volume"]))
        if trade.remaining > Decimal(row["volume"]):
            words = f"holds {trade.remaining} lots and was published with {row['volume']}: the rest is not copied"
            self.findings[trade.ticket] = Finding(trade.ticket, "grew", words)
        stops = _stops(position)
        if trade.remaining and any(_number(row[name]) != stop for name, stop in stops.items()):
            told = {name: None if stop is None else _text(stop) for name, stop in stops.items()}
            yield Report("modify", trade.ticket, told, base=str(row["seq"]))

    def _of_gone(self, ticket: str) -> Iterator[Report]:
        trades = self._closed_trades(ticket)
        mine = next((trade for trade in trades or () if trade.ticket == ticket), None)
        if mine is not None:
            yield from self._shrinking(mine, Decimal(self.rows[ticket]["volume"]))
        elif ticket not in self.findings:
            self._wait(ticket, "no longer open at the broker, but its deals are not in the history")

    def _closed_trades(self, position_id: str) -> list[Trade] | None:
        """The trades of a position that is gone; None while the history may be incomplete."""
        if not self._settled:
            self._wait(position_id, "the terminal is not connected, or its history not complete")
            return None
        trades = self._history(position_id)
        if not trades or any(trade.remaining for trade in trades):
            self._wait(position_id, "no longer open at the broker, but its closing is not in the history")
            return None
        return trades

    def _shrinking(self, trade: Trade, told: Decimal) -> Iterator[Report]:
        """What takes a trade from the volume that the desk was told of to what is left of it."""
        for part in trade.parts:
            if part.remaining >= told:
                continue
            amounts = {"close_price": _text(part.price), "profit": _text(part.profit)}
            if part.remaining:
                fields = {"deal_id": part.deal, "volume": _text(part.remaining), **amounts}
                yield Report("reduce", trade.ticket, fields, base=part.deal)
            else:
                yield Report("close", trade.ticket, {**amounts, "reason": part.reason}, base=part.deal)

    # --- telling it

    def _tell(self, report: Report) -> None:
        now, about = self.clock_ms(), (report.ticket, report.verb)
        key, refused = report.key, self._refused.get(about)
        if refused is not None:
            self.findings.setdefault(report.ticket, Finding(report.ticket, "refused", f"the desk says: {refused[0]}"))
            if refused[0] == "trade_closed" or now - refused[1] < self.retry_ms:
                return
            key = f"{key}-{now // self.retry_ms}"  # under the old one the desk would repeat its refusal
        try:
            if report.verb == "open":
                self._check_unknown(report.ticket)
            answer = self._send(report, key).json()
        except DeskError as no:
            if isinstance(no, KeyRefused | ScopeDenied) or no.retry in _MAY_PASS:
                raise
            self._judge(report, no, now)
        else:
            self._refused.pop(about, None)
            self._note(report, answer)

    def _check_unknown(self, ticket: str) -> None:
        """Raise TradeClosed where an earlier run told all of this trade: an open would count as bringing it back.

        What appeared under our eyes nobody can have told before.
        """
        if ticket in self._unknown_there:
            return
        try:
            self.desk.send(
                "PATCH", f"{_ACTIVE}/{ticket}", {"sl": None}, idempotency_key=f"ask-{ticket}-{secrets.token_hex(8)}"
            )
        except TradeUnknown:
            self._unknown_there.add(ticket)

    def _send(self, report: Report, key: str) -> Any:
        at = f"{_ACTIVE}/{report.ticket}"
        fields = dict(report.fields)
        match report.verb:
            case "open":
                return self.desk.send("POST", _ACTIVE, fields, idempotency_key=key)
            case "modify":
                return self.desk.send("PATCH", at, fields, idempotency_key=key)
            case "reduce":
                return self.desk.send("POST", f"{at}/reduce", fields, idempotency_key=key)
        return self.desk.send("DELETE", at, query=fields, idempotency_key=key)

    def _note(self, report: Report, answer: Mapping[str, Any]) -> None:
        """Keep what is active now, as the answer tells it."""
        self.on_reported(ReportResult(report.verb, report.ticket, "", report.fields))
        self.counts[report.verb] += 1
        self._unpublished.discard(report.ticket)
        if report.verb == "close":
            self.rows.pop(report.ticket, None)
            self._published.discard(report.ticket)
        elif "trade" in answer:
            self.rows[report.ticket] = answer["trade"]
            self._published.add(report.ticket)

    def _judge(self, report: Report, no: DeskError, now: int) -> None:
        """Read what is active anew: it was another than we thought. What is refused again waits."""
        self._read_ms = None
        self.on_reported(ReportResult(report.verb, report.ticket, no.code, report.fields))
        if no.code == "trade_closed" and report.verb != "open":
            self.rows.pop(report.ticket, None)
            return
        if no.code == "trade_closed_conflict":  # closed at another price: the first stands, and there is no more to do
            self.counts["conflict"] += 1
            self.rows.pop(report.ticket, None)
            return
        if no.code != "trade_closed":
            log.warning("%s of %s refused: %s", report.verb, report.ticket, no)
        self._refused[report.ticket, report.verb] = no.code, now
        self.counts["refused"] += 1

    def _code(self, ticket: str, verb: str) -> str:
        return self._refused.get((ticket, verb), ("", 0))[0]

    def _tidy(self, here: set[str]) -> None:
        """Forget what is neither open at the broker nor active at the desk."""
        known = here | self.rows.keys()
        self._published &= known
        self._unknown_there &= known
        self._forgotten &= known
        for ticket in list(self._born_ms.keys() - known)[: len(self._born_ms) - _MOST_REMEMBERED]:
            del self._born_ms[ticket]
        self._trades = {ticket: kept for ticket, kept in self._trades.items() if ticket in here}
        since = self.clock_ms() - _REMEMBERED_MS
        self._refused = {about: no for about, no in self._refused.items() if about[0] in known or no[1] > since}


def _stops(position: Position) -> dict[str, Decimal | None]:
    return {"sl": position.sl, "tp": position.tp}


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(amount: Decimal) -> str:
    return f"{amount:.8f}"


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
