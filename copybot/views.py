"""Turns the state of a copier or publisher into views, and its events into words."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from copybot import runner
from copybot.broker import Account, Position, Terminal
from copybot.client import Client
from copybot.copier import Copier
from copybot.display import Happenings, Line, Screen, Strategy, View, alarm, lots, quoted, why_not
from copybot.guard import ExecutionGuard
from copybot.position_sync import Held, ReportResult
from copybot.protocol import Answer, Attempt
from copybot.publisher import Publisher
from copybot.state_store import Copy, Event, GuardMode, State
from copybot.subscriptions import FollowedSubscription

CLOCK_MS = 1_000  # a clock or an answer time above this is marked
_ACCOUNT_EVERY = 5
_NO_ALARMS = frozenset({"too_old", "waiting"})  # a position's state says it


class TimedClient(Client):
    """A client that measures how long the last answer took."""

    latency_ms: int | None = None

    def _exchange(self, attempt: Attempt) -> Answer:
        began_s = self.monotonic_s()
        answer = super()._exchange(attempt)
        self.latency_ms = round((self.monotonic_s() - began_s) * 1000)
        return answer

    def marks(self) -> list[tuple[str, bool]]:
        marks = [(f"clock {self.clock_offset_ms:+d} ms", abs(self.clock_offset_ms) < CLOCK_MS)]
        if self.latency_ms is not None:
            marks.append((f"answers in {self.latency_ms} ms", self.latency_ms < CLOCK_MS))
        return marks


class WatchedGuard(ExecutionGuard):
    """A guard that passes on each event before it leaves the outbox, so that a view misses none."""

    on_event: Callable[[Event], None] = staticmethod(lambda _: None)

    def mark_reported(self, event: Event) -> None:
        self.on_event(event)
        super().mark_reported(event)


class WatchedCopier(Copier):
    """A copier that calls `on_step` after each step."""

    on_step: Callable[[], None] = staticmethod(lambda: None)

    def step(self) -> None:
        super().step()
        self.on_step()


@dataclass
class _AccountStatus:
    """The broker account, read at every fifth refresh."""

    terminal: Terminal
    account: Account | None = None
    fault: str = ""
    _refreshes: int = 0

    def refresh(self) -> None:
        self._refreshes += 1
        if self._refreshes % _ACCOUNT_EVERY != 1 and self.account is not None:
            return
        try:
            self.account, self.fault = self.terminal.account(), ""
        except Exception as fault:
            self.fault = str(fault) or type(fault).__name__

    @property
    def name(self) -> str:
        return "" if self.account is None else f"{self.account.login} on {self.account.server}"

    @property
    def money(self) -> str:
        return "" if self.account is None else f"equity {self.account.equity:,.2f} {self.account.currency}"

    @property
    def currency(self) -> str:
        return "" if self.account is None else self.account.currency

    def mark(self) -> tuple[str, bool]:
        if self.fault:
            return f"terminal: {self.fault}", False
        if self.account is not None and not self.account.may_trade:
            return "the terminal does not allow programs to trade", False
        return "terminal ready", True


@dataclass
class CopierView:
    """Shows a copier on a screen."""

    copier: WatchedCopier
    client: TimedClient
    screen: Screen
    happenings: Happenings
    _noted: set[tuple[str, int]] = field(default_factory=set, init=False)
    _faults: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._account = _AccountStatus(self.copier.terminal)
        self.copier.on_step = self.show
        self._on_reported_before, self.copier.position_sync.on_reported = (
            self.copier.position_sync.on_reported,
            self._note_result,
        )
        for followed in self.copier.followed:
            if isinstance(followed.guard, WatchedGuard):
                followed.guard.on_event = lambda event, followed=followed: self._note(followed, event)  # type: ignore[misc]

    def show(self) -> None:
        for followed in self.copier.followed:
            for event in followed.guard.outbox():
                self._note(followed, event)
        self._note_faults()
        self._account.refresh()
        self.screen.show(self.view())

    def view(self) -> View:
        copier = self.copier
        positions: dict[int, Position] = {}
        with suppress(Exception):  # the terminal's mark shows the fault
            positions = {position.magic: position for position in copier.terminal.positions()}
        lines = [
            self._line(copy, positions.get(copy.magic))
            for followed in copier.followed
            for copy in followed.guard.unfinished()
        ]
        return View(
            title="copybot follow",
            desk=urlsplit(self.client.url).netloc,
            account=self._account.name,
            money=self._account.money,
            marks=[self._stream_mark(), self._lease_mark(), *self.client.marks(), self._account.mark()],
            strategies=[_strategy(followed) for followed in copier.followed],
            lines=lines,
            happenings=list(self.happenings.latest),
            alarms=self._alarms(),
            currency=self._account.currency,
            nothing="no copies are open",
        )

    def _stream_mark(self) -> tuple[str, bool]:
        return ("stream connected", True) if self.copier.is_in_touch else ("no stream: polling the desk", False)

    def _lease_mark(self) -> tuple[str, bool]:
        lease = self.copier.lease
        if lease.is_lost:
            return "lease lost", False
        return ("lease held", True) if lease.is_live else ("waiting for the lease", False)

    def _line(self, copy: Copy, position: Position | None) -> Line:
        state = copy.state.value
        if copy.state is State.HELD:
            state = "closing" if not copy.volume else "reducing" if copy.reduced_ms else state
        held = position is not None
        return Line(
            copy.symbol, copy.side, position.volume if position else None, copy.volume,
            position.open_price if position else None, position.sl if position else copy.sl,
            position.tp if position else copy.tp, state, self.copier.clock_ms() - copy.born_ms,
            position.profit if held and position else None,
        )  # fmt: skip

    def _alarms(self) -> list[str]:
        copier = self.copier
        alarms = [alarm(finding) for finding in copier.findings() if finding.kind not in _NO_ALARMS]
        if "ended" in copier.faults:
            alarms.append(copier.faults["ended"])
        if copier.lease.is_lost:
            alarms.append("another instance copies for this account: this one opens no more trades. Stop one of them")
        copies = [copy for followed in copier.followed for copy in followed.guard.unfinished()]
        if copies and copier.refusals:
            alarms.append(runner.left_alone(next(iter(copier.refusals.values())), copies))
        return alarms

    def _note_result(self, result: ReportResult) -> None:
        """Show refusals, reductions and moved stops. The guard's events show opens and closes."""
        self._on_reported_before(result)
        subject = _subject(self.copier.position_sync.rows.get(result.ticket, result.fields), result.ticket)
        if result.code and result.code not in ("trade_closed", "trade_closed_conflict"):
            self.happenings.add(subject, f"the desk refused the {result.verb}: {result.code}", "warning")
        elif result.verb in ("reduce", "modify") and not result.code:
            self.happenings.add(subject, _WORDS[result.verb](result.fields))

    def _note(self, followed: FollowedSubscription, event: Event) -> None:
        identity = followed.subscription.sub_id, event.id
        if identity in self._noted:
            return
        self._noted.add(identity)
        copy = followed.guard.copy(event.ref) if event.ref else None
        subject = followed.strategy if copy is None else f"{copy.symbol} {copy.side} {lots(copy.asked or copy.volume)}"
        words, level = self._words(event, copy)
        self.happenings.add(subject, words, level, event.at_ms - self.client.clock_offset_ms)

    def _words(self, event: Event, copy: Copy | None) -> tuple[str, str]:
        if event.event == "skipped":
            return f"not copied: {why_not(event.why)}", "warning"
        if event.event == "opened" and copy is not None:
            return _opened(copy), "good"
        if event.event == "closed" and copy is not None:
            return f"closed{self._gain(copy)}", "info"
        return f"{event.event}: {event.why}", "alarm"

    def _gain(self, copy: Copy) -> str:
        with suppress(Exception):  # without the deals, "closed" must do
            if copy.position and (deals := self.copier.terminal.deals(copy.position)):
                gain = sum((deal.profit for deal in deals), Decimal(0))
                return f" at {quoted(deals[-1].price)}, {gain:+,.2f} {self._account.currency}".rstrip()
        return ""

    def _note_faults(self) -> None:
        """Show each fault once when it begins and once when it is over."""
        now = dict(self.copier.faults)
        for name in now.keys() - self._faults.keys():
            self.happenings.add(name, now[name], "warning")
        for name in self._faults.keys() - now.keys():
            self.happenings.add(name, "recovered", "good")
        self._faults = now


