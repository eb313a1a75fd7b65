"""A provider's loop: a position sync keeps the desk in line with the provider's positions, through any outage."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from copybot.account_report import AccountReport
from copybot.alarm_report import AlarmReport
from copybot.errors import AnswerForged, DeskError, KeyRefused, ScopeDenied
from copybot.findings import Finding
from copybot.position_sync import PositionSync, ReportResult

__all__ = ["PositionSync", "Publisher", "ReportResult"]

log = logging.getLogger(__name__)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass
class Publisher:
    """Runs a provider's position sync: syncs twice a second, and goes on watching while the desk is unreachable.

    It also reports its account once a minute. Raises KeyRefused or ScopeDenied if the desk refuses the key.
    `on_sync` is called after each sync with the fault, or with an empty text.
    """

    position_sync: PositionSync
    poll_s: float = 0.5
    slowest_s: float = 5.0
    account_s: float = 60.0
    on_sync: Callable[[str], None] = lambda _: None
    faults: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        sync = self.position_sync
        self.alarm_report = AlarmReport(sync.desk, _monotonic_ms)
        self.account_report = AccountReport(sync.desk, sync.terminal, _monotonic_ms, int(self.account_s * 1000))

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            fault = self._sync()
            self.on_sync(fault)
            self._pause(stop, self._wait_s())

    def _sync(self) -> str:
        try:
            self.position_sync.sync()
            self._report_account()
        except (KeyRefused, ScopeDenied):
            raise
        except Exception as fault:
            self.faults += 1
            log.warning("sync failed: %s", fault)
            if self._is_cut_off():
                self._report_alarms([Finding("", "terminal", str(fault))])
            return str(fault) or type(fault).__name__
        self.faults = 0
        self._report_alarms([*self.position_sync.findings.values(), *self._account_findings()])
        return ""

    def _account_findings(self) -> list[Finding]:
        return [] if self.account_report.finding is None else [self.account_report.finding]

    def _is_cut_off(self) -> bool:
        """Whether the terminal, and not the desk, is why a sync failed."""
        try:
            return not self.position_sync.terminal.is_settled()
        except Exception:
            return True

    def _report_alarms(self, findings: Iterable[Finding]) -> None:
        """A report that fails is tried again later; it never fails a sync."""
        try:
            self.alarm_report.report(findings)
        except (KeyRefused, ScopeDenied):
            raise
        except (OSError, DeskError, AnswerForged) as fault:
            log.warning("alarms could not be reported: %s", fault)

    def _report_account(self) -> None:
        """Report the account, by which the copies of subscribers are sized."""
        self.account_report.report({str(row["symbol"]) for row in self.position_sync.rows.values()})

    def _wait_s(self) -> float:
        if not self.faults:
            return self.poll_s
        longest = min(self.slowest_s, self.poll_s * 2**self.faults)
        return random.uniform(self.poll_s, longest)  # noqa: S311 - jitter, not a secret

    def _pause(self, stop: threading.Event, for_s: float) -> None:
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, self.poll_s)):
            if self.faults:
                with suppress(Exception):  # the next sync reports it
                    self.position_sync.watch()
