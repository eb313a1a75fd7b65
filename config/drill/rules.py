"""The zombie drill itself: a sandbox's copier is taken through everything that makes zombies, rule by rule.

A rule opens trades of its own, does something bad, closes them, and looks into the broker's books. One that fails
leaves nothing behind for the next.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from django.conf import settings

from audit import services as audit
from audit.models import AuditLog
from config.drill import environment, reports
from config.drill.environment import (
    BrokerRecords,
    Environment,
    Sandbox,
    SetupFailed,
    StreamListener,
    TemporaryFolder,
    lots,
)
from config.drill.reports import RULES, Finding, Report
from config.drill.runner import DEADLINE_S, Drill, RuleBroken
from copybot.errors import AnswerForged, DeskError, TradeClosed
from copybot.paper import PaperBroker
from copybot.sandbox import AFTER, BEFORE, Config, broker, emptied
from market.services import EURUSD_1H
from strategies import services as strategies

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "copybot.sandbox")


# --- the rules: each answers what was seen, or raises


def copied(play: Drill) -> str:
    trade = play.copied()
    play.until(lambda: play.rows(trade) == [trade.volume], "the desk was not told of the copy", trade)
    play.finish(trade)
    play.until(lambda: play.rows(trade) == [], "the desk was not told that the copy is closed", trade)
    play.expect(trade, opens=1, closes=1)
    return f"{lots(trade.volume)} opened once, told to the desk once, closed once"


def replayed(play: Drill) -> str:
    trade = play.copied()
    play.relay(*3 * [trade.opened])
    play.quiet()
    play.expect(trade, opens=1, closes=0, held=trade.volume)
    play.finish(trade)
    play.relay(*3 * [trade.opened, trade.end])
    play.quiet()
    play.expect(trade, opens=1, closes=1)
    return "its open came 7 times, its close 4 times: opened once, closed once"


def disordered(play: Drill) -> str:
    short = play.open()
    play.relay(play.close(short), short.opened)
    play.quiet()
    seen = play.done(short)
    if seen.held or seen.opens > 1 or seen.opens != seen.closes:
        raise RuleBroken(f"the close came before its open: {seen}")
    one, other = play.open(), play.open()
    play.relay(other.opened, one.opened)
    for trade in (one, other):
        play.until(lambda trade=trade: play.done(trade).held == trade.volume, "the later open came first", trade)  # type: ignore[misc]
    closes = play.close(one), play.close(other)
    play.relay(*reversed(closes))
    for trade in (one, other):
        play.flat(trade)
    play.quiet()
    for trade in (one, other):
        play.expect(trade, opens=1, closes=1)
    return "a close before its open left nothing; two opens and two closes, the later first, were each done once"


def late_open(play: Drill) -> str:
    trade = play.open()
    play.relay(play.close(trade))
    play.quiet()
    play.flat(trade)
    before = play.done(trade)
    try:
        play.open_again(trade)
    except TradeClosed as no:
        code = no.code
    else:
        raise RuleBroken("the desk opened it again")
    if not AuditLog.objects.filter(action="zombie.refused", subject=f"trade:{trade.ref}").exists():
        raise RuleBroken(f"the desk refused it ({code}), and there is no zombie.refused of it in the audit log")
    play.relay(trade.opened, trade.opened)
    play.quiet()
    if play.done(trade) != before:
        raise RuleBroken(f"the copier took the late packet: {play.done(trade)}")
    return f"the desk said 409 {code} and audited zombie.refused; the late packet opened nothing"


def killed_in_close(when: str) -> Callable[[Drill], str]:
    def check(play: Drill) -> str:
        trade = play.copied()
        play.bot.say({"cmd": "pause_in_close", "when": when})
        play.relay(play.close(trade))
        play.bot.hear("closing")
        play.bot.kill()
        executed = int(when == AFTER)
        play.expect(trade, opens=1, closes=executed, held=Decimal(0) if executed else trade.volume)
        play.ready()
        play.flat(trade)
        play.relay(trade.opened, trade.end, trade.opened)
        play.quiet()
        play.expect(trade, opens=1, closes=1)
        play.until(lambda: play.rows(trade) == [], "the desk was not told that the copy is closed", trade)
        held = "was closed" if executed else "was still open"
        return f"at the kill it {held} at the broker; after the restart closed once, opened once, told to the desk"

    return check


def restarted(play: Drill) -> str:
    gone, held = play.copied(), play.copied()
    play.finish(gone)
    play.bot.kill()
    play.close(held)
    missed = play.open()
    play.close(missed)
    play.ready()
    play.flat(held)
    for trade in (gone, held, missed):
        play.relay(trade.opened, trade.end)
    play.quiet()
    play.expect(gone, opens=1, closes=1)
    play.expect(held, opens=1, closes=1)
    play.expect(missed, opens=0, closes=0)
    return "one closed before, one closed meanwhile, one opened and closed meanwhile: nothing was opened"


def state_lost(play: Drill) -> str:
    active, gone = play.copied(), play.copied()
    play.bot.kill()
    play.close(gone)
    missed = play.open()
    for file in play.bot.folder.iterdir():
        file.unlink()
    play.ready()
    play.flat(gone)
    play.relay(active.opened, gone.opened, gone.end, missed.opened)
    play.quiet()
    play.expect(active, opens=1, closes=0, held=active.volume)
    play.expect(gone, opens=1, closes=1)
    play.expect(missed, opens=0, closes=0)
    play.finish(active, missed)
    play.expect(active, opens=1, closes=1)
    return "kept the one that is active, closed the one that is not, left alone the one it had missed"


def altered(play: Drill) -> str:
    trade = play.open()
    before = play.bot.state()["counts"].get("packet_signature", 0)
    packet = {**trade.opened["packet"], "volume": f"{trade.volume * 10:.8f}"}
    play.relay({**trade.opened, "packet": packet})
    refused = play.bot.state()["counts"].get("packet_signature", 0) - before
    play.until(lambda: bool(play.done(trade).held), "what the desk says is active was not copied", trade)
    play.quiet()
    if play.done(trade).opened != trade.volume:
        raise RuleBroken(f"{lots(play.done(trade).opened)} were opened, and {lots(trade.volume)} signed")
    if not refused:
        raise RuleBroken("the altered packet was not refused for its signature")
    play.finish(trade)
    return f"ten times the volume was refused (packet_signature); {lots(trade.volume)} copied, as the desk says"


def emptied_out(play: Drill) -> str:
    trade = play.copied()
    forgery = {"type": "snapshot", **emptied(play.ear.client.active())}
    play.relay(forgery)
    play.quiet()
    play.expect(trade, opens=1, closes=0, held=trade.volume)
    before = play.bot.state()["forged"]
    play.bot.say({"cmd": "forge_next_snapshot"})
    play.relay({"type": "snapshot"})
    play.until(lambda: play.bot.state()["forged"] > before, "no answer was forged")
    play.until(lambda: "snapshot" not in play.bot.state()["faults"], "the copier does not recover")
    play.quiet()
    play.expect(trade, opens=1, closes=0, held=trade.volume)
    play.finish(trade)
    play.expect(trade, opens=1, closes=1)
    return "the socket's was no more than a hint, the forged answer was not believed; it was closed when it was closed"


def second(play: Drill) -> str:
    held = play.copied()
    other = play.start_second()
    play.until(lambda: play.bot.state()["lease"] == "lost", "the first was not told that it lost the lease")
    later = play.open()
    for bot in (other, play.bot):
        bot.say(later.opened)
        play.quiet(bot)
    play.expect(later, opens=0, closes=0)
    why = other.state()["copies"].get(later.ref, {}).get("why", "")
    other.stop()
    play.finish(held, later)
    play.expect(held, opens=1, closes=1)
    play.until(lambda: play.rows(held) == [], "the desk was not told that the copy is closed", held)
    return f"the second opened nothing ({why}), nor did the first any more, which closed what it held"


def flat(play: Drill) -> str:
    if play.bot.process is None:
        play.bot.start()
    account, ear = play.books.account, play.ear.client
    play.until(lambda: not account.positions(), "positions are left at the broker")
    play.until(lambda: not ear.active()["trades"], "open trades are left at the desk")
    return f"{len(play.trades)} trades were opened and closed; nothing is left"


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
_HINDRANCES = (SetupFailed, DeskError, AnswerForged, OSError)


# --- a run


def run(*, actor: audit.Actor, by: str, url: str = "", command: Sequence[str] = COMMAND) -> Report:
    """Make a drill against the desk at `url`, and record it. Raises AlreadyRunning; whatever else goes wrong is told in
    the report. In the end nothing of it is left.
    """
    began = time.monotonic()
    with reports.exclusive_run():
        findings = _findings(url or settings.DESK_URL, command)
        report = Report(tuple(findings), round((time.monotonic() - began) * 1000), by)
        reports.record(report, actor)
    return report


def _findings(url: str, command: Sequence[str]) -> list[Finding]:
    try:
        with _played(url, command) as play:
            return [_find(play, rule) for rule in RULES]
    except _HINDRANCES as fault:
        return [Finding(rule, False, f"The drill could not be made: {fault}.") for rule in RULES]


def _find(play: Drill, rule: str) -> Finding:
    if time.monotonic() > play.until_s:
        play.gave_up = play.gave_up or f"the drill's {DEADLINE_S} s are over"
    if play.gave_up:
        return Finding(rule, False, f"Not tried: {play.gave_up}.")
    try:
        if rule != "flat":  # which needs no more opens, and so no lease
            play.ready()
        return Finding(rule, True, CHECKS[rule](play))
    except RuleBroken as fault:
        seen = str(fault)
    except _HINDRANCES as fault:
        seen = f"could not be tried: {fault}"
    except Exception as fault:
        log.exception("the drill's rule %s", rule)
        seen = f"could not be tried: {type(fault).__name__}: {fault}"
    try:
        play.sweep()
    except _HINDRANCES as fault:
        play.gave_up = str(fault)
    return Finding(rule, False, seen)


@contextmanager
def _played(url: str, command: Sequence[str]) -> Iterator[Drill]:
    stage, folder = environment.set_up(), TemporaryFolder()
    leader, ear = stage.client(url, environment.LEADER), StreamListener(stage.client(url, environment.EAR))
    config = _config(url, stage, folder.path)
    account = broker(config.account, config.bars, config.began_ms, PaperBroker)
    books = BrokerRecords(account, config.subscription.index)
    play = Drill(stage, leader, ear, books, Sandbox(command, config), time.monotonic() + DEADLINE_S)
    try:
        ear.client.active()  # whether the desk is there
        ear.open()
        yield play
    finally:
        for bot in (play.bot, *play.others):
            bot.kill()
        ear.stream.close()
        for client in (leader, ear.client):
            client.hang_up()
        account.close_file()
        environment.put_away()
        folder.remove()


def _config(url: str, stage: Environment, folder: Path) -> Config:
    key, began_ms = stage.keys[environment.FIRST], time.time_ns() // 1_000_000
    return Config(
        url=url, key=key.key, secret=key.secret, strategy=environment.STRATEGY, sub_id=stage.follows.sub_id,
        packet_secrets={str(stage.follows.packet_generation): strategies.packet_secret(stage.follows)},
        folder=str(folder / "copier"), account=str(folder / "account.sqlite3"), bars=str(EURUSD_1H),
        began_ms=began_ms, instance=stage.instance,
    )  # fmt: skip
