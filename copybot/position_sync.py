"""Keeps the desk in line with a broker account: publishes open positions, closes trades whose position has ended.

State, not events: nothing is on disk. Each sync compares the desk's active trades with the broker's open positions
and takes prices and profits from the broker's deals. A report's idempotency key is a hash of its content, so a report
repeated after a crash or a lost answer has one effect; and the desk never opens a closed ticket again.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from copybot.broker import Position, Terminal
from copybot.deals import Trade
from copybot.errors import DeskError, KeyRefused, OpensRefused, ScopeDenied, TradeUnknown
from copybot.findings import Finding
from copybot.magic import index_of
from copybot.missing_deals import DealHistory, MissingDeals, Waits
from copybot.reports import RefusedReport, Report, ReportResult, moved_stops, opening, shrinking
from copybot.server_clock import is_repeated

log = logging.getLogger(__name__)

_ZERO = Decimal(0)
_ACTIVE = "/api/v2/trades/active"
_CLOCKS_APART_MS = 60_000
_WATCH_GAP_MS = 60_000
_MOST_REMEMBERED = 10_000
_REMEMBERED_MS = 3_600_000
_CLOSE_IS_MISSING = "no longer open at the broker, but its close is not in the history yet"
_RANK = {"reduce": 0, "close": 0, "modify": 1, "open": 2}

_TEMPORARY = frozenset({"new_seq", "same_key", "after"})  # `retry` of refusals that the desk does not store

Extra = Mapping[str, str]


class Desk(Protocol):
    """The part of a client that is needed here. OSError: the outcome is unknown. DeskError: the desk refused."""

    def active(self) -> Any: ...

    def send(
        self, method: str, path: str, fields: Any = None, *, query: dict[str, str] | None = None,
        idempotency_key: str = "",
    ) -> Any: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """An open position and its trades. `trades` is None while the deals do not add up to the position."""

    position: Position
    extra: Extra
    trades: list[Trade] | None


def everything(_: Position) -> Extra | None:
    """The default of `of`: report every position, with no further fields."""
    return {}


def nothing(_: ReportResult) -> None:
    """The default of `on_reported`."""


@dataclass
class PositionSync:
    """Keeps one account's active rows at the desk in line with its positions. One thread at a time.

    `of`: fields to add to a position's open report (for a copy: strategy and trade_ref); None means do not report it.
    `role`: master or copy, the rows of the snapshot that are this account's. `max_age_ms`: do not publish a position
    that is older than this and unknown to the desk. `clock_ms`: the desk's time. `ahead_ms`: by how much the broker's
    clock is ahead of it (a trade server does not state its time zone), None while unknown. `position_of`: the position
    that an order opened or increased, by order number; needed on a netting account. `longest_wait_ms`: how long to wait
    for missing deals while the terminal is connected; then the list of positions and a price must do.
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
    longest_wait_ms: int = 60_000
    refresh_ms: int = 15_000
    retry_ms: int = 30_000
    counts: Counter[str] = field(default_factory=Counter, init=False)
    findings: dict[str, Finding] = field(default_factory=dict, init=False)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    held: list[Held] = field(default_factory=list, init=False, repr=False)
    _read_ms: int | None = field(default=None, init=False, repr=False)
    _refused: dict[tuple[str, str], RefusedReport] = field(default_factory=dict, init=False, repr=False)
    _trades: dict[str, tuple[object, list[Trade]]] = field(default_factory=dict, init=False, repr=False)
    _reconciled: dict[str, tuple[Finding, int]] = field(default_factory=dict, init=False, repr=False)
    _open_ids: set[str] = field(default_factory=set, init=False, repr=False)
    _unknown_at_desk: set[str] = field(default_factory=set, init=False, repr=False)
    _born_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _watched_ms: int | None = field(default=None, init=False, repr=False)
    _published: set[str] = field(default_factory=set, init=False, repr=False)
    _unpublished: set[str] = field(default_factory=set, init=False, repr=False)
    _forgotten: set[str] = field(default_factory=set, init=False, repr=False)
    _epoch: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        self._history = DealHistory(self.terminal, self.position_of)
        self._missing = MissingDeals(self._history, Waits(self.longest_wait_ms), self.role == "copy")

    def sync(self) -> None:
        """Compare desk and broker, and report the differences: reductions and closes first, new positions last.

        Raises OSError if the desk or the broker cannot be reached, DeskError if the desk refuses the key. Reports made
        before that stand; the next sync makes the rest. Where the account's owner was deactivated, the desk refuses
        reads and takes closes: these are reported by the rows that were read last.
        """
        self.watch()
        try:
            self._read()
            for report in sorted(self._plan(), key=lambda report: _RANK[report.verb]):
                self._report(report)
        except BaseException:
            self._read_ms = None  # an answer may be lost: read the active rows again before the next report
            raise

    def watch(self) -> None:
        """Read the open positions into `held`, and count those that ended before they could be published."""
        positions = self.terminal.positions()
        was_watching, unread = self._is_watching(), self._open_ids - self._trades.keys()
        self._missing.see(positions, self.clock_ms())
        self.findings = self._recent_findings()
        self.held = [
            Held(position, extra, self._open_trades(position))
            for position in positions
            if (extra := self._extra(position)) is not None
        ]
        for held in self.held:
            for trade in held.trades or ():
                self._missing.place(trade.ticket, held.position.id)
                # A position that appears between two syncs is new, whatever the terminal's clock says.
                is_new = was_watching and held.position.id not in unread
                if trade.ticket not in self._born_ms:
                    self._born_ms[trade.ticket] = self.clock_ms() if is_new else self._opened_ms(trade)
                    self._unknown_at_desk |= {trade.ticket} if is_new else set()
        self._open_ids = {position.id for position in positions}
        self._count_missed()
        self._unpublished |= {held.position.id for held in self.held if self._is_to_publish(held)}

    def _extra(self, position: Position) -> Extra | None:
        """What `of` says. A provider's sync never reports a copy, which would go round in circles as a new signal."""
        return None if self._is_foreign(position.magic) else self.of(position)

    def _is_foreign(self, magic: int) -> bool:
        return self.role == "master" and index_of(magic) is not None

    def _is_watching(self) -> bool:
        """Whether the last sync was recent and the history complete then. If so, no old position can turn up now."""
        now, last = self.clock_ms(), self._watched_ms
        was_watching = last is not None and now - last <= (self.max_age_ms or _WATCH_GAP_MS)
        # A history that was complete stays so while the terminal is connected, however often new deals change it.
        is_watching = self.terminal.is_settled() or (was_watching and self._missing.is_connected())
        self._watched_ms = now if is_watching else None
        return was_watching

    def _recent_findings(self) -> dict[str, Finding]:
        """What was reported without a deal, for as long as a person should see it."""
        since = self.clock_ms() - _REMEMBERED_MS
        self._reconciled = {ticket: told for ticket, told in self._reconciled.items() if told[1] > since}
        return {ticket: finding for ticket, (finding, _) in self._reconciled.items()}

    def _opened_ms(self, trade: Trade) -> int:
        """When a trade opened, by the desk's clock; 0 if unknown: no known time zone, or an hour that clocks repeat."""
        ahead_ms = self.ahead_ms()
        opened_ms = 0 if ahead_ms is None or not trade.opened_ms else trade.opened_ms - ahead_ms
        return 0 if is_repeated(opened_ms) else opened_ms

    def _is_to_publish(self, held: Held) -> bool:
        ticket = held.position.id
        return ticket not in self._published and ticket in self._born_ms and not self._is_old(ticket)

    def _count_missed(self) -> None:
        missed = {ticket for ticket in self._unpublished if ticket not in self._open_ids and ticket not in self.rows}
        self.counts["unpublished"] += len(missed)
        self._unpublished -= missed

    def age_ms(self, ticket: str) -> int:
        """How long a trade has been open; 0 if its opening time is unknown."""
        return self.clock_ms() - self._born_ms.get(ticket, self.clock_ms())

    def forget(self) -> None:
        """Read the desk's rows again on the next sync, because another client may have changed them."""
        self._read_ms = None

    def note_gone(self, position_id: str, extra: Extra, known: Mapping[str, Any] | None = None) -> bool:
        """Report a position that ended before it had a row. True once the desk knows all of it.

        `known`: the row that it would have, in case that the broker never shows its deals.
        """
        trades = self._closed_trades(position_id) or self._missing.ended_unseen(position_id, self.clock_ms(), known)
        if not trades:
            self._note_waiting(position_id, _CLOSE_IS_MISSING)
            return False
        self._read()
        return all([self._report_ended(trade, extra) for trade in trades])

    def _report_ended(self, trade: Trade, extra: Extra) -> bool:
        if trade.ticket not in self.rows:
            self._report(self._opening(trade, None, extra))
        if trade.ticket not in self.rows:  # a close without an open would close the ticket for ever
            return self._code(trade.ticket, "open") == "trade_closed"
        for report in shrinking(trade, Decimal(self.rows[trade.ticket]["volume"])):
            self._report(report)
        return trade.ticket not in self.rows

    # --- the desk's rows

    def _read(self) -> None:
        now = self.clock_ms()
        if self._read_ms is not None and abs(now - self._read_ms) < self.refresh_ms:
            return
        try:
            snapshot = self.desk.active()
        except OpensRefused:  # the account's owner was deactivated: closes pass
            if not self.rows:
                raise
            self._read_ms = now
            return
        self._note_epoch(str(snapshot.get("stream_epoch", "")))
        self.rows = {row["ticket_id"]: row for row in snapshot["trades"] if self._is_own(row)}
        self._read_ms = now
        self._published |= self.rows.keys()

    def _is_own(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is this account's and of this role. A row with a plan for a copy is a followed provider's."""
        return row["role"] == self.role and (self.role == "copy" or not row.get("copy"))

    def _note_epoch(self, epoch: str) -> None:
        """On a new epoch, publish again what a restored desk may have forgotten, however old it is."""
        if self._epoch and epoch != self._epoch:
            self._forgotten |= self._published
            self._published.clear()
            self._unknown_at_desk.clear()
            self._refused.clear()
        self._epoch = epoch

    # --- the reports that are due

    def _plan(self) -> Iterator[Report]:
        open_tickets = set(self._open_ids)  # all of them: a position that `of` excludes may have a row, and is open
        for held in self.held:
            for trade in held.trades or ():
                open_tickets.add(trade.ticket)
                yield from self._reports_of_open(trade, held)
            if held.trades is None:
                rows = self._missing.rows_of(held.position, self.rows)
                open_tickets |= {row["ticket_id"] for row in rows}
                yield from self._reports_by_list(held.position, rows) if rows else self._opening_by_list(held)
        for ticket in [ticket for ticket in self.rows if ticket not in open_tickets]:
            yield from self._reports_of_ended(ticket)
        self._tidy(open_tickets)

    def _open_trades(self, position: Position) -> list[Trade] | None:
        """The trades of an open position; None while its deals do not add up to it."""
        state = (position.volume, position.side, position.open_price)
        cached = self._trades.get(position.id)
        if cached is not None and cached[0] == state:
            return cached[1]
        trades = self._history.trades(position.id)
        held = [trade for trade in trades if trade.remaining]
        adds_up = sum((trade.remaining for trade in held), _ZERO) == position.volume
        if not adds_up or any(trade.side != position.side for trade in held):
            self._note_waiting(position.id, "its deals do not add up to its volume yet")
            return None
        self._trades[position.id] = state, trades
        return trades

    def _note_waiting(self, ticket: str, words: str) -> None:
        self.findings[ticket] = Finding(ticket, "waiting", words)

    def _reports_of_open(self, trade: Trade, held: Held) -> Iterator[Report]:
        row = self.rows.get(trade.ticket)
        if row is not None:
            yield from self._changes(trade, held.position, row)
        elif trade.remaining and not self._is_foreign(trade.magic) and self._may_open(trade.ticket):
            yield self._opening(trade, held.position, held.extra)

    def _may_open(self, ticket: str) -> bool:
        if ticket in self._published or self._code(ticket, "open") == "trade_closed":
            words = "open at the broker but closed at the desk for ever: close it, or manage it yourself"
            self.findings[ticket] = Finding(ticket, "zombie", words)
            return False
        if self._is_old(ticket):
            words = "not published: it was open before this publisher started, and copies would get another price"
            self.findings[ticket] = Finding(ticket, "too_old", words)
            return False
        return True

    def _is_old(self, ticket: str) -> bool:
        # A time in the future does not mean a young trade: the terminal's clock differs, so the age is unknown.
        if ticket in self._forgotten:
            return False
        return self.max_age_ms is not None and abs(self.clock_ms() - self._born_ms[ticket]) > self.max_age_ms

    def _opening(self, trade: Trade, position: Position | None, extra: Extra) -> Report:
        opened_ms = self._opened_ms(trade)
        return opening(trade, position, extra, opened_ms if opened_ms <= self.clock_ms() + _CLOCKS_APART_MS else 0)

    def _changes(self, trade: Trade, position: Position, row: Mapping[str, Any]) -> Iterator[Report]:
        yield from shrinking(trade, Decimal(row["volume"]))
        self._note_if_grown(trade.ticket, trade.remaining, Decimal(row["volume"]))
        if trade.remaining:
            yield from moved_stops(trade.ticket, position, row)

    def _note_if_grown(self, ticket: str, lots: Decimal, published: Decimal) -> None:
        if lots > published:
            words = f"has {lots} lots but was published with {published}: the rest is not copied"
            self.findings[ticket] = Finding(ticket, "grew", words)

    def _opening_by_list(self, held: Held) -> Iterator[Report]:
        """Report an open copy whose deals stay missing. What it has lost already follows once it has a row."""
        trade = self._missing.unreported(held.position, self.clock_ms())
        if trade is None:
            return
        self._born_ms.setdefault(trade.ticket, self._opened_ms(trade))
        if self._may_open(trade.ticket):
            yield self._opening(trade, held.position, held.extra)

    def _reports_by_list(self, position: Position, rows: list[Mapping[str, Any]]) -> Iterator[Report]:
        """Follow an open position whose deals do not add up: its stops at once, its volume if they stay missing."""
        shrunk = self._missing.shrunk(position, rows, self.clock_ms())
        if shrunk is not None:
            self.findings.pop(position.id, None)  # it is followed, so it no longer waits
            self.findings |= self._recent_findings()
            published = sum(Decimal(row["volume"]) for row in rows if row["type"] == position.side)
            self._note_if_grown(position.id, position.volume, Decimal(published))
        for trade in shrunk or ():
            yield from shrinking(trade, Decimal(self.rows[trade.ticket]["volume"]))
        for row in rows:
            if row["type"] == position.side:
                yield from moved_stops(row["ticket_id"], position, row)

    def _reports_of_ended(self, ticket: str) -> Iterator[Report]:
        row = self.rows[ticket]
        reported = Decimal(row["volume"])
        ended = next((trade for trade in self._closed_trades(ticket) if trade.ticket == ticket), None)
        if ended is None or ended.volume < reported:  # an opening deal is missing, so others may be
            ended = self._missing.ended(row, self.clock_ms())
        if ended is not None:
            yield from shrinking(ended, reported)
        else:
            self._note_waiting(ticket, _CLOSE_IS_MISSING)

    def _closed_trades(self, ticket: str) -> list[Trade]:
        """The trades of a position that has ended; empty while its deals do not prove that.

        Deals that add up to zero are a proof, however recent they are and whatever else happens on the account. A
        position that is missing in the list, but whose deals show it open, is not closed: the list may be behind.
        """
        trades = self._history.trades(ticket)
        is_closed = not any(trade.remaining or trade.position in self._open_ids for trade in trades)
        return trades if is_closed else []

    # --- reporting

    def _report(self, report: Report) -> None:
        now, subject = self.clock_ms(), (report.ticket, report.verb)
        key, refused = report.key, self._refused.get(subject)
        if refused is not None:
            self._note_refusal(report, refused.code)
            if refused.code == "trade_closed" or abs(now - refused.at_ms) < refused.wait_ms(report.verb, self.retry_ms):
                return
            key = f"{key}-{now // self.retry_ms}"  # under the old key the desk would repeat its refusal
        try:
            if report.verb == "open":
                self._check_unknown(report.ticket)
            answer = self._send(report, key).json()
        except DeskError as refusal:
            if isinstance(refusal, KeyRefused | ScopeDenied) or refusal.retry in _TEMPORARY or not refusal.is_proven:
                raise
            self._note_refused(report, refusal, now)
        else:
            if self._refused.pop(subject, None) is not None:
                self.findings.pop(report.ticket, None)
            self._note_done(report, answer)

    def _check_unknown(self, ticket: str) -> None:
        """Raise TradeClosed if an earlier run reported this trade to its end: the desk audits opens of closed trades.

        A position that appeared between two syncs cannot have been reported before.
        """
        if ticket in self._unknown_at_desk:
            return
        try:
            self.desk.send(
                "PATCH", f"{_ACTIVE}/{ticket}", {"sl": None}, idempotency_key=f"ask-{ticket}-{secrets.token_hex(8)}"
            )
        except TradeUnknown:
            self._unknown_at_desk.add(ticket)

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

    def _note_done(self, report: Report, answer: Mapping[str, Any]) -> None:
        """Update the desk's row from its answer."""
        self.on_reported(ReportResult(report.verb, report.ticket, "", report.fields))
        self.counts[report.verb] += 1
        self._unpublished.discard(report.ticket)
        if report.note:
            self._note_reconciled(report)
        if report.verb == "close":
            self.rows.pop(report.ticket, None)
            self._published.discard(report.ticket)
        elif "trade" in answer:
            self.rows[report.ticket] = answer["trade"]
            self._published.add(report.ticket)

    def _note_reconciled(self, report: Report) -> None:
        row, is_copy = self.rows.get(report.ticket, {}), self.role == "copy"
        strategy, ref = (str(row.get(name) or "") if is_copy else "" for name in ("strategy", "copies"))
        finding = Finding(report.ticket, "reconciled", report.note, strategy, ref)
        self._reconciled[report.ticket] = finding, self.clock_ms()
        self.findings[report.ticket] = finding
        log.warning("%s of %s: %s", report.verb, report.ticket, report.note)

    def _note_refused(self, report: Report, refusal: DeskError, now: int) -> None:
        """Read the active rows again, since they differ from ours. The same report is retried more and more slowly."""
        self._read_ms = None
        self.on_reported(ReportResult(report.verb, report.ticket, refusal.code, report.fields))
        if refusal.code == "trade_closed" and report.verb != "open":
            self.rows.pop(report.ticket, None)
            return
        if refusal.code == "trade_closed_conflict":  # closed at another price: the first close stands
            self.counts["conflict"] += 1
            self.rows.pop(report.ticket, None)
            return
        if refusal.code != "trade_closed":
            log.warning("%s of %s refused: %s", report.verb, report.ticket, refusal)
        subject = report.ticket, report.verb
        times = self._refused[subject].times if subject in self._refused else 0
        self._refused[subject] = RefusedReport(refusal.code, now, times + 1)
        self._note_refusal(report, refusal.code)
        self.counts["refused"] += 1

    def _note_refusal(self, report: Report, code: str) -> None:
        noted = self.findings.get(report.ticket)
        if code != "trade_closed" and (noted is None or noted.kind == "reconciled"):
            self.findings[report.ticket] = Finding(
                report.ticket, "refused", f"the desk refused the {report.verb}: {code}"
            )

    def _code(self, ticket: str, verb: str) -> str:
        refused = self._refused.get((ticket, verb))
        return "" if refused is None else refused.code

    def _tidy(self, open_tickets: set[str]) -> None:
        """Forget tickets that are neither open at the broker nor active at the desk."""
        known = open_tickets | self.rows.keys()
        self._published &= known
        self._unknown_at_desk &= known
        self._forgotten &= known
        for ticket in list(self._born_ms.keys() - known)[: len(self._born_ms) - _MOST_REMEMBERED]:
            del self._born_ms[ticket]
        self._trades = {ticket: cached for ticket, cached in self._trades.items() if ticket in open_tickets}
        self._missing.tidy(known)
        since = self.clock_ms() - _REMEMBERED_MS
        self._refused = {
            (ticket, verb): refused
            for (ticket, verb), refused in self._refused.items()
            if ticket in known or refused.at_ms > since
        }
