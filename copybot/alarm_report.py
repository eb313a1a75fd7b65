"""Reports to the desk what a bot cannot mend by itself, so that people learn of it.

State, not events: a report holds all findings that are present, so a lost report costs seconds.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from copybot.errors import DeskError
from copybot.findings import KINDS, Finding
from copybot.guard import ExecutionGuard
from copybot.position_sync import Held

ALARMS = "/api/v2/account/alarms"
_MOST, _LONGEST_DETAIL = 200, 300
_UNKNOWN_ROUTE, _HOUR_MS = 404, 3_600_000

_LATE_MS = 15_000
_STILL_OPEN = "its close has arrived, but it is still open at the broker"

Key = tuple[str, str, str, str]


class Desk(Protocol):
    def send(self, method: str, path: str, fields: Any = None, *, idempotency_key: str = "") -> Any: ...


@dataclass
class AlarmReport:
    """Sends the findings of one bot: at once when one appears or goes, after `pace_ms` when only its words change, and
    each `again_ms` while there are any. The first report clears what an earlier process left."""

    desk: Desk
    monotonic_ms: Callable[[], int]
    pace_ms: int = 5_000
    again_ms: int = 60_000
    _sent: dict[Key, str] | None = field(default=None, init=False, repr=False)
    _sent_ms: int = field(default=0, init=False, repr=False)
    _waits_until_ms: int = field(default=0, init=False, repr=False)

    def report(self, findings: Iterable[Finding]) -> None:
        """Send them if a report is due. Raises what `desk.send` raises; the next call after `pace_ms` tries again."""
        now, present = self.monotonic_ms(), _present(findings)
        if now < self._waits_until_ms or not self._is_due(present, now):
            return
        self._waits_until_ms = now + self.pace_ms
        try:
            self._send(present)
        except DeskError as refusal:
            if refusal.status != _UNKNOWN_ROUTE:
                raise
            self._waits_until_ms = now + _HOUR_MS  # an older desk has no alarms
        else:
            self._sent, self._sent_ms, self._waits_until_ms = present, now, now

    def begin_anew(self) -> None:
        """Send the next report in any case: a restored desk may have lost the last one."""
        self._sent = None

    def _is_due(self, present: dict[Key, str], now: int) -> bool:
        if self._sent is None or present.keys() != self._sent.keys():
            return True
        return bool(present) and now - self._sent_ms >= (self.pace_ms if present != self._sent else self.again_ms)

    def _send(self, present: dict[Key, str]) -> None:
        alarms = [_alarm(key, detail) for key, detail in sorted(present.items())]
        self.desk.send("POST", ALARMS, {"alarms": alarms}, idempotency_key=f"alarms-{secrets.token_hex(12)}")


@dataclass
class LateCloses:
    """Finds copies that are still open at the broker 15 s after their close arrived."""

    _since_ms: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def findings(
        self, held: Iterable[Held], guards: Sequence[tuple[str, ExecutionGuard]], now_ms: int
    ) -> list[Finding]:
        """`held`: the copies' positions. `guards`: each with its strategy's name."""
        by_strategy = dict(guards)
        due: dict[str, Finding] = {}
        for each in held:
            ref, strategy = each.extra["trade_ref"], each.extra["strategy"]
            copy = by_strategy[strategy].copy(ref)
            if copy is not None and not copy.volume:
                due[ref] = Finding(each.position.id, "closing", _STILL_OPEN, strategy, ref)
        self._since_ms = {ref: min(now_ms, self._since_ms.get(ref, now_ms)) for ref in due}  # clocks are set back
        return [due[ref] for ref, since_ms in self._since_ms.items() if now_ms - since_ms >= _LATE_MS]


def _present(findings: Iterable[Finding]) -> dict[Key, str]:
    rows = {(each.kind, each.ticket, each.strategy, each.ref): _detail(each.words) for each in findings}
    return dict(sorted((key, detail) for key, detail in rows.items() if key[0] in KINDS)[:_MOST])


def _detail(words: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in words)
    return " ".join(printable.split())[:_LONGEST_DETAIL]


def _alarm(key: Key, detail: str) -> dict[str, str]:
    kind, ticket, strategy, ref = key
    ref = "" if ref.startswith("unknown-") else ref  # a position whose trade no file knows
    fields = {"kind": kind, "ticket": ticket, "strategy": strategy, "trade_ref": ref, "detail": detail}
    return {name: value for name, value in fields.items() if value}
