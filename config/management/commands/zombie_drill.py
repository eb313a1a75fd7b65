"""`manage.py zombie_drill`: runs the zombie drill and prints the result of each rule."""

import textwrap
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit import services as audit
from config.drill import reports, rules
from config.drill.reports import Report

WIDTH = 100


class Command(BaseCommand):
    help = (
        "Put a copier in a sandbox through everything that could open a closed trade again, against the running desk."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default="", help="address of the desk, by default DESK_URL")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = rules.run(actor=audit.SYSTEM, by="command line", url=options["url"])
        except reports.AlreadyRunning as refusal:
            raise CommandError(refusal.message) from None
        self._print(report)
        if not report.passed:
            raise CommandError(f"{len(report.broken)} of {len(report.findings)} rules failed.")

    def _print(self, report: Report) -> None:
        self.stdout.write(f"Zombie drill, {timezone.now():%Y-%m-%d %H:%M:%S} UTC, {report.took_s} s\n\n")
        for finding in report.findings:
            mark = self.style.SUCCESS("✓") if finding.passed else self.style.ERROR("✗")
            self.stdout.write(f" {mark} {finding.rule:14} {finding.sentence}")
            for line in textwrap.wrap(finding.seen, WIDTH):
                self.stdout.write(f"   {'':14} {line if not finding.passed else self.style.HTTP_INFO(line)}")
        if report.passed:
            self.stdout.write(f"\nAll {len(report.findings)} rules passed.")
