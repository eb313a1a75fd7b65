"""One run of the zombie drill under way: the desk, the copier, and how to do them ill. See `rules`."""

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
MOMENT_S = 0.15  # in which what must not happen would
LOTS = Decimal("0.10")
Message = dict[str, Any]


class RuleBroken(Exception):
    """A rule did not hold; says what was seen."""


@dataclass
class Trade:
    """One of the leader's, with the deltas that tell of it. `volume`: what its copy must be."""

    ref: str
    ticket: str
    price: Decimal
    volume: Decimal
    opened: Message
    closed: Message | None = None

    @property
    def end(self) -> Message:
        assert self.closed is not None
        return self.closed


@dataclass
class Drill:
    """The desk and the copier, and how to do them ill."""

    stage: Environment
    leader: Client
    ear: StreamListener
    books: BrokerRecords
    bot: Sandbox
    until_s: float
    trades: list[Trade] = field(default_factory=list)
    others: list[Sandbox] = field(default_factory=list)
    gave_up: str = ""

    # --- the leader

    def open(self) -> Trade:
        """A trade at the desk. Its packet was heard, and goes nowhere yet."""
        quote = self.books.account.quote(SYMBOL)
        assert quote is not None
        ticket = str(time.time_ns() // 1000)
        answer = self._send_open(ticket, quote.ask)
        message = self.ear.hear(answer["seq"], OPEN)
        volume = Decimal(message["packet"]["volume"])
        self.trades.append(Trade(answer["trade"]["trade_id"], ticket, quote.ask, volume, message))
        return self.trades[-1]

    def open_again(self, trade: Trade) -> None:
        self._send_open(trade.ticket, trade.price)

    def _send_open(self, ticket: str, price: Decimal) -> Any:
        return self.leader.open(ticket_id=ticket, symbol=SYMBOL, type="BUY", volume=LOTS, open_price=price)

    def close(self, trade: Trade) -> Message:
        """Close it at the desk. Its packet was heard, and goes nowhere yet."""
        answer = self.leader.close(trade.ticket, close_price=trade.price, profit=Decimal(0), reason="MANUAL")
        trade.closed = self.ear.hear(answer["seq"], CLOSE)
        return trade.closed

    # --- the copier

    def relay(self, *messages: Message) -> None:
        for message in messages:
            self.bot.say(message)

    def ready(self) -> None:
        """The copier runs, has asked what is active, and may open."""
        if self.bot.process is None:
            self.bot.start()
        self.until(lambda: self._is_ready(self.bot, "live"), "the copier does not get ready")

    def _is_ready(self, bot: Sandbox, lease: str) -> bool:
        state = bot.state()
        return not state["is_asking"] and state["standing"] == "LIVE" and state["lease"] == lease

    def copied(self) -> Trade:
        """A trade that was opened, told, and copied."""
        trade = self.open()
        self.relay(trade.opened)
        self.until(lambda: self.done(trade).held == trade.volume, f"{lots(trade.volume)} were not copied", trade)
        return trade

    def finish(self, *trades: Trade) -> None:
        """Close what is open of them, tell the copier, and wait until it has closed its copies."""
        for trade in trades:
            if trade.closed is None:
                self.relay(self.close(trade))
        for trade in trades:
            self.flat(trade)

    def flat(self, trade: Trade) -> None:
        self.until(lambda: not self.done(trade).held, "its copy was not closed", trade)

    def quiet(self, bot: Sandbox | None = None) -> None:
        """What was relayed has been taken up, and whatever follows from it has happened."""
        one = bot or self.bot
        self.until(lambda: not one.state()["is_asking"], "the copier's snapshot did not come")
        time.sleep(MOMENT_S)
        one.state()

    def start_second(self) -> Sandbox:
        """Another copier of the same account, at another place; its lease has to wait."""
        key = self.stage.keys[environment.SECOND]
        folder, instance = f"{self.bot.config.folder}-second", f"{self.stage.copier}-second"
        other = Sandbox(
            self.bot.command,
            replace(self.bot.config, key=key.key, secret=key.secret, folder=folder, instance=instance),
        )
        self.others.append(other)
        other.start()
        self.until(lambda: self._is_ready(other, "waits"), "the second copier does not get ready, or need not wait")
        return other

    # --- judging

    def done(self, trade: Trade) -> Executions:
        return self.books.of(trade.ref)

    def rows(self, trade: Trade) -> list[Decimal]:
        """The copies that the desk has of it."""
        return [Decimal(row["volume"]) for row in self.ear.client.active()["trades"] if row["copies"] == trade.ref]

    def until(self, happened: Callable[[], bool], otherwise: str, trade: Trade | None = None) -> None:
        until_s = min(time.monotonic() + PATIENCE_S, self.until_s)
        while not happened():
            if time.monotonic() > self.until_s:
                raise SetupFailed(f"the drill's {DEADLINE_S} s are over: {otherwise}")
            if time.monotonic() > until_s:
                raise RuleBroken(otherwise if trade is None else f"{otherwise}: {self.done(trade)}")
            time.sleep(0.02)

    def expect(self, trade: Trade, *, opens: int, closes: int, held: Decimal = Decimal(0)) -> None:
        is_so = self.done(trade)
        if (is_so.opens, is_so.closes, is_so.held) != (opens, closes, held):
            raise RuleBroken(f"{is_so}; it should be: opened {opens}×, closed {closes}×, {lots(held)} held")

    def sweep(self) -> None:
        """After a rule that failed: nothing of it is left, and the copier begins anew."""
        for bot in (self.bot, *self.others):
            bot.kill()
        for trade in self.trades:
            if trade.closed is None:
                with suppress(SetupFailed):
                    self.close(trade)
        self.books.close_all()
        shutil.rmtree(self.bot.folder, ignore_errors=True)
