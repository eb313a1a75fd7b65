"""A copier: one trading account that follows one or more strategies, each through its own guard.

No function here waits or sleeps: `on_message` takes a message of the stream, `step` does what is due. The guards always
come first, so that copies are closed whatever the desk does or fails to do.
"""

import logging
import random
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from copybot.account_report import AccountReport
from copybot.alarm_report import AlarmReport, LateCloses
from copybot.broker import Position, Terminal
from copybot.errors import AnswerForged, DeskError, KeyRefused, LeaseLost, ScopeDenied
from copybot.event_reports import EventReports
from copybot.findings import Finding
from copybot.guard import ExecutionGuard
from copybot.lease import Lease, instance_of
from copybot.limits import Limits
from copybot.packets import PacketRefused
from copybot.position_sync import PositionSync
from copybot.state_store import GuardMode
from copybot.subscriptions import FollowedSubscription, Subscription, Terms, check_indexes
from copybot.targets import Target, snapshots_of

log = logging.getLogger(__name__)

_HEARTBEAT = "/api/v2/copier/beat"
_SIDES = ("BUY", "SELL")
_DAY_MS = 86_400_000

_LEFT = "its copies stay open until you close them. copybot follow --close-ended closes them for you"


class Desk(Protocol):
    """The part of a client that a copier needs. OSError: the outcome is unknown. DeskError: the desk refused."""

    def active(self) -> Any: ...

    def send(
        self, method: str, path: str, fields: Any = None, *, query: dict[str, str] | None = None,
        idempotency_key: str = "",
    ) -> Any: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals in ms. `snapshot_ms`: between snapshots while the stream is up. `polling_ms`: while it is not.
    `again_ms`: while a guard still needs one. `missing_deals_ms`: how long to wait for deals before a copy's end is
    reported without them."""

    heartbeat_ms: int = 15_000
    snapshot_ms: int = 30_000
    polling_ms: int = 5_000
    again_ms: int = 2_000
    position_sync_ms: int = 1_000
    first_retry_ms: int = 1_000
    longest_retry_ms: int = 15_000
    missing_deals_ms: int = 60_000


@dataclass
class Copier:
    """`folder` holds one state file per subscription. `desk` should give up on a request after a few seconds and not
    repeat it by itself, because no copy is closed meanwhile. `clock_ms`: the desk's time. `ahead_ms`: by how much the
    broker's clock is ahead of it. `monotonic_ms`, `jitter`: this machine's. `closes_ended`: close the copies of a
    strategy that the desk no longer lists.
    """

    desk: Desk
    terminal: Terminal
    subscriptions: Sequence[Subscription]
    folder: Path
    clock_ms: Callable[[], int]
    limits: Limits = field(default_factory=Limits)
    pace: Pace = field(default_factory=Pace)
    instance: str = ""
    closes_ended: bool = False
    ahead_ms: Callable[[], int | None] = lambda: 0
    life: str = field(default_factory=lambda: secrets.token_hex(12))
    monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    jitter: Callable[[], float] = random.random
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    guard_of: Callable[..., ExecutionGuard] = ExecutionGuard
    counts: Counter[str] = field(default_factory=Counter, init=False)
    faults: dict[str, str] = field(default_factory=dict, init=False)
    refusals: dict[str, DeskError] = field(default_factory=dict, init=False)  # of the key, by task
    _due_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _failed: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    is_in_touch: bool = field(default=False, init=False)
    _heartbeats: int = field(default=0, init=False, repr=False)
    _reported_again: set[str] = field(default_factory=set, init=False, repr=False)
    _of_positions: list[Finding] = field(default_factory=list, init=False, repr=False)
    _still_open: list[Finding] = field(default_factory=list, init=False, repr=False)
    _late_closes: LateCloses = field(default_factory=LateCloses, init=False, repr=False)

    def __post_init__(self) -> None:
        check_indexes(self.subscriptions)
        self.instance = self.instance or instance_of(self.folder)
        self.followed = [self._follow(subscription) for subscription in self.subscriptions]
        last, since_ms = min((followed.guard.lease for followed in self.followed), default=(0, 0))
        self.lease = Lease(self.instance, self.monotonic_ms, self.clock_ms, last, since_ms)
        self._by_sub_id = {followed.subscription.sub_id: followed for followed in self.followed}
        self._epoch = ""
        self.event_reports = EventReports(self.desk, self.terminal, self.clock_ms, self.counts)
        self.position_sync = self._new_position_sync()
        self.alarm_report = AlarmReport(self.desk, self.monotonic_ms)
        self.account_report = AccountReport(self.desk, self.terminal, self.monotonic_ms)

    def _new_position_sync(self) -> PositionSync:
        return PositionSync(
            self.desk, self.terminal, of=self._copied_trade, role="copy", clock_ms=self.clock_ms,
            ahead_ms=self.ahead_ms, longest_wait_ms=self.pace.missing_deals_ms,
            on_reported=self.event_reports.note_reported,
        )  # fmt: skip

    def _follow(self, subscription: Subscription) -> FollowedSubscription:
        guard = self.guard_of(
            self.folder / f"{subscription.sub_id}.sqlite3", subscription.sub_id, subscription.secrets,
            subscription.index, self.terminal, self.clock_ms, self.limits, connect=self.connect,
        )  # fmt: skip
        followed = FollowedSubscription(subscription, guard)
        guard.why_not = lambda target: self._why_not(followed, target)
        return followed

    def findings(self) -> list[Finding]:
        """What this copier cannot mend by itself, so that a person should know about it."""
        of_guards = [
            replace(finding, strategy=followed.strategy)
            for followed in self.followed
            for finding in followed.guard.findings()
        ]
        refused = {finding.ticket for finding in of_guards}
        terminal = [Finding("", "terminal", self.faults["terminal"])] if "terminal" in self.faults else []
        state = [Finding("", "state", fault) for name, fault in self.faults.items() if name.startswith("state of ")]
        still_open = [finding for finding in self._still_open if finding.ticket not in refused]
        account = [] if self.account_report.finding is None else [self.account_report.finding]
        return [*of_guards, *self._of_positions, *still_open, *terminal, *state, *account]

    # --- messages of the stream

    def on_message(self, message: Mapping[str, Any]) -> None:
        """Take a message of the stream. Only packets are signed; other messages only make a snapshot due."""
        self.is_in_touch = True
        kind = str(message.get("type", ""))
        if kind == "heartbeat":
            as_of = message["as_of"] if isinstance(message.get("as_of"), Mapping) else {}
            if any(as_of.get(followed.strategy) not in (None, str(followed.guard.seen)) for followed in self.followed):
                self._hurry("snapshot")
        elif kind == "snapshot":
            self._hurry("snapshot")
        elif isinstance(message.get("packet"), Mapping):
            self._on_packet(message["packet"])

    def _on_packet(self, packet: Mapping[str, Any]) -> None:
        followed = self._by_sub_id.get(str(packet.get("sub_id", "")))
        if followed is None:
            self.counts["stray"] += 1
            return
        try:
            self._attend(followed, partial(followed.guard.on_packet, packet))
        except PacketRefused as refused:
            self.counts[refused.code] += 1
            self.faults["packet"] = str(refused)
            self._hurry("snapshot")
        if followed.guard.needs_snapshot:
            self._hurry("snapshot")
        self._hurry("position_sync")

    def lost_touch(self) -> None:
        """Open nothing until the next snapshot: the stream broke off or skipped a message."""
        self.is_in_touch = False
        for followed in self.followed:
            followed.guard.lost_touch()
        self._hurry("snapshot")

    # --- what is due

    def step(self) -> None:
        """Do what is due. Call it about once a second; it returns at once if nothing is due."""
        for followed in self.followed:
            self._attend(followed, followed.guard.tick)
        for name, do in (
            ("beat", self._heartbeat),
            ("snapshot", self._take_snapshot),
            ("position_sync", self._sync_positions),
            ("reports", self._report),
            ("account", self._report_account),
            ("alarms", self._report_alarms),
        ):
            if not self._attempt(name, do):
                break  # the desk does not answer: skip the other requests, so that the guards do not wait for them

    def _attend(self, followed: FollowedSubscription, do: Callable[[], None]) -> None:
        """Call a guard. A state file that cannot be written must keep neither this guard nor others from closing."""
        name = f"state of {followed.strategy}"
        try:
            do()
        except PacketRefused:
            raise
        except Exception as fault:
            if name not in self.faults:
                log.exception("the state of %s cannot be written, so no trade is opened for it", followed.strategy)
            self.faults[name] = f"{type(fault).__name__}: {fault}"
        else:
            if not followed.guard.needs_snapshot:
                self.faults.pop(name, None)

    def stop(self) -> None:
        """End in good order: return the lease, so that another instance may open at once."""
        if not self.lease.is_lost:
            self._attempt("end", lambda: self._send_heartbeat(ends=True))
        self.close()

    def close(self) -> None:
        for followed in self.followed:
            followed.guard.close()

    def _hurry(self, name: str) -> None:
        """Make a task due now, unless it failed last time: then its retry time stands."""
        if not self._failed[name]:
            self._due_ms[name] = 0

    def _attempt(self, name: str, do: "Callable[[], int | None]") -> bool:
        """Run a task if it is due; `do` returns the ms until it is due again. False if the desk did not answer."""
        now = self.monotonic_ms()
        if now < self._due_ms.get(name, 0):
            return True
        self._due_ms[name] = now
        try:
            self._due_ms[name] += do() or 0
        except Exception as fault:
            if not isinstance(fault, OSError | DeskError | AnswerForged):
                log.exception("%s failed", name)
            if isinstance(fault, KeyRefused | ScopeDenied):
                self.refusals[name] = fault
            self.faults[name] = f"{type(fault).__name__}: {fault}"
            wait = min(self.pace.longest_retry_ms, self.pace.first_retry_ms * 2 ** min(self._failed[name], 10))
            self._failed[name] += 1
            self._due_ms[name] = now + int(wait * (0.5 + self.jitter() / 2))
            return not isinstance(fault, OSError)
        self._failed.pop(name, None)
        self.faults.pop(name, None)
        self.refusals.pop(name, None)
        return True

    # --- the lease

    def _heartbeat(self) -> int:
        if self.lease.is_lost:
            return _DAY_MS
        try:
            self._send_heartbeat()
        except LeaseLost:
            log.warning("a newer instance copies for this account: this one opens no more trades")
            self.lease.lose()
        return int(self.pace.heartbeat_ms * (0.8 + 0.4 * self.jitter()))

    def _send_heartbeat(self, *, ends: bool = False) -> None:
        self._heartbeats += 1
        sent = self.lease.now()
        answer = self.desk.send(
            "POST", _HEARTBEAT, self._heartbeat_fields(ends), idempotency_key=f"beat-{self.life}-{self._heartbeats}"
        ).json()
        if self.lease.grant(answer, sent=sent):
            for followed in self.followed:
                self._attend(followed, partial(followed.guard.note_lease, self.lease.last, self.lease.since_ms))
        rows = {row["sub_id"]: row for row in answer["subscriptions"]}
        for followed in self.followed:
            self._note_terms(followed, rows.get(followed.subscription.sub_id))

    def _heartbeat_fields(self, ends: bool) -> dict[str, Any]:
        fields = {
            "instance": self.instance,
            "fence": self.lease.takeover_number,
            "ends": ends,
            "balance": None,
            "equity": None,
        }
        try:
            account = self.terminal.account()
        except Exception as fault:
            self.faults["terminal"] = str(fault)
        else:
            self.faults.pop("terminal", None)
            fields |= {"balance": f"{account.balance:.8f}", "equity": f"{account.equity:.8f}"}
        return fields | {"subscriptions": [self._heartbeat_row(followed) for followed in self.followed]}

    def _heartbeat_row(self, followed: FollowedSubscription) -> dict[str, Any]:
        digest, held = followed.digest()
        row: dict[str, Any] = {
            "strategy": followed.strategy, "seq": str(followed.guard.seen), "standing": followed.guard.mode.value,
            "generation": max(followed.subscription.secrets), "digest": digest,
        }  # fmt: skip
        if followed.terms.sync == "differs":
            row["copies"] = [{"trade_ref": copy.ref, "volume": f"{copy.volume:.8f}"} for copy in held]
        return row

    def _note_terms(self, followed: FollowedSubscription, row: Mapping[str, Any] | None) -> None:
        if row is None:
            followed.terms = replace(followed.terms, status="", sync="")
            return
        slippage = row["max_slippage_bps"]
        followed.terms = Terms(
            row["status"], int(row["generation"]), row["sync"], row["difference"], row["max_open_trades"],
            None if slippage is None else Decimal(slippage), row["max_open_age_ms"],
        )  # fmt: skip
        if followed.terms.max_open_age_ms is not None:
            followed.guard.limits = replace(followed.guard.limits, max_open_age_ms=followed.terms.max_open_age_ms)
        if followed.terms.sync != "in_sync":
            self._hurry("snapshot")
        queued = {event.ref for event in followed.guard.outbox()}
        for ref in (followed.terms.difference or {}).get("missing", ()):
            if ref not in queued:
                followed.guard.report_again(ref, in_short=ref in self._reported_again)
                self._reported_again.add(ref)

    # --- active trades

    def _take_snapshot(self) -> int:
        asked_at = {followed.strategy: followed.guard.seen for followed in self.followed}
        snapshots = snapshots_of(self.desk.active())
        self._note_epoch({snapshot.epoch for snapshot in snapshots.values()})
        for followed in self.followed:
            snapshot = snapshots.get(followed.strategy)
            followed.is_listed = snapshot is not None
            if snapshot is not None:
                self._attend(
                    followed, partial(followed.guard.on_snapshot, snapshot, asked_at=asked_at[followed.strategy])
                )
        self._note_ended()
        waiting = [followed for followed in self.followed if followed.is_listed and followed.guard.needs_snapshot]
        if any(followed.guard.mode is not GuardMode.HOLD for followed in waiting):
            return self.pace.again_ms
        return self.pace.snapshot_ms if self.is_in_touch and not waiting else self.pace.polling_ms

    def _note_ended(self) -> None:
        """Leave the copies of a strategy that the desk no longer lists, unless the owner asked to close them.

        Their stops at the broker still hold, and a close cannot be undone: the key of another account lists no strategy
        either.
        """
        left = [followed for followed in self.followed if not followed.is_listed and followed.guard.unfinished()]
        self.faults.pop("ended", None)
        if left:
            names = ", ".join(followed.strategy for followed in left)
            consequence = "its copies are being closed" if self.closes_ended else _LEFT
            self.faults["ended"] = f"the desk no longer lists {names}: {consequence}"
        for followed in left if self.closes_ended else ():
            self._attend(followed, followed.guard.wind_up)

    def _note_epoch(self, epochs: set[str]) -> None:
        """On a new epoch, start reports and lease over: a restored desk may have lost both."""
        epoch = max(epochs, default=self._epoch)
        if self._epoch and epoch != self._epoch:
            self.position_sync = self._new_position_sync()
            self.alarm_report.begin_anew()
            self.account_report.begin_anew()
            self.lease.begin_anew()
            self._due_ms["beat"] = 0
        self._epoch = epoch

    def _why_not(self, followed: FollowedSubscription, target: Target) -> str:
        """The last conditions on an open: why it must not happen, or an empty text. Never called for a close."""
        if not self.lease.covers(target.born_ms):
            return "not_leased"
        if target.side not in _SIDES:
            return "rejected"
        others = sum(copy.ref != target.ref and bool(copy.volume) for copy in followed.guard.unfinished())
        if followed.terms.max_open_trades is not None and others >= followed.terms.max_open_trades:
            return "too_many_open"
        try:
            return self._why_not_at_the_broker(followed, target)
        except Exception as fault:
            self.faults["terminal"] = str(fault)
            return "market_closed"

    def _why_not_at_the_broker(self, followed: FollowedSubscription, target: Target) -> str:
        spec = self.terminal.spec(target.symbol)
        if spec is None:
            return "symbol_unknown"
        if not spec.lots(target.volume):
            return "volume_too_small"
        quote = self.terminal.quote(target.symbol)
        if quote is None or not spec.may_open:
            return "market_closed"
        worse = quote.of(target.side) - target.price if target.side == "BUY" else target.price - quote.of(target.side)
        most = followed.terms.max_slippage_bps
        return "slippage" if most is not None and worse * 10_000 > most * abs(target.price) else ""

    # --- reports to the desk

    def _copied_trade(self, position: Position) -> dict[str, str] | None:
        """Which trade a position copies; None for a position that is not a copy, or that may still grow.

        A row at the desk never grows. An order without an answer may be executed in parts (on a FIFO account it is
        several orders), so its copy is reported as soon as no part can be missing.
        """
        for followed in self.followed:
            copy = followed.guard.by_magic(position.magic)
            if copy is not None and not copy.ref.startswith("unknown-"):
                if copy.is_filling(self.clock_ms(), followed.guard.limits.settle_ms):
                    return None
                return {"strategy": followed.strategy, "trade_ref": copy.ref}
        return None

    def _sync_positions(self) -> int:
        self.position_sync.sync()
        guards = [(followed.strategy, followed.guard) for followed in self.followed]
        self._of_positions = list(self.position_sync.findings.values())
        self._still_open = self._late_closes.findings(self.position_sync.held, guards, self.clock_ms())
        return self.pace.position_sync_ms

    def _report(self) -> int:
        for followed in self.followed:
            for event in followed.guard.outbox():
                if self.event_reports.report(followed, event, self.position_sync):
                    followed.guard.mark_reported(event)
        return self.pace.position_sync_ms

    def _report_account(self) -> int:
        held = {copy.symbol for followed in self.followed for copy in followed.guard.unfinished()}
        self.account_report.report(held)
        return self.pace.position_sync_ms

    def _report_alarms(self) -> int:
        self.alarm_report.report(self.findings())
        return self.pace.position_sync_ms
