"""The zombie drill's rules in words, and the reports of its runs. Apart from `rules`, which imports the bots' package.

The audit log is the only record: a run is one row `drill.finished`, a request for a run is one row `drill.asked`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog
from django.db import DatabaseError, connection
from django.utils import timezone
from prometheus_client import Gauge

from audit import services as audit
from audit.models import AuditLog
from core.errors import DomainError

log = structlog.get_logger()

RULES = {
    "copied": "A trade is copied once: one order at the broker, one copy at the desk, one close.",
    "replayed": "Repeated packets open nothing.",
    "disordered": "Packets in the wrong order leave neither a duplicate nor an orphan.",
    "late_open": "A late open of a closed trade is refused by the desk and by the copier.",
    "killed_before": "Killed during a close, before the broker executed it: closed once, after the restart.",
    "killed_after": "Killed during a close, after the broker executed it: not closed twice, and never opened again.",
    "restarted": "A restart opens no closed trade, and closes the copies of trades that were closed in the meantime.",
    "state_lost": "Without its state file, a copier opens no old trade, keeps active copies, and closes the others.",
    "altered": "A packet with an altered volume is refused.",
    "emptied": "An empty snapshot without the desk's signature closes nothing, by socket or by HTTP.",
    "second": "A second copier opens nothing while the first one's lease lasts, and the first still closes its copies.",
    "flat": "At the end nothing is left open, neither at the broker nor at the desk.",
}
FINISHED, ASKED, SUBJECT = "drill.finished", "drill.asked", "drill:zombie"
PICKUP_LIMIT = timedelta(minutes=2)  # for a worker to start a requested run
_LOCK = (0x5A4F4D42, 1)


class AlreadyRunning(DomainError):
    code = "drill_is_running"
    detail = "A drill is already running. Wait for its report: it takes less than a minute."


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one rule. `seen`: what was observed, in words."""

    rule: str
    passed: bool
    seen: str

    @property
    def sentence(self) -> str:
        return RULES.get(self.rule, self.rule)


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `by`: a user's name, the command line or the schedule. `pk`: of the run's row in the audit log."""

    findings: tuple[Finding, ...]
    took_ms: int
    by: str
    at: datetime | None = None
    pk: int | None = None

    @property
    def took_s(self) -> str:
        return f"{self.took_ms / 1000:.1f}"

    @property
    def passed(self) -> bool:
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.passed]

    @property
    def verdict(self) -> str:
        return "all rules passed" if self.passed else f"{len(self.broken)} of {len(self.findings)} rules failed"


def record(report: Report, actor: audit.Actor) -> None:
    """Record a run in the audit log, and log an error for each broken rule."""
    audit.record(
        FINISHED, actor=actor, subject=SUBJECT, passed=report.passed, took_ms=report.took_ms, by=report.by,
        rules=[asdict(finding) for finding in report.findings],
    )  # fmt: skip
    for seen in dict.fromkeys(finding.seen for finding in report.broken):
        rules = [finding.rule for finding in report.broken if finding.seen == seen]
        log.error("drill.failed", rules=rules, seen=seen)


def latest(limit: int = 1) -> list[Report]:
    """The latest runs, newest first."""
    return [_report_of(row) for row in AuditLog.objects.filter(action=FINISHED).order_by("-id")[:limit]]


def _report_of(row: AuditLog) -> Report:
    findings = tuple(Finding(**finding) for finding in row.detail["rules"])
    return Report(findings, row.detail["took_ms"], row.detail["by"], row.at, row.pk)


def request_run(actor: audit.Actor) -> None:
    audit.record(ASKED, actor=actor, subject=SUBJECT)


def pending_request() -> tuple[datetime, bool] | None:
    """When the latest run was requested, and whether no worker started it in time; None where it has finished."""
    row = AuditLog.objects.filter(action__in=[ASKED, FINISHED], subject=SUBJECT).order_by("-id").first()
    return (row.at, timezone.now() - row.at > PICKUP_LIMIT) if row is not None and row.action == ASKED else None


# --- one run at a time


@contextmanager
def exclusive_run() -> Iterator[None]:
    """Hold the drill's lock, which ends with the connection, so also with a killed process. Raises AlreadyRunning."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_try_advisory_lock(%s, %s)", _LOCK)
        if cursor.fetchone() != (True,):
            raise AlreadyRunning
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("select pg_advisory_unlock(%s, %s)", _LOCK)


def is_running() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "select exists (select from pg_locks where locktype = 'advisory' and (classid, objid) = (%s, %s)"
            " and database = (select oid from pg_database where datname = current_database()))",
            _LOCK,
        )
        return bool(cursor.fetchone() == (True,))


# --- metrics of the latest run, read from the audit log because another process may have made it


def _of_latest(metric: Callable[[Report], float]) -> Callable[[], float]:
    def read() -> float:
        try:
            (report,) = latest()
        except (DatabaseError, ValueError):  # the database is away, or no run has been made yet
            return math.nan
        return metric(report)

    return read


def _ended_s(report: Report) -> float:
    return report.at.timestamp() if report.at else math.nan


Gauge("copydesk_drill_rules_broken", "Rules that the latest zombie drill found broken.").set_function(
    _of_latest(lambda report: float(len(report.broken)))
)
Gauge("copydesk_drill_ended_seconds", "When the latest zombie drill ended.").set_function(_of_latest(_ended_s))
