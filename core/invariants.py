"""Promises as queries: each finds the rows that break its promise, and nothing while the promise holds."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from core import catalogue
from core.transactions import use_case

FIRST = 20
IN_PLACE = "every key, trigger, function and right is as the code wants it"


class Fault(NamedTuple):
    invariant: str
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.invariant}: not so for {self.subject}" + (f". It {self.detail}" if self.detail else "")


def faults(invariants: Mapping[str, str]) -> list[Fault]:
    """The first offenders of every invariant that does not hold, all at one instant of the database."""
    found = []
    with use_case(), connection.cursor() as cursor:
        cursor.execute("set transaction isolation level repeatable read read only")
        cursor.execute("set local statement_timeout = 0")  # the tables are as long as they are
        for invariant, query in invariants.items():
            cursor.execute(f"{query}\n limit {FIRST}")
            found += [Fault(invariant, subject) for (subject,) in cursor.fetchall()]
    return found


def structural_faults(labels: Collection[str], *, of_deployment: bool = True) -> list[Fault]:
    """What keeps the promises of these apps, where it is not as the code wants it.

    Without `of_deployment`, what any deployment shows for a moment is left out: functions that `migrate` will replace,
    additions, and all differences from a newer version's database.
    """
    found = catalogue.of_apps(labels, catalogue.differences())
    if not of_deployment and found:
        found = [each for each in found if not (each.cured_by_migrate or each.surplus)]
        found = [] if catalogue.is_ahead() else found
    return [Fault(IN_PLACE, each.subject, f"{each.problem}. {each.remedy}") for each in found]


class CheckCommand(BaseCommand):
    """A command that exits 0 only when all invariants of its apps hold, else 1 with the first offenders."""

    requires_system_checks = []  # it asks the database alone
    invariants: Mapping[str, str]
    apps: Collection[str]
    advice = ""

    def handle(self, *args: Any, **options: Any) -> None:
        found = self.find_faults()
        for fault in found:
            self.stderr.write(str(fault))
        if found:
            raise CommandError(f"{len(found)} faults (at most {FIRST} an invariant are shown). {self.advice}".rstrip())
        self.stdout.write(f"{len(self.invariants) + 1} invariants hold.")

    def find_faults(self) -> list[Fault]:
        return faults(self.invariants) + structural_faults(self.apps)
