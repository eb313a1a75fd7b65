"""`manage.py zombie_drill`: everything that makes zombies, on a copier in a sandbox; what held, rule by rule."""

import textwrap
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit import services as audit
from config.drill import reports, rules
from config.drill.reports import Report

WIDTH = 100


class Command(BaseCommand):
    help = "Take a sandbox's copier through everything that makes zombies, against the running desk."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default="", help="where the desk is reached; by default DESK_URL")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = rules.run(actor=audit.SYSTEM, by="the command", url=options["url"])
        except reports.AlreadyRunning as no:
            raise CommandError(no.message) from None
        self._print(report)
        if not report.passed:
            raise CommandError(f"{len(report.broken)} of {len(report.findings)} rules did not hold.")

    def _print(self, report: Report) -> None:
        self.stdout.write(f"Zombie drill, {timezone.now():%Y-%m-%d %H:%M:%S} UTC, {report.took_s} s\n\n")
        for one in report.findings:
            mark = self.style.SUCCESS("✓") if one.passed else self.style.ERROR("✗")
            self.stdout.write(f" {mark} {one.rule:14} {one.sentence}")
            for line in textwrap.wrap(one.seen, WIDTH):
                self.stdout.write(f"   {'':14} {line if not one.passed else self.style.HTTP_INFO(line)}")
        if report.passed:
            self.stdout.write(f"\nAll {len(report.findings)} rules held.")
