"""Promises as queries: each finds the offenders, nobody as long as the promise is kept."""

from collections.abc import Mapping
from typing import NamedTuple

from django.db import connection, transaction

FIRST = 20


class Fault(NamedTuple):
    invariant: str
    subject: str


def faults(invariants: Mapping[str, str]) -> list[Fault]:
    """The first offenders of every invariant that does not hold, all at one instant of the database."""
    found = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("set transaction isolation level repeatable read read only")
        cursor.execute("set local statement_timeout = 0")  # the tables are as long as they are
        for invariant, query in invariants.items():
            cursor.execute(f"{query}\n limit {FIRST}")
            found += [Fault(invariant, subject) for (subject,) in cursor.fetchall()]
    return found
