"""Promises as queries: each finds the offenders, nobody as long as the promise is kept."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from core.transactions import use_case

FIRST = 20


class Fault(NamedTuple):
    invariant: str
    subject: str


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


class CheckCommand(BaseCommand):
    """A command that exits 0 only when all invariants of a room hold, else 1 with the first that does not."""

    requires_system_checks = []  # it asks the database alone
    invariants: Mapping[str, str]

    def handle(self, *args: Any, **options: Any) -> None:
        found = self.look()
        for fault in found:
            self.stderr.write(f"{fault.invariant}: not so for {fault.subject}")
        if found:
            raise CommandError(f"{len(found)} faults (at most {FIRST} an invariant are shown). {self.advice}".rstrip())
        self.stdout.write(f"{len(self.invariants)} invariants hold.")

    advice = ""

    def look(self) -> list[Fault]:
        return faults(self.invariants)
