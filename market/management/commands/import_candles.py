"""`manage.py import_candles FILE --symbol EURUSD --minutes 60`: bring in bars from a file."""

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
        "time, open, high, low, close and perhaps volume. May be packed by gzip. Stored bars stay as they are, so an "
        "interrupted import is simply run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        # Else "-05:00" would be taken for an option.
        parser._negative_number_matcher = re.compile(r"-\d{1,2}(:?\d\d)?$")
        parser.add_argument("file", type=Path)
        parser.add_argument("--symbol", required=True)
        parser.add_argument("--minutes", required=True, type=int, help="how long a bar lasts")
        parser.add_argument(
            "--utc-offset",
            type=_offset,
            help="how far ahead of UTC the file's clock is, as +02:00: MetaTrader writes its server's time",
        )
        parser.add_argument("--verbose", action="store_true", help="tell the progress, also where nobody watches")

    def handle(self, *args: Any, **options: Any) -> None:
        self.began = self.reported = time.monotonic()
        self.so_far: Imported | None = None
        self.watched = self.stderr.isatty()
        self.tells = self.watched or options["verbose"]
        try:
            done = services.import_candles(
                path=options["file"],
                symbol=options["symbol"],
                minutes=options["minutes"],
                utc_offset=options["utc_offset"],
                actor=audit.SYSTEM,
                now=timezone.now(),
                progress=self.progress,
            )
        except Invalid as no:
            raise CommandError(f"{no.code}: {no.extra['fields']}") from no
        except DomainError as no:
            raise CommandError(f"{no.code}: {no.message}{self._kept()}") from no
        except OSError as no:
            raise CommandError(f"{options['file']}: {no.strerror or no}{self._kept()}") from no
        except KeyboardInterrupt as no:
            raise CommandError(f"Interrupted.{self._kept()} Run it again to go on.", returncode=130) from no
        self._close_line()
        self.report(done)

    def progress(self, so_far: Imported) -> None:
        self.so_far = so_far
        now = time.monotonic()
        if self.tells and now - self.reported >= REPORT_EVERY_S:
            self.reported = now
            line = f"{so_far.bars:,} bars, {self._rate(so_far)}, {so_far.share:.0%} of the file"
            before, after = ("\r", "  ") if self.watched else ("", "\n")
            self.stderr.write(f"{before}{line}", style_func=str, ending=after)

    def report(self, done: Imported) -> None:
        self.stdout.write(
            f"{done.shape}: {done.bars:,} bars read, {done.added:,} new, {done.known:,} known already, "
            f"{done.contradicting:,} contradicting ({self._rate(done)})."
        )
        if done.unfinished:
            self.stdout.write("The last bar is not over yet and was left out.")
        if done.assumes_utc:
            self.stderr.write("The file does not say in which zone its times are: taken as UTC (--utc-offset).")
        for one in done.contradictions:
            self.stderr.write(
                f"{one.given.opened_at:%Y-%m-%d %H:%M}: given {_prices(one.given)}, kept {_prices(one.kept)}"
            )
        if done.contradicting:
            self.stderr.write(f"{done.contradicting:,} bars are not what is kept. What is kept stays.")

    def _rate(self, so_far: Imported) -> str:
        return f"{so_far.bars / max(time.monotonic() - self.began, 1e-3):,.0f} bars/s"

    def _kept(self) -> str:
        self._close_line()
        return f" ({self.so_far.bars:,} bars before it are kept.)" if self.so_far else ""

    def _close_line(self) -> None:
        if self.watched and self.so_far and self.reported != self.began:
            self.stderr.write("")


def _offset(text: str) -> timedelta:
    try:
        return imports.offset_of(text)
    except ValueError as no:
        raise ArgumentTypeError(str(no)) from no


def _prices(bar: imports.Bar) -> str:
    return " ".join(money.plain(value) for value in bar[1:])
