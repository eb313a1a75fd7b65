"""`manage.py import_candles FILE --symbol EURUSD --minutes 60`: import bars from a file."""

import re
import time
from argparse import ArgumentTypeError
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit import services as audit
from core.errors import DomainError, Invalid
from market import services
from market.clocks import Clock, at_offset, clock_of, offset_of
from market.models import AssetClass
from market.remarks import remarks
from market.services import candles
from market.services.candles import Report, Source

REPORT_EVERY_S = 0.5


class Command(BaseCommand):
    help = (
        "Store the bars of a CSV file of MetaTrader, Dukascopy, HistData, Binance, Kraken, Forex Tester, yfinance and "
        "others, or of any with a header that names time, open, high, low, close and optionally volume. The file may "
        "be a .gz or .zip. A file is stored whole or not at all; an interrupted import can be run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        # Without this, argparse takes "-05:00" for an option.
        parser._negative_number_matcher = re.compile(r"-\d{1,2}(:?\d\d)?$")
        parser.add_argument("file", type=Path)
        parser.add_argument("--symbol", required=True)
        parser.add_argument("--minutes", required=True, type=int, help="length of a bar")
        clock = parser.add_mutually_exclusive_group()
        clock.add_argument("--utc-offset", type=_offset, help="UTC offset of the file's times, such as +02:00")
        clock.add_argument(
            "--server-zone",
            type=_zone,
            help="the zone of the file's times, with its summer time: EET, Europe/Athens, or America/New_York+7 for a "
            "server that is seven hours ahead of New York",
        )
        parser.add_argument("--dry-run", action="store_true", help="read the whole file and report, but store nothing")
        parser.add_argument("--round", action="store_true", help="round prices to the instrument's point")
        parser.add_argument("--ticker", default="", help="the instrument's name in the file, if it is another")
        parser.add_argument(
            "--columns", type=_columns, default=(), help="names of the columns of a table without a header: "
            "time,open,high,low,close,volume; - for a column without a meaning",
        )  # fmt: skip
        parser.add_argument("--sparse", action="store_true", help="the bars are so rare that no two are neighbours")
        parser.add_argument(
            "--keep-stored", action="store_true", help="keep stored bars that the file contradicts, do not refuse it"
        )
        parser.add_argument("--create", action="store_true", help="add the instrument, with the two facts below")
        parser.add_argument("--point", type=_decimal, help="the smallest price step of a new instrument")
        parser.add_argument("--contract-size", type=_decimal, help="units in one lot of a new instrument")
        parser.add_argument("--asset-class", choices=AssetClass.values, default="", help="of a new instrument")
        parser.add_argument("--verbose", action="store_true", help="report progress even if stderr is not a terminal")

    def handle(self, *args: Any, **options: Any) -> None:
        self.started_at = self.reported_at = time.monotonic()
        self.so_far: Report | None = None
        self.is_terminal = self.stderr.isatty()
        self.reports_progress = self.is_terminal or options["verbose"]
        path, dry_run = options["file"], options["dry_run"]
        source = Source(
            options["symbol"], options["minutes"], options["server_zone"] or options["utc_offset"], options["ticker"],
            options["columns"], options["round"], options["sparse"], options["keep_stored"],
        )  # fmt: skip
        try:
            if options["create"]:
                self._create(options)
            now, progress = timezone.now(), self.progress
            if dry_run:
                report = candles.look(path=path, source=source, now=now, progress=progress)
            else:
                report = candles.import_candles(
                    path=path, source=source, actor=audit.SYSTEM, now=now, progress=progress
                )
        except Invalid as refusal:
            raise CommandError(f"{refusal.code}: {refusal.extra['fields']}") from refusal
        except DomainError as refusal:
            self._end_progress_line()
            raise CommandError(f"{refusal.code}: {refusal.message} Nothing of the file is stored.") from refusal
        except OSError as fault:
            raise CommandError(f"{path}: {fault.strerror or fault}") from fault
        except KeyboardInterrupt as interrupt:
            self._end_progress_line()
            hint = "" if dry_run else " Run it again to continue, or take it back (manage.py candle_imports)."
            raise CommandError(f"Interrupted.{hint}", returncode=130) from interrupt
        self._end_progress_line()
        self.report(report, dry_run=dry_run)

    def _create(self, options: dict[str, Any]) -> None:
        if options["point"] is None or options["contract_size"] is None:
            raise CommandError("--create needs --point and --contract-size")
        services.create_instrument(
            symbol=options["symbol"], point=options["point"], contract_size=options["contract_size"],
            asset_class=options["asset_class"], actor=audit.SYSTEM,
        )  # fmt: skip

    def progress(self, so_far: Report) -> None:
        self.so_far = so_far
        now = time.monotonic()
        if self.reports_progress and now - self.reported_at >= REPORT_EVERY_S:
            self.reported_at = now
            line = f"{so_far.bars:,} bars, {self._rate(so_far)}, {so_far.share:.0%} of the file"
            before, after = ("\r", "  ") if self.is_terminal else ("", "\n")
            self.stderr.write(f"{before}{line}", style_func=str, ending=after)

    def report(self, report: Report, *, dry_run: bool) -> None:
        new = "would be new" if dry_run else "new"
        self.stdout.write(
            f"{report.shape}: {report.bars:,} bars read, {report.added:,} {new}, "
            f"{report.stored_before:,} stored already, {report.contradicting:,} contradicting ({self._rate(report)})."
        )
        if report.first and report.last:
            self.stdout.write(
                f"{report.first:%Y-%m-%d %H:%M} to {report.last:%Y-%m-%d %H:%M} UTC (clock: {report.clock}); "
                f"{report.holes:,} gaps in trading hours, {report.missing:,} bars missing in them."
            )
        if report.import_id and report.added:
            self.stdout.write(
                f"This is import {report.import_id}; to take it back: "
                f"manage.py candle_imports --take-back {report.import_id}"
            )
        for sentence in remarks(report.as_json()):
            self.stdout.write(sentence)
        if report.assumes_utc:
            self.stderr.write(
                "The file does not state a time zone: its times were taken as UTC (see --utc-offset, --server-zone)."
            )
        for pair in report.contradictions:
            self.stderr.write(
                f"{pair.given.opened_at:%Y-%m-%d %H:%M}: given {candles.prices(pair.given)}, "
                f"stored {candles.prices(pair.stored)}"
            )
        if report.contradicting:
            self.stderr.write(f"{report.contradicting:,} bars differ from the stored ones. The stored bars stay.")

    def _rate(self, so_far: Report) -> str:
        return f"{so_far.bars / max(time.monotonic() - self.started_at, 1e-3):,.0f} bars/s"

    def _end_progress_line(self) -> None:
        if self.is_terminal and self.so_far and self.reported_at != self.started_at:
            self.stderr.write("")


def _argument(parse: Any) -> Any:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, InvalidOperation) as fault:
            raise ArgumentTypeError(str(fault) or f"{text!r} is not a number") from fault

    return parsed


def _at_offset(text: str) -> Clock:
    return at_offset(offset_of(text))


def _plain_decimal(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError(f"{text!r} is not a number")
    return number


def _named(text: str) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in text.split(","))


_offset, _zone, _decimal, _columns = map(_argument, (_at_offset, clock_of, _plain_decimal, _named))
