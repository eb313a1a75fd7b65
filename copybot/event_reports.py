"""Reports of a guard's events to the desk: that a trade was copied, that it was not, or that its copy has ended."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from copybot.broker import Terminal
from copybot.errors import DeskError, Invalid, KeyRefused, RateLimited, ScopeDenied
from copybot.position_sync import PositionSync, ReportResult
from copybot.state_store import Copy, Event
from copybot.subscriptions import FollowedSubscription, for_older_desks, receipt_of, skip_of

log = logging.getLogger(__name__)

_SKIPS, _ORDERS = "/api/v2/copier/skips", "/api/v2/trades/orders"
_DAY_MS = 86_400_000


class Desk(Protocol):
    def send(self, method: str, path: str, fields: Any = None, *, idempotency_key: str = "") -> Any: ...


@dataclass
class EventReports:
    """Sends one guard's events after another. `counts`: of the reports, by their outcome."""

    desk: Desk
    terminal: Terminal
    clock_ms: Callable[[], int]
    counts: Counter[str]
    _closed_at_desk: set[str] = field(default_factory=set, init=False, repr=False)

    def note_reported(self, result: ReportResult) -> None:
        """Take the outcome of a report about a position."""
        self.counts[f"{result.verb}_{result.code or 'reported'}"] += 1
        if (result.verb == "close" and not result.code) or result.code == "trade_closed":
            self._closed_at_desk.add(result.ticket)

    def report(self, followed: FollowedSubscription, event: Event, position_sync: PositionSync) -> bool:
        """Whether the event is settled: the desk has taken it, or will never take it."""
        copy = followed.guard.copy(event.ref)
        if copy is None or copy.ref.startswith("unknown-"):
            return True  # each heartbeat reports held and halted
        if event.event == "closed":
            position = copy.position or self._position_under(copy.magic)
            if position is None:
                return False
            if position:
                return self._report_closed(followed, copy, position, event, position_sync)
        if event.event == "opened" and not copy.filled_price:
            return True  # the broker does not report the price
        path, fields = (
            (_ORDERS, receipt_of(followed, copy))
            if event.event == "opened"
            else (_SKIPS, skip_of(followed, copy, event))
        )
        name = hashlib.sha256(f"{followed.subscription.sub_id} {event.ref} {event.event}".encode()).hexdigest()[:32]
        try:
            self._send(path, fields, f"{event.event}-{name}")
        except (KeyRefused, ScopeDenied, RateLimited):
            raise
        except DeskError as refusal:
            if refusal.retry != "never" or not refusal.is_proven:
                raise
            log.warning("the desk refused the report that %s was %s: %s", event.ref, event.event, refusal)
            self.counts["reports_refused"] += 1
        return True

    def _send(self, path: str, fields: Mapping[str, Any], key: str) -> None:
        try:
            self.desk.send("POST", path, fields, idempotency_key=key)
        except Invalid:
            older = for_older_desks(fields)
            if older is None:
                raise
            self.desk.send("POST", path, older, idempotency_key=f"{key}-older")

    def _position_under(self, magic: int) -> str | None:
        """The position of a copy that ended before it was seen; empty if there is none, None without an answer."""
        try:
            return self.terminal.position_under(magic)
        except Exception:
            return None

    def _report_closed(
        self, followed: FollowedSubscription, copy: Copy, position: str, event: Event, position_sync: PositionSync
    ) -> bool:
        """Report a copy that ended. One that opened and closed between two syncs was in no list; its deals show it."""
        if position in self._closed_at_desk:
            self._closed_at_desk.discard(position)
            return True
        if position in position_sync.rows:
            return False  # the next sync closes its row
        extra = {"strategy": followed.strategy, "trade_ref": copy.ref}
        if position_sync.note_gone(position, extra, _row_of(copy, position)):
            self._closed_at_desk.discard(position)
            return True
        return self.clock_ms() - event.at_ms > _DAY_MS


def _row_of(copy: Copy, position: str) -> dict[str, str] | None:
    """The row that the desk would have of a copy, by the guard's record; None if its position was never seen."""
    if not copy.filled_price:
        return None
    return {
        "ticket_id": position, "symbol": copy.symbol, "type": copy.side, "volume": f"{copy.asked:.8f}",
        "open_price": f"{copy.filled_price:.8f}",
    }  # fmt: skip
