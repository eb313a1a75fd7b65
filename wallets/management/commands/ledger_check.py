"""`manage.py ledger_check`: the books are right, or exit 1 with the first things that are not."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.invariants import FIRST
from wallets import checks, guard


class Command(BaseCommand):
    requires_system_checks = []  # it asks the database alone
    help = "Prove the books. Exit 0 only when all invariants hold; where one does not, no money moves from then on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--resume", action="store_true", help="let money move again, once all invariants hold")

    def handle(self, *args: Any, **options: Any) -> None:
        found = guard.check()
        for fault in found:
            self.stderr.write(f"{fault.invariant}: not so for {fault.subject}")
        if found:
            raise CommandError(
                f"{len(found)} faults (at most {FIRST} an invariant are shown). The ledger is halted: find the cause "
                "(ops/README.md), mend it, then run ledger_check --resume."
            )
        self.stdout.write(f"{len(checks.INVARIANTS)} invariants hold.")
        if options["resume"] and guard.resume():
            self.stdout.write("Money moves again.")
        elif guard.halted():
            raise CommandError("The ledger is still halted from before: run ledger_check --resume.")
