"""`manage.py candle_imports`: list the imports of bars, or take one back."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit import services as audit
from core.errors import DomainError
from market.models import CandleImport
from market.services import candles


class Command(BaseCommand):
    help = "List the imports of bars, the latest first; or take one back, which deletes the bars that it brought."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--symbol", help="only of this instrument")
        parser.add_argument("--take-back", type=int, metavar="IMPORT")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["take_back"] is not None:
            try:
                taken = candles.take_back(import_id=options["take_back"], actor=audit.SYSTEM, now=timezone.now())
            except DomainError as refusal:
                raise CommandError(f"{refusal.code}: {refusal.message}") from refusal
            self.stdout.write(f"{taken:,} bars of import {options['take_back']} were deleted.")
            return
        imports = CandleImport.objects.order_by("-pk")
        if options["symbol"]:
            imports = imports.filter(instrument=options["symbol"])
        for row in imports[:200]:
            self.stdout.write(
                f"{row.pk:>6}  {row.started_at:%Y-%m-%d %H:%M}  {row.instrument_id} {row.minutes}  "
                f"{row.added:,} bars  {row.get_state_display()}  {row.file}"
            )
