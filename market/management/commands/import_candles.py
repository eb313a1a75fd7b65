"""`manage.py import_candles FILE --symbol EURUSD --minutes 60`: import bars from a file."""

import re
import time
from argparse import ArgumentTypeError
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit import services as audit
from core import money
from core.errors import DomainError, Invalid
from market import imports, services
from market.services import Imported

REPORT_EVERY_S = 0.5


class Command(BaseCommand):
    help = (
        "Store the bars of a CSV file: of MetaTrader 4 or 5, Dukascopy, HistData, or any with a header that names "
        "time, open, high, low, close and optionally volume. The file may be compressed by gzip. Stored bars never "
        "change, so an interrupted import can be run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        # Without this, argparse takes "-05:00" for an option.
        parser._negative_number_matcher = re.compile(r"-\d{1,2}(:?\d\d)?$")
        parser.add_argument("file", type=Path)
        parser.add_argument("--symbol", required=True)
        parser.add_argument("--minutes", required=True, type=int, help="length of a bar")
        parser.add_argument(
            "--utc-offset",
            type=_offset,
            help="UTC offset of the file's times, such as +02:00; MetaTrader writes its server's time",
        )
        parser.add_argument("--verbose", action="store_true", help="report progress even if stderr is not a terminal")

    def handle(self, *args: Any, **options: Any) -> None:
        self.started_at = self.reported_at = time.monotonic()
        self.so_far: Imported | None = None
        self.is_terminal = self.stderr.isatty()
        self.reports_progress = self.is_terminal or options["verbose"]
        try:
            result = services.import_candles(
                path=options["file"],
                symbol=options["symbol"],
                minutes=options["minutes"],
                utc_offset=options["utc_offset"],
                actor=audit.SYSTEM,
                now=timezone.now(),
                progress=self.progress,
            )
        except Invalid as refusal:
            raise CommandError(f"{refusal.code}: {refusal.extra['fields']}") from refusal
        except DomainError as refusal:
            raise CommandError(f"{refusal.code}: {refusal.message}{self._stored_note()}") from refusal
        except OSError as fault:
            raise CommandError(f"{options['file']}: {fault.strerror or fault}{self._stored_note()}") from fault
        except KeyboardInterrupt as interrupt:
            text = f"Interrupted.{self._stored_note()} Run it again to continue."
            raise CommandError(text, returncode=130) from interrupt
        self._end_progress_line()
        self.report(result)

    def progress(self, so_far: Imported) -> None:
        self.so_far = so_far
        now = time.monotonic()
        if self.reports_progress and now - self.reported_at >= REPORT_EVERY_S:
            self.reported_at = now
            line = f"{so_far.bars:,} bars, {self._rate(so_far)}, {so_far.share:.0%} of the file"
            before, after = ("\r", "  ") if self.is_terminal else ("", "\n")
            self.stderr.write(f"{before}{line}", style_func=str, ending=after)

    def report(self, result: Imported) -> None:
        self.stdout.write(
            f"{result.shape}: {result.bars:,} bars read, {result.added:,} new, "
            f"{result.stored_before:,} stored already, {result.contradicting:,} contradicting ({self._rate(result)})."
        )
        if result.unfinished:
            self.stdout.write("The last bar has not ended yet and was left out.")
        if result.assumes_utc:
            self.stderr.write("The file does not state a time zone: its times were taken as UTC (see --utc-offset).")
        for bar in result.contradictions:
            self.stderr.write(
                f"{bar.given.opened_at:%Y-%m-%d %H:%M}: given {_prices(bar.given)}, stored {_prices(bar.stored)}"
            )
        if result.contradicting:
            self.stderr.write(f"{result.contradicting:,} bars differ from the stored ones. The stored bars stay.")

    def _rate(self, so_far: Imported) -> str:
        return f"{so_far.bars / max(time.monotonic() - self.started_at, 1e-3):,.0f} bars/s"

    def _stored_note(self) -> str:
        self._end_progress_line()
        return f" (The {self.so_far.bars:,} bars before it are stored.)" if self.so_far else ""

    def _end_progress_line(self) -> None:
        if self.is_terminal and self.so_far and self.reported_at != self.started_at:
            self.stderr.write("")


def _offset(text: str) -> timedelta:
    try:
        return imports.offset_of(text)
    except ValueError as fault:
        raise ArgumentTypeError(str(fault)) from fault


def _prices(bar: imports.Bar) -> str:
    return " ".join(money.plain(value) for value in bar[1:])
