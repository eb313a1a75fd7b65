"""A copier: one trading account that follows some strategies, each through a guard of its own.

Nothing here waits and nothing here sleeps: `on_message` takes what the stream brings, `step` does what is due. The
guards come first, always: whatever the desk does or fails to do, what must be closed is driven at.
"""

import hashlib
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

from copybot.broker import Position, Terminal
from copybot.errors import AnswerForged, DeskError, KeyRefused, LeaseLost, RateLimited, ScopeDenied
from copybot.guard import ExecutionGuard
from copybot.lease import Lease, instance_of
from copybot.limits import Limits
from copybot.packets import PacketRefused
from copybot.position_sync import PositionSync, ReportResult
from copybot.state_store import Copy, Event, GuardMode, State
from copybot.targets import Target, snapshots_of

log = logging.getLogger(__name__)

_HEARTBEAT, _SKIPS, _ORDERS = "/api/v2/copier/beat", "/api/v2/copier/skips", "/api/v2/trades/orders"
_SIDES = ("BUY", "SELL")
_DAY_MS = 86_400_000
_DUST = Decimal("0.000000000001")  # below any step: what a broker leaves of it, it leaves of a symbol it does not know

_LEFT = "its copies are left to you. copybot follow --close-ended closes them"


class Desk(Protocol):
    """What is needed of a client. OSError: nobody knows whether the request was done. DeskError: it was refused."""

    def active(self) -> Any: ...

    def send(
        self, method: str, path: str, fields: Any = None, *, query: dict[str, str] | None = None,
        idempotency_key: str = "",
    ) -> Any: ...  # fmt: skip


class IndexTaken(Exception):
    """Two subscriptions would have the same numbers at the broker: they cannot be followed on one account."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is done, ms. `untouched_ms`: between snapshots, while there is no stream."""

    heartbeat_ms: int = 15_000
    snapshot_ms: int = 30_000
    untouched_ms: int = 5_000
    again_ms: int = 2_000
    position_sync_ms: int = 1_000
    first_retry_ms: int = 1_000
    longest_retry_ms: int = 15_000


@dataclass(frozen=True, slots=True)
class Subscription:
    """`secrets`: its packet secrets by generation, so that the next may be known before the last one ends."""

    strategy: str
    sub_id: str
    secrets: Mapping[int, str] = field(repr=False)

    @property
    def index(self) -> int:
        return int.from_bytes(hashlib.sha256(self.sub_id.encode()).digest()[:2])


@dataclass(frozen=True, slots=True)
class Terms:
    """What the desk says of a subscription with each beat."""

    status: str = ""
    generation: int = 0
    sync: str = ""
    difference: Mapping[str, Any] | None = None
    max_open_trades: int | None = None
    max_slippage_bps: Decimal | None = None
    max_open_age_ms: int | None = None


@dataclass
class FollowedSubscription:
    """A strategy that is followed: its guard, and the desk's last word of it."""

    subscription: Subscription
    guard: ExecutionGuard
    terms: Terms = Terms()
    is_listed: bool = True

    @property
    def strategy(self) -> str:
        return self.subscription.strategy

    def digest(self) -> tuple[str, list[Copy]]:
        """What the desk compares with what must be: a hash of the copies that are held, and they themselves."""
        held = [copy for copy in self.guard.unfinished() if copy.state is State.HELD and copy.volume]
        lines = sorted(f"{copy.ref} {copy.volume:.8f}\n" for copy in held)
        return hashlib.sha256("".join(lines).encode()).hexdigest(), held


