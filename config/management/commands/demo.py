"""`manage.py demo`: creates the demo's users, imports its prices, and becomes one of its bots."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import BotKey
from accounts.services import NewSecret
from audit import services as audit
from config import demo_data
from market import services as market
from market.services import candles
from strategies import services as strategies

HOUR_S = 3600

COPIER = """\
url = "{url}"
folder = "state"

[subscriptions.{strategy}]
sub_id = "{sub_id}"
secrets = {{ {generation} = "{secret}" }}

[broker]
kind = "paper"
login = "guest"
speed = {speed}
deposit = 100_000

[broker.symbols.EURUSD]
bars = "{bars}"
spread_points = 2

[limits]
settle_ms = 5_000
"""


class Command(BaseCommand):
    help = (
        "Run one bot of the demo against the desk on this machine until it is stopped: the provider's or the copier's."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default=f"http://127.0.0.1:{os.environ.get('PORT', '8000')}")
        parser.add_argument("--bars-per-s", type=int, default=2, help="hours of the market that pass in one second")
        parser.add_argument("--copies", action="store_true", help="run the copier's bot")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("The demo runs only where DEBUG is on.")
        folder = settings.VAR_DIR / "demo"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, bot = self._copier(folder, **options) if options["copies"] else self._provider(folder, **options)
        # From here on the process is a bot: another program, which knows only the desk's address and its key.
        os.environ |= {"COPYBOT_KEY": key.key, "COPYBOT_SECRET": key.secret}
        os.chdir(settings.BASE_DIR)
        os.execv(sys.executable, [sys.executable, "-m", *bot])  # noqa: S606

    @staticmethod
    def _provider(folder: Path, *, url: str, bars_per_s: int, **_: Any) -> tuple[NewSecret, list[str]]:
        strategy = demo_data.make_demo()
        demo_data.accept_demo_fees()
        demo_data.hold_demo_scores()
        candles.import_candles(
            path=market.EURUSD_1H, source=candles.Source("EURUSD", 60), actor=audit.SYSTEM, now=timezone.now()
        )
        bot = ["copybot.demo", "--url", url, "--bars", str(market.EURUSD_1H), "--bars-per-s", str(bars_per_s)]
        key = demo_data.demo_key(strategy.account, BotKey.Kind.MASTER)
        return key, [*bot, "--account", str(folder / "provider.sqlite3")]

    def _copier(self, folder: Path, **options: Any) -> tuple[NewSecret, list[str]]:
        while (subscription := demo_data.demo_subscription()) is None:
            time.sleep(0.5)  # the provider's command creates it
        config = self._write_config(folder, subscription, **options)
        key = demo_data.demo_key(subscription.account, BotKey.Kind.COPIER)
        return key, ["copybot", "follow", "--plain", "--config", str(config)]

    @staticmethod
    def _write_config(folder: Path, subscription: Any, *, url: str, bars_per_s: int, **_: Any) -> Path:
        file = folder / "copybot.toml"
        file.touch(mode=0o600)
        file.write_text(
            COPIER.format(
                url=url, strategy=subscription.strategy.name, sub_id=subscription.sub_id,
                generation=subscription.packet_generation, secret=strategies.packet_secret(subscription),
                speed=bars_per_s * HOUR_S, bars=market.EURUSD_1H,
            )
        )  # fmt: skip
        return file
