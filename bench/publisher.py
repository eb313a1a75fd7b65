"""How long a close takes to the desk, against an open, on an account that trades each second.

The real publisher reads a fake MetaTrader terminal and reports to a web process of the desk. A time runs from the deal
at the broker to the desk's signed answer.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import desk
from bench.desk import Desk
from bench.table import Line, Turn
from copybot.client import Client
from copybot.deals import Trade
from copybot.mt5 import MetaTrader
from copybot.position_sync import PositionSync, ReportResult
from copybot.publisher import Publisher
from copybot.tests.fake_mt5 import AHEAD_MS, FakeMT5

POLL_S = 0.1
TRADES = 50  # opened and closed in each turn
PATIENCE_S = 8.0  # longer than an account must be quiet for its history to count as complete

LINES = [
    Line("publish a close, median ms", "publish, close", "publish, open", "an open", at_most=1.2),
    Line("publish a close, p99 ms", "publish, close, p99", "publish, open, p99", "an open", at_most=1.5),
    Line("control: closes that wait for quiet, median ms", "publish, control", "publish, open", "an open", at_most=1.2),
]  # fmt: skip


class WaitsForQuiet(PositionSync):
    """The control: believes the deals of a position that has gone only when the whole account is quiet."""

    def _closed_trades(self, ticket: str) -> list[Trade]:
        return super()._closed_trades(ticket) if self.terminal.is_settled() else []


class OneAtATime:
    """The terminal's module for two threads: the publisher, and the person who trades."""

    def __init__(self, fake: FakeMT5) -> None:
        self.fake, self.lock = fake, threading.RLock()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.fake, name)
        if not callable(value):
            return value

        def call(*args: Any, **more: Any) -> Any:
            with self.lock:
                return value(*args, **more)

        return call


@dataclass
class Account:
    """A provider's account with its publisher, and the times of its deals and of the desk's answers, in ms."""

    port: int
    key: str
    secret: str
    kind: type[PositionSync] = PositionSync
    trades: int = TRADES
    times: dict[str, list[float]] = field(default_factory=dict)
    _dealt: dict[tuple[str, str], float] = field(default_factory=dict)
    _told: dict[tuple[str, str], float] = field(default_factory=dict)
    _synced: threading.Event = field(default_factory=threading.Event)

    def measure(self) -> None:
        """Open and close trades at moments spread evenly over the publisher's pause."""
        self._dealt.clear()
        self._told.clear()
        self.fake = FakeMT5(balance=1e9)
        self.fake.tickets = time.time_ns() // 1000
        self.module = OneAtATime(self.fake)
        stop = threading.Event()
        publisher = threading.Thread(target=self._publish, args=(stop,))
        publisher.start()
        try:
            self._trade()
        finally:
            stop.set()
            publisher.join()
        self.times = {verb: self._times(verb) for verb in ("open", "close")}

    def _publish(self, stop: threading.Event) -> None:
        client = Client(f"http://127.0.0.1:{self.port}", self.key, self.secret, timeout_s=5)
        terminal = MetaTrader.connect(login=self.fake.login_is, module=self.module)
        sync = self.kind(client, terminal, clock_ms=client.desk_ms, ahead_ms=lambda: AHEAD_MS, on_reported=self._note)
        Publisher(sync, poll_s=POLL_S, on_sync=self._note_sync).run(stop)
        client.hang_up()

    def _note(self, result: ReportResult) -> None:
        if not result.code:
            self._told.setdefault((result.verb, result.ticket), time.perf_counter())

    def _note_sync(self, fault: str) -> None:
        if fault:
            raise SystemExit(f"The publisher failed: {fault}")
        self._synced.set()

    def _trade(self) -> None:
        self.fake.selected.add("EURUSD")
        self._after_a_sync(0.0)
        self._after_a_sync(0.0)
        shares = [(number + 0.5) / self.trades for number in range(self.trades)]
        tickets = [self._deal("open", self._after_a_sync(share)) for share in shares]
        for ticket, share in zip(tickets, shares, strict=True):
            self._after_a_sync(share)
            self._deal("close", ticket)
        self._wait_for_answers()

    def _after_a_sync(self, share: float) -> int:
        """Wait for the end of a sync and for a share of the pause that follows."""
        self._synced.clear()
        if not self._synced.wait(10):
            raise SystemExit("The publisher does not sync.")
        time.sleep(share * POLL_S)
        return 0

    def _deal(self, verb: str, ticket: int) -> int:
        with self.module.lock:
            if verb == "open":
                request = {
                    "action": 1, "type": 0, "symbol": "EURUSD", "volume": 0.1, "price": 1.1, "sl": 0.0, "tp": 0.0,
                    "type_filling": 0,
                }  # fmt: skip
                if self.module.order_send(request).retcode != 10009:
                    raise SystemExit("The fake terminal refused an order.")
                ticket = list(self.fake.positions)[-1]
            else:
                self.fake.by_hand(ticket)
            self._dealt[verb, str(ticket)] = time.perf_counter()
        return ticket

    def _wait_for_answers(self) -> None:
        """Wait until all is published, while other deals go on each second."""
        deadline, measured = time.monotonic() + PATIENCE_S, dict(self._dealt)
        while not measured.keys() <= self._told.keys() and time.monotonic() < deadline:
            self._deal("close", self._deal("open", 0))
            time.sleep(1.0)
        self._dealt = measured

    def _times(self, verb: str) -> list[float]:
        """From deal to answer; what was not published within the patience counts as that long."""
        return sorted(
            (self._told.get(subject, dealt + PATIENCE_S) - dealt) * 1000
            for subject, dealt in self._dealt.items()
            if subject[0] == verb
        )


def _p99(times: list[float]) -> float:
    return times[round(0.99 * (len(times) - 1))]


@contextmanager
def turns(on: Desk) -> Iterator[dict[str, Turn]]:
    """The measurements of each round, by name; the first of them measures, in milliseconds."""
    with ExitStack() as ending:
        web = desk.web(on)
        ending.callback(web.stop)
        keys = [line.split() for line in on.masters.read_text().splitlines()]
        ours = Account(web.ports[0], *keys[-1])
        control = Account(web.ports[0], *keys[-2], kind=WaitsForQuiet, trades=5)

        def measured(account: Account, verb: str) -> float:
            account.measure()
            return statistics.median(account.times[verb])

        yield {
            "publish, open": lambda: measured(ours, "open"),
            "publish, close": lambda: statistics.median(ours.times["close"]),
            "publish, open, p99": lambda: _p99(ours.times["open"]),
            "publish, close, p99": lambda: _p99(ours.times["close"]),
            "publish, control": lambda: measured(control, "close"),
        }
