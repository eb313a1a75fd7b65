"""The zombie drill itself: a sandbox's copier is taken through everything that makes zombies, rule by rule.

A rule opens trades of its own, does something bad, closes them, and looks into the broker's books. One that fails
leaves nothing behind for the next.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings

from audit import services as audit
from audit.models import AuditLog
from config import drill, drill_stage
from config.drill import RULES, Finding, Report
from config.drill_stage import EAR, FIRST, LEADER, SECOND, STRATEGY, Books, Done, Ear, Folder, Sandbox, Stage, Unmade
from copybot.client import Client
from copybot.errors import AnswerForged, DeskError, TradeClosed
from copybot.packets import CLOSE, OPEN
from copybot.paper import PaperBroker
from copybot.sandbox import AFTER, BEFORE, SYMBOL, Config, broker, emptied
from market.services import EURUSD_1H
from strategies import services as strategies

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "copybot.sandbox")
DEADLINE_S = 60
PATIENCE_S = 6
MOMENT_S = 0.15  # in which what must not happen would
LOTS = Decimal("0.10")
Message = dict[str, Any]


class Broken(Exception):
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

    stage: Stage
    leader: Client
    ear: Ear
    books: Books
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
        self.until(lambda: self.done(trade).held == trade.volume, f"{trade.volume} lots were not copied", trade)
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
        key = self.stage.keys[SECOND]
        folder, instance = f"{self.bot.config.folder}-second", f"{self.bot.config.instance}-second"
        other = Sandbox(
            self.bot.command,
            replace(self.bot.config, key=key.key, secret=key.secret, folder=folder, instance=instance),
        )
        self.others.append(other)
        other.start()
        self.until(lambda: self._is_ready(other, "waits"), "the second copier does not get ready, or need not wait")
        return other

    # --- judging

    def done(self, trade: Trade) -> Done:
        return self.books.of(trade.ref)

    def rows(self, trade: Trade) -> list[Decimal]:
        """The copies that the desk has of it."""
        return [Decimal(row["volume"]) for row in self.ear.client.active()["trades"] if row["copies"] == trade.ref]

    def until(self, happened: Callable[[], bool], otherwise: str, trade: Trade | None = None) -> None:
        until_s = min(time.monotonic() + PATIENCE_S, self.until_s)
        while not happened():
            if time.monotonic() > self.until_s:
                raise Unmade(f"the drill's {DEADLINE_S} s are over: {otherwise}")
            if time.monotonic() > until_s:
                raise Broken(otherwise if trade is None else f"{otherwise}: {self.done(trade)}")
            time.sleep(0.02)

    def expect(self, trade: Trade, *, opens: int, closes: int, held: Decimal = Decimal(0)) -> None:
        is_so = self.done(trade)
        if (is_so.opens, is_so.closes, is_so.held) != (opens, closes, held):
            raise Broken(f"{is_so}; it should be: opened {opens}×, closed {closes}×, {held} lots held")

    def sweep(self) -> None:
        """After a rule that failed: nothing of it is left, and the copier begins anew."""
        for bot in (self.bot, *self.others):
            bot.kill()
        for trade in self.trades:
            if trade.closed is None:
                with suppress(Unmade):
                    self.close(trade)
        self.books.close_all()
        shutil.rmtree(self.bot.folder, ignore_errors=True)
        drill_stage.end_lease(self.stage, self.ear.client)


# --- the rules: each answers what was seen, or raises


def copied(drill: Drill) -> str:
    trade = drill.copied()
    drill.until(lambda: drill.rows(trade) == [trade.volume], "the desk was not told of the copy", trade)
    drill.finish(trade)
    drill.until(lambda: drill.rows(trade) == [], "the desk was not told that the copy is closed", trade)
    drill.expect(trade, opens=1, closes=1)
    return f"{trade.volume.normalize()} lots opened once, told to the desk once, closed once"


def replayed(drill: Drill) -> str:
    trade = drill.copied()
    drill.relay(*3 * [trade.opened])
    drill.quiet()
    drill.expect(trade, opens=1, closes=0, held=trade.volume)
    drill.finish(trade)
    drill.relay(*3 * [trade.opened, trade.end])
    drill.quiet()
    drill.expect(trade, opens=1, closes=1)
    return "its open came 7 times, its close 4 times: opened once, closed once"


def disordered(drill: Drill) -> str:
    short = drill.open()
    drill.relay(drill.close(short), short.opened)
    drill.quiet()
    seen = drill.done(short)
    if seen.held or seen.opens > 1 or seen.opens != seen.closes:
        raise Broken(f"the close came before its open: {seen}")
    one, other = drill.open(), drill.open()
    drill.relay(other.opened, one.opened)
    for trade in (one, other):
        drill.until(lambda trade=trade: drill.done(trade).held == trade.volume, "the later open came first", trade)  # type: ignore[misc]
    closes = drill.close(one), drill.close(other)
    drill.relay(*reversed(closes))
    for trade in (one, other):
        drill.flat(trade)
    drill.quiet()
    for trade in (one, other):
        drill.expect(trade, opens=1, closes=1)
    return "a close before its open left nothing; two opens and two closes, the later first, were each done once"


def late_open(drill: Drill) -> str:
    trade = drill.open()
    drill.relay(drill.close(trade))
    drill.quiet()
    drill.flat(trade)
    before = drill.done(trade)
    try:
        drill.open_again(trade)
    except TradeClosed as no:
        code = no.code
    else:
        raise Broken("the desk opened it again")
    if not AuditLog.objects.filter(action="zombie.refused", subject=f"trade:{trade.ref}").exists():
        raise Broken(f"the desk refused it ({code}), and there is no zombie.refused of it in the audit log")
    drill.relay(trade.opened, trade.opened)
    drill.quiet()
    if drill.done(trade) != before:
        raise Broken(f"the copier took the late packet: {drill.done(trade)}")
    return f"the desk said 409 {code} and audited zombie.refused; the late packet opened nothing"


def killed_in_close(when: str) -> Callable[[Drill], str]:
    def check(drill: Drill) -> str:
        trade = drill.copied()
        drill.bot.say({"cmd": "pause_in_close", "when": when})
        drill.relay(drill.close(trade))
        drill.bot.hear("closing")
        drill.bot.kill()
        executed = int(when == AFTER)
        drill.expect(trade, opens=1, closes=executed, held=Decimal(0) if executed else trade.volume)
        drill.ready()
        drill.flat(trade)
        drill.relay(trade.opened, trade.end, trade.opened)
        drill.quiet()
        drill.expect(trade, opens=1, closes=1)
        drill.until(lambda: drill.rows(trade) == [], "the desk was not told that the copy is closed", trade)
        held = "was closed" if executed else "was still open"
        return f"at the kill it {held} at the broker; after the restart closed once, opened once, told to the desk"

    return check


def restarted(drill: Drill) -> str:
    gone, held = drill.copied(), drill.copied()
    drill.finish(gone)
    drill.bot.kill()
    drill.close(held)
    missed = drill.open()
    drill.close(missed)
    drill.ready()
    drill.flat(held)
    for trade in (gone, held, missed):
        drill.relay(trade.opened, trade.end)
    drill.quiet()
    drill.expect(gone, opens=1, closes=1)
    drill.expect(held, opens=1, closes=1)
    drill.expect(missed, opens=0, closes=0)
    return "one closed before, one closed meanwhile, one opened and closed meanwhile: nothing was opened"


def state_lost(drill: Drill) -> str:
    active, gone = drill.copied(), drill.copied()
    drill.bot.kill()
    drill.close(gone)
    missed = drill.open()
    for file in drill.bot.folder.iterdir():
        file.unlink()
    drill.ready()
    drill.flat(gone)
    drill.relay(active.opened, gone.opened, gone.end, missed.opened)
    drill.quiet()
    drill.expect(active, opens=1, closes=0, held=active.volume)
    drill.expect(gone, opens=1, closes=1)
    drill.expect(missed, opens=0, closes=0)
    drill.finish(active, missed)
    drill.expect(active, opens=1, closes=1)
    return "kept the one that is active, closed the one that is not, left alone the one it had missed"


def altered(drill: Drill) -> str:
    trade = drill.open()
    before = drill.bot.state()["counts"].get("packet_signature", 0)
    packet = {**trade.opened["packet"], "volume": f"{trade.volume * 10:.8f}"}
    drill.relay({**trade.opened, "packet": packet})
    refused = drill.bot.state()["counts"].get("packet_signature", 0) - before
    drill.until(lambda: bool(drill.done(trade).held), "what the desk says is active was not copied", trade)
    drill.quiet()
    if drill.done(trade).opened != trade.volume:
        raise Broken(f"{drill.done(trade).opened} lots were opened, and {trade.volume} were signed")
    if not refused:
        raise Broken("the altered packet was not refused for its signature")
    drill.finish(trade)
    return (
        f"ten times the volume was refused (packet_signature); {trade.volume.normalize()} lots copied, as the desk says"
    )


def emptied_out(drill: Drill) -> str:
    trade = drill.copied()
    forgery = {"type": "snapshot", **emptied(drill.ear.client.active())}
    drill.relay(forgery)
    drill.quiet()
    drill.expect(trade, opens=1, closes=0, held=trade.volume)
    before = drill.bot.state()["forged"]
    drill.bot.say({"cmd": "forge_next_snapshot"})
    drill.relay({"type": "snapshot"})
    drill.until(lambda: drill.bot.state()["forged"] > before, "no answer was forged")
    drill.until(lambda: "snapshot" not in drill.bot.state()["faults"], "the copier does not recover")
    drill.quiet()
    drill.expect(trade, opens=1, closes=0, held=trade.volume)
    drill.finish(trade)
    drill.expect(trade, opens=1, closes=1)
    return "the socket's was no more than a hint, the forged answer was not believed; it was closed when it was closed"


def second(drill: Drill) -> str:
    held = drill.copied()
    other = drill.start_second()
    drill.until(lambda: drill.bot.state()["lease"] == "lost", "the first was not told that it lost the lease")
    later = drill.open()
    for bot in (other, drill.bot):
        bot.say(later.opened)
        drill.quiet(bot)
    drill.expect(later, opens=0, closes=0)
    why = other.state()["copies"].get(later.ref, {}).get("why", "")
    other.stop()
    drill.finish(held, later)
    drill.expect(held, opens=1, closes=1)
    drill.until(lambda: drill.rows(held) == [], "the desk was not told that the copy is closed", held)
    return f"the second opened nothing ({why}), nor did the first any more, which closed what it held"


def flat(drill: Drill) -> str:
    account, ear = drill.books.account, drill.ear.client
    drill.until(lambda: not account.positions(), "positions are left at the broker")
    drill.until(lambda: not ear.active()["trades"], "open trades are left at the desk")
    return f"{len(drill.trades)} trades were opened and closed; nothing is left"


CHECKS: dict[str, Callable[[Drill], str]] = {
    "copied": copied,
    "replayed": replayed,
    "disordered": disordered,
    "late_open": late_open,
    "killed_before": killed_in_close(BEFORE),
    "killed_after": killed_in_close(AFTER),
    "restarted": restarted,
    "state_lost": state_lost,
    "altered": altered,
    "emptied": emptied_out,
    "second": second,
    "flat": flat,
}
_HINDRANCES = (Unmade, DeskError, AnswerForged, OSError)


# --- a run


def run(*, actor: audit.Actor, by: str, url: str = "", command: Sequence[str] = COMMAND) -> Report:
    """Make a drill against the desk at `url`, and record it. Raises AlreadyRunning; whatever else goes wrong is told in
    the report. In the end nothing of it is left.
    """
    began = time.monotonic()
    with drill.alone():
        findings = _findings(url or settings.DESK_URL, command)
        report = Report(tuple(findings), round((time.monotonic() - began) * 1000), by)
        drill.record(report, actor)
    return report


def _findings(url: str, command: Sequence[str]) -> list[Finding]:
    try:
        with _played(url, command) as played:
            return [_find(played, rule) for rule in RULES]
    except _HINDRANCES as fault:
        return [Finding(rule, False, f"The drill could not be made: {fault}.") for rule in RULES]


def _find(played: Drill, rule: str) -> Finding:
    if time.monotonic() > played.until_s:
        played.gave_up = played.gave_up or f"the drill's {DEADLINE_S} s are over"
    if played.gave_up:
        return Finding(rule, False, f"Not tried: {played.gave_up}.")
    try:
        if rule != "flat" or played.bot.process is None:
            played.ready()
        return Finding(rule, True, CHECKS[rule](played))
    except Broken as fault:
        seen = str(fault)
    except _HINDRANCES as fault:
        seen = f"could not be tried: {fault}"
    except Exception as fault:
        log.exception("the drill's rule %s", rule)
        seen = f"could not be tried: {type(fault).__name__}: {fault}"
    try:
        played.sweep()
    except _HINDRANCES as fault:
        played.gave_up = str(fault)
    return Finding(rule, False, seen)


@contextmanager
def _played(url: str, command: Sequence[str]) -> Iterator[Drill]:
    stage, folder = drill_stage.set_up(), Folder()
    leader, ear = stage.client(url, LEADER), Ear(stage.client(url, EAR))
    config = _config(url, stage, folder.path)
    account = broker(config.account, config.bars, config.began_ms, PaperBroker)
    books = Books(account, config.subscription.index)
    played = Drill(stage, leader, ear, books, Sandbox(command, config), time.monotonic() + DEADLINE_S)
    try:
        drill_stage.end_lease(stage, ear.client)
        ear.open()
        yield played
    finally:
        for bot in (played.bot, *played.others):
            bot.kill()
        ear.stream.close()
        for client in (leader, ear.client):
            client.hang_up()
        account.close_file()
        drill_stage.put_away()
        folder.remove()


def _config(url: str, stage: Stage, folder: Path) -> Config:
    key, began_ms = stage.keys[FIRST], time.time_ns() // 1_000_000
    return Config(
        url=url, key=key.key, secret=key.secret, strategy=STRATEGY, sub_id=stage.follows.sub_id,
        packet_secrets={str(stage.follows.packet_generation): strategies.packet_secret(stage.follows)},
        folder=str(folder / "copier"), account=str(folder / "account.sqlite3"), bars=str(EURUSD_1H),
        began_ms=began_ms, instance=f"drill-{began_ms:016d}",
    )  # fmt: skip