def _strategy(followed: FollowedSubscription) -> Strategy:
    guard, terms = followed.guard, followed.terms
    words, good = _condition(followed)
    copies = len(guard.unfinished())
    most = "" if terms.max_open_trades is None else f" of at most {terms.max_open_trades}"
    return Strategy(followed.strategy, words, good, f"signal {guard.seen} · {copies}{most} open")


def _condition(followed: FollowedSubscription) -> tuple[str, bool]:
    if followed.guard.mode is not GuardMode.LIVE:
        return followed.guard.mode.value.lower(), False
    if not followed.is_listed:
        return "the desk does not list this subscription for this key", False
    if followed.terms.generation and followed.terms.generation not in followed.subscription.secrets:
        return f"packet secret {followed.terms.generation} is missing in the configuration", False
    if followed.terms.status == "PAUSED":
        return "paused at the desk", False
    if followed.guard.needs_snapshot:
        return "waiting for a snapshot", False
    words = {"in_sync": "in sync", "behind": "catching up", "differs": "out of sync with the desk"}.get(
        followed.terms.sync, "live"
    )
    return words, followed.terms.sync != "differs"


def _opened(copy: Copy) -> str:
    if not copy.filled_price:
        return "opened"
    words = f"opened at {quoted(copy.filled_price, copy.price)}"
    if copy.price:
        worse = (copy.filled_price - copy.price) * (1 if copy.side == "BUY" else -1)
        bps = worse / copy.price * 10_000
        words += f", {abs(bps):.1f} bps {'worse' if bps > 0 else 'better'} than the provider" if round(bps, 1) else ""
    return words


