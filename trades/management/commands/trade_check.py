"""`manage.py trade_check`: every trade is in exactly one home, or exit 1 with the first that is not."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.invariants import FIRST
from trades import checks


class Command(BaseCommand):
    requires_system_checks = []  # it asks the database alone
    help = "Prove that every trade is in exactly one home. Exit 0 only when all invariants hold."

    def handle(self, *args: Any, **options: Any) -> None:
        found = checks.faults()
        for fault in found:
            self.stderr.write(f"{fault.invariant}: not so for {fault.subject}")
        if found:
            raise CommandError(f"{len(found)} faults (at most {FIRST} an invariant are shown).")
        self.stdout.write(f"{len(checks.INVARIANTS)} invariants hold.")
