"""`manage.py candle_gaps --symbol EURUSD --minutes 60`: where bars are missing."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.errors import DomainError, Invalid
from market import services


class Command(BaseCommand):
    help = "Tell where bars are missing, weekends apart from holes. Nothing is ever filled in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--symbol", required=True)
        parser.add_argument("--minutes", required=True, type=int, help="how long a bar lasts")
        parser.add_argument("--since", type=_moment, help="ISO 8601, UTC where no zone is named; else the first bar")
        parser.add_argument("--until", type=_moment, help="ISO 8601, UTC where no zone is named; else the last bar")
        parser.add_argument("--weekends", action="store_true", help="list weekends too")

    def handle(self, *args: Any, **options: Any) -> None:
        asked = {name: options[name] for name in ("symbol", "minutes", "since", "until")}
        weekends = holes = missing = 0
        try:
            services.instrument_of(options["symbol"])
            for one in services.gaps_of(**asked):
                weekends += one.is_weekend
                holes += not one.is_weekend
                missing += one.missing
                if options["weekends"] or not one.is_weekend:
                    kind = "weekend" if one.is_weekend else f"hole of {one.missing:,} bars"
                    self.stdout.write(f"{one.since:%Y-%m-%d %H:%M}  {one.until:%Y-%m-%d %H:%M}  {kind}")
        except Invalid as no:
            raise CommandError(f"{no.code}: {no.extra['fields']}") from no
        except DomainError as no:
            raise CommandError(f"{no.code}: {no.message}") from no
        self.stdout.write(f"{holes:,} holes, {missing:,} bars missing in them; {weekends:,} weekends.")


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as no:
        raise ArgumentTypeError(str(no)) from no
    return at if at.tzinfo else at.replace(tzinfo=UTC)
