"""The state of one run of the zombie drill, and the steps that its rules (`rules`) are made of."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from config.drill import environment
from config.drill.environment import BrokerRecords, Environment, Executions, Sandbox, SetupFailed, StreamListener, lots
from copybot.client import Client
from copybot.packets import CLOSE, OPEN
from copybot.sandbox import SYMBOL

DEADLINE_S = 60
PATIENCE_S = 6
SETTLE_S = 0.15  # within which a forbidden effect would show
LOTS = Decimal("0.10")
Message = dict[str, Any]


class RuleBroken(Exception):
    """A rule did not hold; the message says what was observed."""


@dataclass
class Trade:
    """A trade of the drill's provider, with its deltas as the desk pushed them. `volume`: the lots of its copy."""

    ref: str
    ticket: str
    price: Decimal
    volume: Decimal
    opened_message: Message
    close: Message | None = None

    @property
    def closed_message(self) -> Message:
        assert self.close is not None
        return self.close


@dataclass
class Drill:
    """`deadline`: of the whole run, by time.monotonic(). `abort_reason`: why no further rule is run."""

    env: Environment
    provider: Client
    listener: StreamListener
    records: BrokerRecords
    copier: Sandbox
    deadline: float
    trades: list[Trade] = field(default_factory=list)
    other_copiers: list[Sandbox] = field(default_factory=list)
    abort_reason: str = ""

    # --- the provider

    def open(self) -> Trade:
        """Open a trade at the desk. Its delta is received here and not yet sent to the copier."""
        quote = self.records.account.quote(SYMBOL)
        assert quote is not None
        ticket = str(time.time_ns() // 1000)
        answer = self._send_open(ticket, quote.ask)
        message = self.listener.read(answer["seq"], OPEN)
        volume = Decimal(message["packet"]["volume"])
        self.trades.append(Trade(answer["trade"]["trade_id"], ticket, quote.ask, volume, message))
        return self.trades[-1]

    def open_again(self, trade: Trade) -> None:
        self._send_open(trade.ticket, trade.price)

    def _send_open(self, ticket: str, price: Decimal) -> Any:
        return self.provider.open(ticket_id=ticket, symbol=SYMBOL, type="BUY", volume=LOTS, open_price=price)

    def close(self, trade: Trade) -> Message:
        """Close the trade at the desk. Its delta is received here and not yet sent to the copier."""
        answer = self.provider.close(trade.ticket, close_price=trade.price, profit=Decimal(0), reason="MANUAL")
        trade.close = self.listener.read(answer["seq"], CLOSE)
        return trade.close

    # --- the copier

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.copier.write(message)

    def ensure_ready(self) -> None:
        """Start the copier unless it runs; wait until it has its snapshot and may open."""
        if self.copier.process is None:
            self.copier.start()
        self.wait_until(lambda: self._is_ready(self.copier, "live"), "the copier did not become ready")

    def _is_ready(self, copier: Sandbox, lease: str) -> bool:
        state = copier.state()
        return not state["is_asking"] and state["standing"] == "LIVE" and state["lease"] == lease

    def open_copied(self) -> Trade:
        """Open a trade, send it to the copier, and wait for the copy."""
        trade = self.open()
        self.send(trade.opened_message)
        self.wait_until_copied(trade, f"{lots(trade.volume)} were not copied")
        return trade

    def wait_until_copied(self, trade: Trade, otherwise: str) -> None:
        self.wait_until(lambda: self.executions(trade).held == trade.volume, otherwise, trade)

    def close_all(self, *trades: Trade) -> None:
        """Close those that are open, send the closes to the copier, and wait until their copies are closed."""
        for trade in trades:
            if trade.close is None:
                self.send(self.close(trade))
        for trade in trades:
            self.wait_until_closed(trade)

    def wait_until_closed(self, trade: Trade) -> None:
        self.wait_until(lambda: not self.executions(trade).held, "the copy was not closed", trade)

    def settle(self, copier: Sandbox | None = None) -> None:
        """Wait until the copier has processed what was sent, and its effects have shown."""
        copier = copier or self.copier
        self.wait_until(lambda: not copier.state()["is_asking"], "the copier did not receive its snapshot")
        time.sleep(SETTLE_S)
        copier.state()

    def start_second(self) -> Sandbox:
        """Start another instance for the same account, with its own state folder; it has to wait for the lease."""
        key = self.env.keys[environment.SECOND_KEY]
        folder, instance = f"{self.copier.config.folder}-second", f"{self.env.copier_account}-second"
        other = Sandbox(
            self.copier.command,
            replace(self.copier.config, key=key.key, secret=key.secret, folder=folder, instance=instance),
        )
        self.other_copiers.append(other)
        other.start()
        self.wait_until(
            lambda: self._is_ready(other, "waits"), "the second copier did not become ready, or did not have to wait"
        )
        return other

    # --- checks

    def executions(self, trade: Trade) -> Executions:
        return self.records.of(trade.ref)

    def desk_copies(self, trade: Trade) -> list[Decimal]:
        """The lots of each open copy of the trade, as the desk lists them."""
        return [Decimal(row["volume"]) for row in self.listener.client.active()["trades"] if row["copies"] == trade.ref]

    def wait_until(self, happened: Callable[[], bool], otherwise: str, trade: Trade | None = None) -> None:
        until = min(time.monotonic() + PATIENCE_S, self.deadline)
        while not happened():
            if time.monotonic() > self.deadline:
                raise SetupFailed(f"the drill reached its limit of {DEADLINE_S} s: {otherwise}")
            if time.monotonic() > until:
                raise RuleBroken(otherwise if trade is None else f"{otherwise}: {self.executions(trade)}")
            time.sleep(0.02)

    def expect(self, trade: Trade, *, opens: int, closes: int, held: Decimal = Decimal(0)) -> None:
        actual = self.executions(trade)
        if (actual.opens, actual.closes, actual.held) != (opens, closes, held):
            raise RuleBroken(f"{actual}; expected: opened {opens}×, closed {closes}×, {lots(held)} held")

    def clean_up(self) -> None:
        """After a failed rule: close everything, and reset the copier's state."""
        for copier in (self.copier, *self.other_copiers):
            copier.kill()
        for trade in self.trades:
            if trade.close is None:
                with suppress(SetupFailed):
                    self.close(trade)
        self.records.close_all()
        shutil.rmtree(self.copier.folder, ignore_errors=True)
