"""Run as `python -m tests.crashes.provider_process CONFIG SEED OVER`.

A provider's terminal, with a trader who trades all the time.

It trades its account on paper at random until the file OVER appears, and publishes by the real publisher all the while.
Killed at any moment and started again, it goes on from what its broker's books say.
"""

import random
import sys
import threading
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from copybot.broker import Position
from copybot.client import Client
from copybot.publisher import PositionSync, Publisher
from copybot.settings import load
from copybot.terminals import terminal_of

MOST_OPEN = 8


class Trader:
    def __init__(self, terminal: Any, over: Any, seed: Any) -> None:
        self.terminal, self.over, self.rng = terminal, over, random.Random(seed)

    def act(self, _fault: str = "") -> None:
        if not self.over.exists() and self.terminal.quote("EURUSD"):
            with suppress(Exception):
                self.trade(self.terminal.positions())

    def trade(self, held: Any) -> None:
        luck = self.rng.random()
        if not held or (luck < 0.45 and len(held) < MOST_OPEN):
            self.open()
        elif luck < 0.7 or len(held) >= MOST_OPEN:
            self.close(self.rng.choice(held), Decimal(1))
        elif luck < 0.82:
            self.close(self.rng.choice(held), Decimal("0.5"))
        elif luck < 0.92:
            self.move(self.rng.choice(held))

    def open(self) -> None:
        side = self.rng.choice(["BUY", "SELL"])
        price = self.terminal.quote("EURUSD").of(side)
        away = Decimal(self.rng.randrange(10, 60)) / 10000 * (1 if side == "BUY" else -1)
        volume = Decimal(self.rng.randrange(2, 30)) / 100
        self.terminal.open(magic=0, symbol="EURUSD", side=side, volume=volume, sl=price - away, tp=price + 2 * away)

    def close(self, position: Position, share: Any) -> None:
        volume = self.terminal.spec("EURUSD").lots(position.volume * share)
        if volume:
            self.terminal.close(position, volume)

    def move(self, position: Position) -> None:
        if position.sl is not None:
            self.terminal.modify(position, sl=(position.sl + position.open_price) / 2, tp=position.tp)


def main(config: Any, seed: Any, over: Any) -> None:
    settings = load(Path(config))
    desk = Client(settings.url, settings.key, settings.secret, timeout_s=5, attempts=2)
    terminal = terminal_of(settings, copies=False)
    trader = Trader(terminal, Path(over), f"{seed}-{desk.seq}")
    position_sync = PositionSync(desk, terminal, clock_ms=desk.desk_ms, max_age_ms=settings.publishing.max_open_age_ms)
    Publisher(position_sync, poll_s=0.15, on_sync=trader.act).run(threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:])