@dataclass
class PublisherView:
    """Shows a publisher on a screen."""

    publisher: Publisher
    client: TimedClient
    screen: Screen
    happenings: Happenings
    fault: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._account = _AccountStatus(self.publisher.position_sync.terminal)
        self.publisher.on_sync = self.show
        self.publisher.position_sync.on_reported = self._note

    def show(self, fault: str) -> None:
        if fault and not self.fault:
            self.happenings.add("", fault, "warning")
        elif self.fault and not fault:
            self.happenings.add("", "recovered", "good")
        self.fault = fault
        self._account.refresh()
        self.screen.show(self.view())

    def view(self) -> View:
        position_sync = self.publisher.position_sync
        return View(
            title="copybot publish",
            desk=urlsplit(self.client.url).netloc,
            account=self._account.name,
            money=self._account.money,
            marks=[("desk connected", True) if not self.fault else ("no answer", False), *self.client.marks(),
                   self._account.mark()],
            lines=[line for held in position_sync.held for line in self._lines(held)],
            happenings=list(self.happenings.latest),
            alarms=[alarm(each) for each in position_sync.findings.values() if each.kind not in _NO_ALARMS],
            currency=self._account.currency,
            nothing="no positions are open",
        )  # fmt: skip

    def _lines(self, held: Held) -> list[Line]:
        position_sync, position = self.publisher.position_sync, held.position
        tickets = [trade.ticket for trade in held.trades or () if trade.remaining] or [position.id]
        row: Mapping[str, Any] = position_sync.rows.get(tickets[0], {})
        finding = position_sync.findings.get(tickets[0]) or position_sync.findings.get(position.id)
        state = finding.kind if finding else "published" if row else "new"
        rows = [position_sync.rows[ticket] for ticket in tickets if ticket in position_sync.rows]
        reported = sum((Decimal(row["volume"]) for row in rows), Decimal(0))
        target = reported or position.volume
        return [
            Line(
                position.symbol, position.side, position.volume, target, position.open_price, position.sl, position.tp,
                state, position_sync.age_ms(tickets[0]), position.profit,
            )
        ]  # fmt: skip

    def _note(self, result: ReportResult) -> None:
        subject = _subject(self.publisher.position_sync.rows.get(result.ticket, result.fields), result.ticket)
        if result.code:
            self.happenings.add(subject, f"{result.verb} refused: {result.code}", "warning")
            return
        words = _WORDS[result.verb](result.fields)
        self.happenings.add(subject, words, "good" if result.verb == "open" else "info")


def _subject(row: Mapping[str, Any], ticket: str) -> str:
    return f"{row.get('symbol', '')} {row.get('type', '')} {ticket}".strip()


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "open": lambda fields: f"published, {lots(Decimal(fields['volume']))} lots",
    "modify": lambda fields: f"stop {_stop(fields['sl'])}, target {_stop(fields['tp'])}",
    "reduce": lambda fields: f"reduced to {lots(Decimal(fields['volume']))} lots, {Decimal(fields['profit']):+,.2f}",
    "close": lambda fields: (
        f"closed at {quoted(Decimal(fields['close_price']))} ({fields['reason']}), {Decimal(fields['profit']):+,.2f}"
    ),
}


def _stop(price: str | None) -> str:
    return "none" if price is None else quoted(Decimal(price))
