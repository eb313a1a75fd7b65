"""A copier on paper, at a model of the desk, with a clock that the test moves."""

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from copybot.candles import Bar, Candles, Instrument
from copybot.copier import Copier
from copybot.desk_model import COPIER, MASTER, SECRET, STRATEGY, SUB_ID, DeskModel, UnreliableLine
from copybot.limits import Limits
from copybot.packets import CLOSE, OPEN
from copybot.paper import PaperBroker
from copybot.subscriptions import Subscription

SECOND, HOUR = 1_000, 3_600_000
MONDAY = 1_767_571_200_000
NOON = MONDAY + 12 * HOUR
D = Decimal
LIMITS = Limits(settle_ms=3 * SECOND, second_look_ms=SECOND, stops_again_ms=SECOND)
ME = Subscription(STRATEGY, SUB_ID, {1: SECRET})
KINDS = {OPEN: "trade.opened", CLOSE: "trade.closed"}


class CopierHarness:
    """lena's trades at the desk, finn's copier on paper, and a clock that the test moves."""

    def __init__(self, folder: Any, **broker: Any) -> None:
        self.folder, self.now, self.tickets, self.heard = folder, MONDAY + HOUR, 100, 0
        bars = [Bar(MONDAY + hour * HOUR, *4 * [D("1.10000")]) for hour in range(96)]
        symbols = [Instrument("EURUSD", Candles(bars, digits=5), 10)]
        self.broker = PaperBroker(folder / "paper", symbols, lambda: self.now, **broker)
        self.desk = DeskModel(lambda: self.now, lease_ms=45 * SECOND)
        self.copier: Any = None
        self.start()

    def start(self, *subscriptions: Any, instance: str = "", folder: Any = None) -> None:
        """Restart as after a crash."""
        if self.copier is not None:
            self.copier.close()
        self.line = UnreliableLine(self.desk, COPIER, random.Random(1), 0.0)
        self.copier = Copier(
            self.line, self.broker, subscriptions or (ME,), folder or self.folder / "state", lambda: self.now, LIMITS,
            instance=instance, monotonic_ms=lambda: self.now, jitter=lambda: 0.5,
        )  # fmt: skip

    @property
    def guard(self) -> Any:
        return self.copier.followed[0].guard

    def step(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += SECOND
            self.copier.step()

    def hear(self) -> None:
        """Deliver the messages that the desk has sent so far."""
        messages, self.heard = self.desk.sent[self.heard :], len(self.desk.sent)
        for message in messages:
            self.copier.on_message(message)

    # --- lena

    def report(self, method: Any, path: Any, **fields: Any) -> Any:
        key = f"lena-{len(self.desk.state.answers)}"
        return self.desk.send(MASTER, method, f"/api/v2/trades/active{path}", fields, key)

    def open(
        self,
        volume: str = "1.00000000",
        price: str = "1.10000000",
        symbol: str = "EURUSD",
        side: str = "BUY",
        **stops: Any,
    ) -> str:
        self.tickets += 1
        fields = {"ticket_id": str(self.tickets), "symbol": symbol, "type": side, "volume": volume, "open_price": price}
        self.report("POST", "", **fields, **stops)
        return str(self.tickets)

    def reduce(self, ticket: Any, volume: Any) -> None:
        self.report("POST", f"/{ticket}/reduce", volume=volume, deal_id=f"d-{volume}", close_price="1.1", profit="0")

    def close(self, ticket: Any) -> None:
        self.report("DELETE", f"/{ticket}", close_price="1.1", profit="0", reason="MANUAL")

    def copied(self, **trade: Any) -> Any:
        """Open a trade of lena's that finn's copier holds."""
        before, ticket = len(self.broker.positions()), self.open(**trade)
        self.hear()
        assert len(self.broker.positions()) == before + 1
        return ticket

    # --- what there is to see

    @property
    def volumes(self) -> list[Any]:
        return [position.volume for position in self.broker.positions()]

    @property
    def skips(self) -> list[Any]:
        return list(self.desk.state.skips.values())

    @property
    def rows(self) -> dict[Any, Any]:
        """The copies on record at the desk."""
        return {ticket: row for (owner, ticket), row in self.desk.state.rows.items() if owner == COPIER}

    def asked(self, path: Any) -> list[Any]:
        """The requests sent to a path."""
        return [print_of for print_of, _ in self.desk.state.answers.values() if f" {path} " in print_of]


def raising(fault: Any) -> Callable[..., Any]:
    def no(*args: Any, **more: Any) -> Any:
        raise fault

    return no
