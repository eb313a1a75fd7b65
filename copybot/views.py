"""What a copier and a publisher look like: their state turned into views, what happens into words."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from copybot.broker import Account, Position, Terminal
from copybot.client import Client
from copybot.copier import Copier, FollowedSubscription
from copybot.display import Happenings, Line, Screen, Strategy, View, lots, quoted, why_not
from copybot.guard import ExecutionGuard
from copybot.position_sync import Held, ReportResult
from copybot.protocol import Answer, Attempt
from copybot.publisher import Publisher
from copybot.state_store import Copy, Event, GuardMode, State

CLOCK_MS = 1_000  # a clock that is further off is worth a look
_ACCOUNT_EVERY = 5


class Measured(Client):
    """A client that knows how long the last answer took."""

    latency_ms: int | None = None

    def _exchange(self, attempt: Attempt) -> Answer:
        began_s = self.monotonic_s()
        answer = super()._exchange(attempt)
        self.latency_ms = round((self.monotonic_s() - began_s) * 1000)
        return answer

    def marks(self) -> list[tuple[str, bool]]:
        found = [(f"clock {self.clock_offset_ms:+d} ms", abs(self.clock_offset_ms) < CLOCK_MS)]
        if self.latency_ms is not None:
            found.append((f"answers in {self.latency_ms} ms", self.latency_ms < CLOCK_MS))
        return found


class WatchedGuard(ExecutionGuard):
    """One whose events can be heard, also those that are told before anybody looked."""

    on_event: Callable[[Event], None] = staticmethod(lambda _: None)

    def mark_reported(self, event: Event) -> None:
        self.on_event(event)
        super().mark_reported(event)


class WatchedCopier(Copier):
    """One that can be looked at after each step."""

    on_step: Callable[[], None] = staticmethod(lambda: None)

    def step(self) -> None:
        super().step()
        self.on_step()


@dataclass
class _Purse:
    """The account, asked for now and then."""

    terminal: Terminal
    account: Account | None = None
    fault: str = ""
    _looks: int = 0

    def look(self) -> None:
        self._looks += 1
        if self._looks % _ACCOUNT_EVERY != 1 and self.account is not None:
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
            return "the terminal does not let a program trade", False
        return "terminal ready", True


@dataclass
class Following:
    """A copier on a screen."""

    copier: WatchedCopier
    client: Measured
    screen: Screen
    happenings: Happenings
    _seen: set[tuple[str, int]] = field(default_factory=set, init=False)
    _faults: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._purse = _Purse(self.copier.terminal)
        self.copier.on_step = self.look
        self._on_reported_before, self.copier.position_sync.on_reported = (
            self.copier.position_sync.on_reported,
            self._note_result,
        )
        for one in self.copier.followed:
            if isinstance(one.guard, WatchedGuard):
                one.guard.on_event = lambda event, one=one: self._note(one, event)  # type: ignore[misc]

    def look(self) -> None:
        for one in self.copier.followed:
            for event in one.guard.outbox():
                self._note(one, event)
        self._note_faults()
        self._purse.look()
        self.screen.show(self.view())

    def view(self) -> View:
        copier = self.copier
        positions: dict[int, Position] = {}
        with suppress(Exception):  # the mark says so
            positions = {one.magic: one for one in copier.terminal.positions()}
        lines = [
            self._line(copy, positions.get(copy.magic)) for one in copier.followed for copy in one.guard.unfinished()
        ]
        return View(
            title="copybot follow",
            desk=urlsplit(self.client.url).netloc,
            account=self._purse.name,
            money=self._purse.money,
            marks=[self._stream_mark(), self._lease_mark(), *self.client.marks(), self._purse.mark()],
            strategies=[_strategy(one) for one in copier.followed],
            lines=lines,
            happenings=list(self.happenings.kept),
            alarms=self._alarms(),
            currency=self._purse.currency,
            nothing="no copies are open",
        )

    def _stream_mark(self) -> tuple[str, bool]:
        return ("stream in touch", True) if self.copier.is_in_touch else ("no stream: asking instead", False)

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
        found = [
            finding.words
            for finding in self.copier.position_sync.findings.values()
            if finding.kind in ("zombie", "grew")
        ]
        if "ended" in self.copier.faults:
            found.append(self.copier.faults["ended"])
        if self.copier.lease.is_lost:
            found.append("another instance follows for this account: nothing more is opened here. Stop one of them")
        return found + [
            f"{one.strategy} is on {one.guard.standing.value}: {one.guard.why}"
            for one in self.copier.followed
            if one.guard.standing is not GuardMode.LIVE
        ]

    def _note_result(self, told: ReportResult) -> None:
        """What the copies' mirror told the desk; that one opened or closed is in the guard's events."""
        self._on_reported_before(told)
        row = self.copier.position_sync.rows.get(told.ticket, told.fields)
        if told.code and told.code not in ("trade_closed", "trade_closed_conflict"):
            self.happenings.add(
                _subject(row, told.ticket),
                f"{told.verb} not taken by the desk: {told.code}",
                "warning",
            )
        elif told.verb in ("reduce", "modify") and not told.code:
            self.happenings.add(_subject(row, told.ticket), _WORDS[told.verb](told.fields))

    def _note(self, one: FollowedSubscription, event: Event) -> None:
        known = one.subscription.sub_id, event.id
        if known in self._seen:
            return
        self._seen.add(known)
        copy = one.guard.copy(event.ref) if event.ref else None
        subject = one.strategy if copy is None else f"{copy.symbol} {copy.side} {lots(copy.asked or copy.volume)}"
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
        with suppress(Exception):  # the words are enough
            if copy.position and (deals := self.copier.terminal.deals(copy.position)):
                gain = sum((deal.profit for deal in deals), Decimal(0))
                return f" at {quoted(deals[-1].price)}, {gain:+,.2f} {self._purse.currency}".rstrip()
        return ""

    def _note_faults(self) -> None:
        """What began and what is over; each is told once."""
        now = dict(self.copier.faults)
        for name in now.keys() - self._faults.keys():
            self.happenings.add(name, now[name], "warning")
        for name in self._faults.keys() - now.keys():
            self.happenings.add(name, "well again", "good")
        self._faults = now


def _strategy(one: FollowedSubscription) -> Strategy:
    guard, terms = one.guard, one.terms
    words, good = _condition(one)
    copies = len(guard.unfinished())
    most = "" if terms.max_open_trades is None else f" of at most {terms.max_open_trades}"
    return Strategy(one.strategy, words, good, f"number {guard.seen} · {copies}{most} open")


def _condition(one: FollowedSubscription) -> tuple[str, bool]:
    if one.guard.standing is not GuardMode.LIVE:
        return one.guard.standing.value.lower(), False
    if not one.is_listed:
        return "the desk knows no such subscription of this key", False
    if one.terms.generation and one.terms.generation not in one.subscription.secrets:
        return f"packet secret {one.terms.generation} is missing in the configuration", False
    if one.terms.status == "PAUSED":
        return "paused at the desk", False
    if one.guard.needs_snapshot:
        return "asking what is active", False
    words = {"in_sync": "in sync", "behind": "catching up", "differs": "differs from the desk"}.get(
        one.terms.sync, "live"
    )
    return words, one.terms.sync != "differs"


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
class Showing:
    """A publisher on a screen."""

    publisher: Publisher
    client: Measured
    screen: Screen
    happenings: Happenings
    fault: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._purse = _Purse(self.publisher.position_sync.terminal)
        self.publisher.on_look = self.look
        self.publisher.position_sync.on_reported = self._note

    def look(self, fault: str) -> None:
        if fault and not self.fault:
            self.happenings.add("", fault, "warning")
        elif self.fault and not fault:
            self.happenings.add("", "well again", "good")
        self.fault = fault
        self._purse.look()
        self.screen.show(self.view())

    def view(self) -> View:
        position_sync = self.publisher.position_sync
        return View(
            title="copybot publish",
            desk=urlsplit(self.client.url).netloc,
            account=self._purse.name,
            money=self._purse.money,
            marks=[("desk in touch", True) if not self.fault else ("no answer", False), *self.client.marks(),
                   self._purse.mark()],
            lines=[line for held in position_sync.held for line in self._lines(held)],
            happenings=list(self.happenings.kept),
            alarms=[f"{one.ticket}: {one.words}" for one in position_sync.findings.values() if one.kind != "too_old"],
            currency=self._purse.currency,
            nothing="no positions are open",
        )  # fmt: skip

    def _lines(self, held: Held) -> list[Line]:
        position_sync, position = self.publisher.position_sync, held.position
        tickets = [trade.ticket for trade in held.trades or () if trade.remaining] or [position.id]
        row: Mapping[str, Any] = position_sync.rows.get(tickets[0], {})
        finding = position_sync.findings.get(tickets[0]) or position_sync.findings.get(position.id)
        state = finding.kind if finding else "published" if row else "new"
        told = sum(
            (Decimal(position_sync.rows[one]["volume"]) for one in tickets if one in position_sync.rows), Decimal(0)
        )
        target = position.volume if told == position.volume or not told else told
        return [
            Line(
                position.symbol, position.side, position.volume, target, position.open_price, position.sl, position.tp,
                state, position_sync.age_ms(tickets[0]), position.profit,
            )
        ]  # fmt: skip

    def _note(self, told: ReportResult) -> None:
        subject = _subject(self.publisher.position_sync.rows.get(told.ticket, told.fields), told.ticket)
        if told.code:
            self.happenings.add(subject, f"{told.verb} refused: {told.code}", "warning")
            return
        words = _WORDS[told.verb](told.fields)
        self.happenings.add(subject, words, "good" if told.verb == "open" else "info")


def _subject(row: Mapping[str, Any], ticket: str) -> str:
    return f"{row.get('symbol', '')} {row.get('type', '')} {ticket}".strip()


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "open": lambda told: f"published, {lots(Decimal(told['volume']))} lots",
    "modify": lambda told: f"stop {_stop(told['sl'])}, target {_stop(told['tp'])}",
    "reduce": lambda told: f"reduced to {lots(Decimal(told['volume']))} lots, {Decimal(told['profit']):+,.2f}",
    "close": lambda told: (
        f"closed at {quoted(Decimal(told['close_price']))} ({told['reason']}), {Decimal(told['profit']):+,.2f}"
    ),
}


def _stop(told: str | None) -> str:
    return "none" if told is None else quoted(Decimal(told))
