"""`manage.py candle_gaps --symbol EURUSD --minutes 60`: list missing bars."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.errors import DomainError, Invalid
from market import services


class Command(BaseCommand):
    help = "List missing bars; weekends count separately from holes. Nothing is filled in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--symbol", required=True)
        parser.add_argument("--minutes", required=True, type=int, help="length of a bar")
        parser.add_argument(
            "--since", type=_moment, help="ISO 8601, UTC unless a zone is given; default: the first bar"
        )
        parser.add_argument("--until", type=_moment, help="ISO 8601, UTC unless a zone is given; default: the last bar")
        parser.add_argument("--weekends", action="store_true", help="list weekends and holidays too")

    def handle(self, *args: Any, **options: Any) -> None:
        arguments = {name: options[name] for name in ("symbol", "minutes", "since", "until")}
        weekends = holes = missing = 0
        try:
            services.instrument_of(options["symbol"])
            for gap in services.gaps_of(**arguments):
                weekends += gap.is_closure
                holes += not gap.is_closure
                missing += gap.missing
                if options["weekends"] or not gap.is_closure:
                    kind = "weekend" if gap.is_closure else f"hole of {gap.missing:,} bars"
                    self.stdout.write(f"{gap.since:%Y-%m-%d %H:%M}  {gap.until:%Y-%m-%d %H:%M}  {kind}")
        except Invalid as refusal:
            raise CommandError(f"{refusal.code}: {refusal.extra['fields']}") from refusal
        except DomainError as refusal:
            raise CommandError(f"{refusal.code}: {refusal.message}") from refusal
        self.stdout.write(f"{holes:,} holes, {missing:,} bars missing in them; {weekends:,} weekends.")


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as fault:
        raise ArgumentTypeError(str(fault)) from fault
    return at if at.tzinfo else at.replace(tzinfo=UTC)
