"""`manage.py ledger_check`: exit 0 where all invariants of the books hold, else 1 with the first faults."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from core.invariants import CheckCommand, Fault
from wallets import checks
from wallets.services import ledger_halt


class Command(CheckCommand):
    help = "Check the books. Exit 0 only when all invariants hold; otherwise the ledger is halted and no money moves."
    invariants = checks.INVARIANTS
    apps = checks.APPS
    advice = "The ledger is halted: find the cause (ops/README.md), fix it, then run ledger_check --resume."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--resume", action="store_true", help="end the halt, once all invariants hold")

    def find_faults(self) -> list[Fault]:
        return ledger_halt.check()

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        if options["resume"] and ledger_halt.resume():
            self.stdout.write("Money moves again.")
        elif ledger_halt.halted():
            raise CommandError("The ledger is still halted after an earlier fault: run ledger_check --resume.")
