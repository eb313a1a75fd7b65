"""`manage.py demo`: make the demo's cast, load its prices, and become its bot."""

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit import services as audit
from config import cast
from market import services as market


class Command(BaseCommand):
    help = "Run the demo's bot against the desk on this machine, until stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default=f"http://127.0.0.1:{os.environ.get('PORT', '8000')}")
        parser.add_argument("--bars-per-s", default="4", help="how fast an hour of the market goes by")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("The demo runs only where DEBUG is on.")
        key = cast.make_demo()
        cast.spare_demo()
        market.import_candles(
            path=market.EURUSD_1H, symbol="EURUSD", minutes=60, actor=audit.SYSTEM, now=timezone.now()
        )
        # The bot knows nothing of the desk but its address: it is another program from here on.
        bot = ["-m", "copybot.demo", "--url", options["url"], "--bars", str(market.EURUSD_1H)]
        os.environ |= {"COPYBOT_KEY": key.key, "COPYBOT_SECRET": key.secret}
        os.chdir(settings.BASE_DIR)
        os.execv(sys.executable, [sys.executable, *bot, "--bars-per-s", str(options["bars_per_s"])])  # noqa: S606