@dataclass
class Copier:
    """`folder` holds a state file a subscription. `desk` should give up on a request after a few seconds, and not try
    again by itself: meanwhile nothing is closed. `clock_ms`: the desk's time, `ahead_ms`: by how much the broker's is
    ahead of it; `monotonic_ms`, `jitter`: this machine's. `closes_ended`: the copies of a strategy that the desk no
    longer lists are closed, not left alone.
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
    _due_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _failed: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    is_in_touch: bool = field(default=False, init=False)
    _heartbeats: int = field(default=0, init=False, repr=False)
    _reported_again: set[str] = field(default_factory=set, init=False, repr=False)
    _closed_there: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_indexes(self.subscriptions)
        self.instance = self.instance or instance_of(self.folder)
        self.followed = [self._follow(one) for one in self.subscriptions]
        last, since_ms = min((one.guard.lease for one in self.followed), default=(0, 0))
        self.lease = Lease(self.instance, self.monotonic_ms, self.clock_ms, last, since_ms)
        self._by_sub_id = {one.subscription.sub_id: one for one in self.followed}
        self._epoch = ""
        self.position_sync = self._new_position_sync()

    def _new_position_sync(self) -> PositionSync:
        return PositionSync(
            self.desk, self.terminal, of=self._copied_trade, role="copy", clock_ms=self.clock_ms,
            ahead_ms=self.ahead_ms, on_reported=self._note_reported,
        )  # fmt: skip

    def _follow(self, subscription: Subscription) -> FollowedSubscription:
        guard = self.guard_of(
            self.folder / f"{subscription.sub_id}.sqlite3", subscription.sub_id, subscription.secrets,
            subscription.index, self.terminal, self.clock_ms, self.limits, connect=self.connect,
        )  # fmt: skip
        followed = FollowedSubscription(subscription, guard)
        guard.why_not = lambda target: self._why_not(followed, target)
        return followed

    # --- what comes in

    def on_message(self, message: Mapping[str, Any]) -> None:
        """A message of the stream. Only packets are signed; the rest says no more than that it is time to ask."""
        self.is_in_touch = True
        kind = str(message.get("type", ""))
        if kind == "heartbeat":
            as_of = message["as_of"] if isinstance(message.get("as_of"), Mapping) else {}
            if any(as_of.get(one.strategy) not in (None, str(one.guard.seen)) for one in self.followed):
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
        """The stream broke off, or left something out: nothing is opened until the desk was asked what is active."""
        self.is_in_touch = False
        for one in self.followed:
            one.guard.lost_touch()
        self._hurry("snapshot")

    # --- what is due

    def step(self) -> None:
        """Do what is due. To be called about every second; returns at once where nothing is."""
        for one in self.followed:
            self._attend(one, one.guard.tick)
        for name, do in (
            ("beat", self._heartbeat),
            ("snapshot", self._take_snapshot),
            ("position_sync", self._sync_positions),
            ("reports", self._report),
        ):
            if not self._attempt(name, do):
                break  # the desk is silent: what else is due waits, so that the guards do not

    def _attend(self, one: FollowedSubscription, do: Callable[[], None]) -> None:
        """Have a guard do something. What it cannot write down must keep no other, nor itself, from closing."""
        name = f"state of {one.strategy}"
        try:
            do()
        except PacketRefused:
            raise
        except Exception as fault:
            if name not in self.faults:
                log.exception("the state of %s cannot be kept, so nothing is opened for it", one.strategy)
            self.faults[name] = f"{type(fault).__name__}: {fault}"
        else:
            if not one.guard.needs_snapshot:
                self.faults.pop(name, None)

    def stop(self) -> None:
        """The orderly end: the lease is given back, so that another instance may open at once."""
        if not self.lease.is_lost:
            self._attempt("end", lambda: self._send_heartbeat(ends=True))
        self.close()

    def close(self) -> None:
        for one in self.followed:
            one.guard.close()

    def _hurry(self, name: str) -> None:
        """It is due now; unless it failed just now, then when it may be tried again."""
        if not self._failed[name]:
            self._due_ms[name] = 0

    def _attempt(self, name: str, do: "Callable[[], int | None]") -> bool:
        """Do it where it is due; `do` says in how many ms it is due again. False where the desk was silent."""
        now = self.monotonic_ms()
        if now < self._due_ms.get(name, 0):
            return True
        self._due_ms[name] = now
        try:
            self._due_ms[name] += do() or 0
        except Exception as fault:
            if not isinstance(fault, OSError | DeskError | AnswerForged):
                log.exception("%s failed", name)
            self.faults[name] = f"{type(fault).__name__}: {fault}"
            wait = min(self.pace.longest_retry_ms, self.pace.first_retry_ms * 2 ** min(self._failed[name], 10))
            self._failed[name] += 1
            self._due_ms[name] = now + int(wait * (0.5 + self.jitter() / 2))
            return not isinstance(fault, OSError)
        self._failed.pop(name, None)
        self.faults.pop(name, None)
        return True

    # --- the lease

    def _heartbeat(self) -> int:
        if self.lease.is_lost:
            return _DAY_MS
        try:
            self._send_heartbeat()
        except LeaseLost:
            log.warning("a newer instance follows for this account: nothing more is opened here")
            self.lease.lose()
        return int(self.pace.heartbeat_ms * (0.8 + 0.4 * self.jitter()))

    def _send_heartbeat(self, *, ends: bool = False) -> None:
        self._heartbeats += 1
        sent = self.lease.now()
        answer = self.desk.send(
            "POST", _HEARTBEAT, self._heartbeat_fields(ends), idempotency_key=f"beat-{self.life}-{self._heartbeats}"
        ).json()
        if self.lease.grant(answer, sent=sent):
            for one in self.followed:
                self._attend(one, partial(one.guard.note_lease, self.lease.last, self.lease.since_ms))
        said = {row["sub_id"]: row for row in answer["subscriptions"]}
        for one in self.followed:
            self._note_terms(one, said.get(one.subscription.sub_id))

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
        return fields | {"subscriptions": [self._heartbeat_row(one) for one in self.followed]}

    def _heartbeat_row(self, one: FollowedSubscription) -> dict[str, Any]:
        digest, held = one.digest()
        said: dict[str, Any] = {
            "strategy": one.strategy, "seq": str(one.guard.seen), "standing": one.guard.standing.value,
            "generation": max(one.subscription.secrets), "digest": digest,
        }  # fmt: skip
        if one.terms.sync == "differs":
            said["copies"] = [{"trade_ref": copy.ref, "volume": f"{copy.volume:.8f}"} for copy in held]
        return said

    def _note_terms(self, one: FollowedSubscription, row: Mapping[str, Any] | None) -> None:
        if row is None:
            one.terms = replace(one.terms, status="", sync="")
            return
        slippage = row["max_slippage_bps"]
        one.terms = Terms(
            row["status"], int(row["generation"]), row["sync"], row["difference"], row["max_open_trades"],
            None if slippage is None else Decimal(slippage), row["max_open_age_ms"],
        )  # fmt: skip
        if one.terms.max_open_age_ms is not None:
            one.guard.limits = replace(one.guard.limits, max_open_age_ms=one.terms.max_open_age_ms)
        if one.terms.sync != "in_sync":
            self._hurry("snapshot")
        untold = {event.ref for event in one.guard.outbox()}
        for ref in (one.terms.difference or {}).get("missing", ()):
            if ref not in untold:
                one.guard.report_again(ref, in_short=ref in self._reported_again)
                self._reported_again.add(ref)

    # --- what is active

    def _take_snapshot(self) -> int:
        asked_at = {one.strategy: one.guard.seen for one in self.followed}
        found = snapshots_of(self.desk.active())
        self._note_epoch({snapshot.epoch for snapshot in found.values()})
        for one in self.followed:
            snapshot = found.get(one.strategy)
            one.is_listed = snapshot is not None
            if snapshot is not None:
                self._attend(one, partial(one.guard.on_snapshot, snapshot, asked_at=asked_at[one.strategy]))
        self._note_ended()
        waiting = [one for one in self.followed if one.is_listed and one.guard.needs_snapshot]
        if any(one.guard.standing is not GuardMode.HOLD for one in waiting):
            return self.pace.again_ms
        return self.pace.snapshot_ms if self.is_in_touch and not waiting else self.pace.untouched_ms

    def _note_ended(self) -> None:
        """What the desk does not list any more is left as it is, unless its owner said otherwise.

        Stops at the broker still hold, and a close cannot be taken back: a key of another account lists nothing either.
        """
        left = [one for one in self.followed if not one.is_listed and one.guard.unfinished()]
        self.faults.pop("ended", None)
        if left:
            names = ", ".join(one.strategy for one in left)
            way = "its copies are being closed" if self.closes_ended else _LEFT
            self.faults["ended"] = f"the desk no longer lists {names}: {way}"
        for one in left if self.closes_ended else ():
            self._attend(one, one.guard.wind_up)

    def _note_epoch(self, epochs: set[str]) -> None:
        """A desk that was restored may have lost what it was told, and the lease: then all of it is begun anew."""
        epoch = max(epochs, default=self._epoch)
        if self._epoch and epoch != self._epoch:
            self.position_sync = self._new_position_sync()
            self.lease.begin_anew()
            self._due_ms["beat"] = 0
        self._epoch = epoch

    def _why_not(self, one: FollowedSubscription, target: Target) -> str:
        """The last conditions on an open. Nothing of this is asked about a close."""
        if not self.lease.covers(target.born_ms):
            return "not_leased"
        if target.side not in _SIDES:
            return "rejected"
        others = sum(copy.ref != target.ref and bool(copy.volume) for copy in one.guard.unfinished())
        if one.terms.max_open_trades is not None and others >= one.terms.max_open_trades:
            return "too_many_open"
        try:
            return self._why_not_at_the_broker(one, target)
        except Exception as fault:
            self.faults["terminal"] = str(fault)
            return "market_closed"

    def _why_not_at_the_broker(self, one: FollowedSubscription, target: Target) -> str:
        volume, _, _ = self.terminal.fit(target.symbol, target.volume, target.sl, target.tp)
        if not volume:
            return "volume_too_small"
        quote = self.terminal.quote(target.symbol)
        if quote is None:
            return "symbol_unknown" if self.terminal.fit(target.symbol, _DUST, None, None)[0] else "market_closed"
        worse = quote.of(target.side) - target.price if target.side == "BUY" else target.price - quote.of(target.side)
        most = one.terms.max_slippage_bps
        return "slippage" if most is not None and worse * 10_000 > most * target.price else ""

    # --- what the desk is told

    def _copied_trade(self, position: Position) -> dict[str, str] | None:
        """What a position copies; None for one that is none of ours."""
        for one in self.followed:
            copy = one.guard.numbered(position.magic)
            if copy is not None and not copy.ref.startswith("unknown-"):
                return {"strategy": one.strategy, "trade_ref": copy.ref}
        return None

    def _note_reported(self, told: ReportResult) -> None:
        self.counts[f"{told.verb}_{told.code or 'told'}"] += 1
        if (told.verb == "close" and not told.code) or told.code == "trade_closed":
            self._closed_there.add(told.ticket)

    def _sync_positions(self) -> int:
        self.position_sync.look()
        return self.pace.position_sync_ms

    def _report(self) -> int:
        for one in self.followed:
            for event in one.guard.outbox():
                if self._report_event(one, event):
                    one.guard.mark_reported(event)
        return self.pace.position_sync_ms

    def _report_event(self, one: FollowedSubscription, event: Event) -> bool:
        """Whether the desk knows it now, or never will want to."""
        copy = one.guard.copy(event.ref)
        if copy is None or copy.ref.startswith("unknown-"):
            return True  # held and halted are told with each beat
        if event.event == "closed" and (position := copy.position or self._position_under(copy.magic)):
            return self._report_closed(one, copy, position, event)
        if event.event == "opened" and not copy.filled_price:
            return True  # a broker that does not tell the price
        path, fields = (_ORDERS, _receipt(one, copy)) if event.event == "opened" else (_SKIPS, _skip(one, copy, event))
        name = hashlib.sha256(f"{one.subscription.sub_id} {event.ref} {event.event}".encode()).hexdigest()[:32]
        try:
            self.desk.send("POST", path, fields, idempotency_key=f"{event.event}-{name}")
        except (KeyRefused, ScopeDenied, RateLimited):
            raise
        except DeskError as no:
            if no.retry != "never":
                raise
            log.warning("the desk refused to hear that %s was %s: %s", event.ref, event.event, no)
            self.counts["reports_refused"] += 1
        return True

    def _position_under(self, magic: int) -> str:
        """Of a copy that was gone before it was seen; none where the broker does not say."""
        try:
            return self.terminal.position_under(magic)
        except Exception:
            return ""

    def _report_closed(self, one: FollowedSubscription, copy: Copy, position: str, event: Event) -> bool:
        """One that opened and closed between two looks is in no list: its deals tell of it."""
        if position in self._closed_there:
            self._closed_there.discard(position)
            return True
        if position in self.position_sync.rows:
            return False  # its row is closed by the next look
        if self.position_sync.note_gone(position, {"strategy": one.strategy, "trade_ref": copy.ref}):
            return True
        return self.clock_ms() - event.at_ms > _DAY_MS


def _check_indexes(subscriptions: Sequence[Subscription]) -> None:
    owners: dict[int, str] = {}
    for one in subscriptions:
        other = owners.setdefault(one.index, one.sub_id)
        if other != one.sub_id or sum(each.sub_id == one.sub_id for each in subscriptions) > 1:
            raise IndexTaken(f"{one.sub_id} and {other} would have the same numbers: follow one of them elsewhere")


def _skip(one: FollowedSubscription, copy: Copy, event: Event) -> dict[str, Any]:
    fields = {"strategy": one.strategy, "trade_ref": copy.ref, "reason": event.why}
    if event.event == "closed":
        fields |= {"reason": "lost", "detail": "opened and closed at the broker before it was seen there"}
    return fields


def _receipt(one: FollowedSubscription, copy: Copy) -> dict[str, Any]:
    """What became of the order that opened it. Where its answer was lost, nobody knows when it was filled."""
    fields: dict[str, Any] = {
        "strategy": one.strategy, "seq": str(copy.seq), "trade_ref": copy.ref, "type": copy.side, "status": "executed",
        "requested_price": f"{copy.price:.8f}", "executed_price": f"{copy.filled_price:.8f}",
        "volume": f"{copy.asked:.8f}", "ticket_id": copy.position, "heard_ms": str(copy.heard_ms),
        "sent_ms": str(copy.sent_ms),
    }  # fmt: skip
    return fields | ({"filled_ms": str(copy.filled_ms)} if copy.filled_ms else {})
