"""Invariants as queries. Each returns the rows that violate it, and none while it holds."""

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
        return f"{self.invariant}: violated by {self.subject}" + (f". It {self.detail}" if self.detail else "")


def faults(invariants: Mapping[str, str]) -> list[Fault]:
    """Return the first violations of every invariant, all of one snapshot of the database."""
    violations = []
    with use_case(), connection.cursor() as cursor:
        cursor.execute("set transaction isolation level repeatable read read only")
        cursor.execute("set local statement_timeout = 0")  # a query may read whole tables
        for invariant, query in invariants.items():
            cursor.execute(f"{query}\n limit {FIRST}")
            violations += [Fault(invariant, subject) for (subject,) in cursor.fetchall()]
    return violations


def structural_faults(labels: Collection[str], *, of_deployment: bool = True) -> list[Fault]:
    """Return the keys, triggers, functions and rights of these apps that are not as the code wants them.

    Without `of_deployment`, differences that every deployment causes for a moment are left out: migrations that wait,
    functions that `migrate` will replace, additions, and what a newer version changed. What is switched off stays.
    """
    differences = catalogue.of_apps(labels, catalogue.differences())
    if not of_deployment and differences:
        differences = [difference for difference in differences if _is_no_deployment(difference)]
    return [
        Fault(IN_PLACE, difference.subject, f"{difference.problem}. {difference.remedy}") for difference in differences
    ]


def _is_no_deployment(difference: catalogue.Difference) -> bool:
    if difference.is_switched_off:
        return True
    is_guard = difference.subject.split(" ", 1)[0] in ("trigger", "constraint", "column", "rule", "policy")
    return is_guard and not difference.is_addition and not catalogue.is_ahead() and not catalogue.is_behind()


class CheckCommand(BaseCommand):
    """A command that exits 0 only when all invariants of its apps hold, else 1 with the first offenders."""

    requires_system_checks = []  # the command needs the database alone
    invariants: Mapping[str, str]
    apps: Collection[str]
    advice = ""

    def handle(self, *args: Any, **options: Any) -> None:
        violations = self.find_faults()
        for fault in violations:
            self.stderr.write(str(fault))
        if violations:
            shown = f"{len(violations)} faults (at most {FIRST} of each invariant are shown)"
            raise CommandError(f"{shown}. {self.advice}".rstrip())
        self.stdout.write(f"{len(self.invariants) + 1} invariants hold.")

    def find_faults(self) -> list[Fault]:
        return faults(self.invariants) + structural_faults(self.apps)
