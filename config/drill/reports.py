"""The zombie drill's rules in words, and the reports of its runs. `rules` runs it and imports the bots' package.

A run leaves one fact, `drill.finished`; a wish for one leaves `drill.asked`. There is nothing else to keep.
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
    "copied": "A trade is copied once: one order at the broker, one copy at the desk, and one close.",
    "replayed": "Packets that come again open nothing.",
    "disordered": "Packets in the wrong order leave neither a double nor an orphan.",
    "late_open": "The late open of a closed trade is refused, by the desk and by the copier.",
    "killed_before": "Killed in mid-close, before the broker executed it: closed after the restart, once, for ever.",
    "killed_after": "Killed in mid-close, after the broker executed it: not closed twice, and never opened again.",
    "restarted": "A restart opens nothing that is closed, and closes what was closed meanwhile.",
    "state_lost": "With its state file lost, a copier opens nothing old, keeps what is active, and closes the rest.",
    "altered": "A packet whose volume was altered is refused.",
    "emptied": "An empty snapshot that the desk did not sign closes nothing, by socket or by HTTP.",
    "second": "A second copier opens nothing while the first one's lease runs, and the first closes all the same.",
    "flat": "In the end nothing is left open, neither at the broker nor at the desk.",
}
FINISHED, ASKED, SUBJECT = "drill.finished", "drill.asked", "drill:zombie"
PICKUP_LIMIT = timedelta(minutes=2)  # for a worker to take it up
_LOCK = (0x5A4F4D42, 1)


class AlreadyRunning(DomainError):
    code = "drill_is_running"
    detail = "A drill is running already. It takes less than a minute."


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a rule held, and what was seen of it."""

    rule: str
    passed: bool
    seen: str

    @property
    def sentence(self) -> str:
        return RULES.get(self.rule, self.rule)


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `by`: who wanted it: a user's name, the command, or the night. `pk`: of the fact that tells of it."""

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
        return bool(self.findings) and all(one.passed for one in self.findings)

    @property
    def broken(self) -> list[Finding]:
        return [one for one in self.findings if not one.passed]

    @property
    def verdict(self) -> str:
        return "every rule held" if self.passed else f"{len(self.broken)} did not hold"


def record(report: Report, actor: audit.Actor) -> None:
    """Keep a run, and cry out where a rule did not hold."""
    audit.record(
        FINISHED, actor=actor, subject=SUBJECT, passed=report.passed, took_ms=report.took_ms, by=report.by,
        rules=[asdict(one) for one in report.findings],
    )  # fmt: skip
    for seen in dict.fromkeys(one.seen for one in report.broken):
        log.error("drill.failed", rules=[one.rule for one in report.broken if one.seen == seen], seen=seen)


def latest(most: int = 1) -> list[Report]:
    """The latest runs, the latest first."""
    return [_report_of(row) for row in AuditLog.objects.filter(action=FINISHED).order_by("-id")[:most]]


def _report_of(row: AuditLog) -> Report:
    findings = tuple(Finding(**one) for one in row.detail["rules"])
    return Report(findings, row.detail["took_ms"], row.detail["by"], row.at, row.pk)


def request_run(actor: audit.Actor) -> None:
    """Note that somebody wants a run."""
    audit.record(ASKED, actor=actor, subject=SUBJECT)


def pending_request() -> tuple[datetime, bool] | None:
    """When the last run was asked for, and whether no worker took it up in time; None where it was made."""
    row = AuditLog.objects.filter(action__in=[ASKED, FINISHED], subject=SUBJECT).order_by("-id").first()
    return (row.at, timezone.now() - row.at > PICKUP_LIMIT) if row is not None and row.action == ASKED else None


# --- one at a time


@contextmanager
def exclusive_run() -> Iterator[None]:
    """A lock that ends with the connection, and so with a killed process. Raises AlreadyRunning."""
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
    """Whether anybody holds that lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "select exists (select from pg_locks where locktype = 'advisory' and (classid, objid) = (%s, %s)"
            " and database = (select oid from pg_database where datname = current_database()))",
            _LOCK,
        )
        return bool(cursor.fetchone() == (True,))


# --- figures: of the latest run, whichever process made it


def _of_latest(figure: Callable[[Report], float]) -> Callable[[], float]:
    def read() -> float:
        try:
            (report,) = latest()
        except (DatabaseError, ValueError):  # the database is away, or there was no run yet
            return math.nan
        return figure(report)

    return read


def _ended_s(report: Report) -> float:
    return report.at.timestamp() if report.at else math.nan


Gauge("copydesk_drill_rules_broken", "Rules that the latest zombie drill found broken.").set_function(
    _of_latest(lambda report: float(len(report.broken)))
)
Gauge("copydesk_drill_ended_seconds", "When the latest zombie drill ended.").set_function(_of_latest(_ended_s))
