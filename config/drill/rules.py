"""The zombie drill: a copier in a sandbox meets everything that could open a closed trade again, rule by rule.

A rule opens trades of its own, causes a fault, closes the trades, and reads the broker's records. What a failed rule
leaves behind is cleaned up before the next one.
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


# --- the rules: each returns what was observed, or raises RuleBroken


def copied(drill: Drill) -> str:
    trade = drill.open_copied()
    drill.wait_until(lambda: drill.desk_copies(trade) == [trade.volume], "the copy was not reported to the desk", trade)
    drill.close_all(trade)
    drill.wait_until(
        lambda: drill.desk_copies(trade) == [], "the close of the copy was not reported to the desk", trade
    )
    drill.expect(trade, opens=1, closes=1)
    return f"{lots(trade.volume)} opened once, reported to the desk once, closed once"


def replayed(drill: Drill) -> str:
    trade = drill.open_copied()
    drill.send(*3 * [trade.opened_message])
    drill.settle()
    drill.expect(trade, opens=1, closes=0, held=trade.volume)
    drill.close_all(trade)
    drill.send(*3 * [trade.opened_message, trade.closed_message])
    drill.settle()
    drill.expect(trade, opens=1, closes=1)
    return "the open was sent 7 times and the close 4 times: opened once, closed once"


def disordered(drill: Drill) -> str:
    early = drill.open()
    drill.send(drill.close(early), early.opened_message)
    drill.settle()
    seen = drill.executions(early)
    if seen.held or seen.opens > 1 or seen.opens != seen.closes:
        raise RuleBroken(f"a close was sent before its open: {seen}")
    first, second = drill.open(), drill.open()
    drill.send(second.opened_message, first.opened_message)
    for trade in (first, second):
        drill.wait_until_copied(trade, "of two opens, the later was sent first")
    closes = drill.close(first), drill.close(second)
    drill.send(*reversed(closes))
    for trade in (first, second):
        drill.wait_until_closed(trade)
    drill.settle()
    for trade in (first, second):
        drill.expect(trade, opens=1, closes=1)
    return (
        "a close before its open left nothing open; two opens and two closes in reverse order were executed once each"
    )


def late_open(drill: Drill) -> str:
    trade = drill.open()
    drill.send(drill.close(trade))
    drill.settle()
    drill.wait_until_closed(trade)
    before = drill.executions(trade)
    try:
        drill.open_again(trade)
    except TradeClosed as refusal:
        code = refusal.code
    else:
        raise RuleBroken("the desk opened the trade again")
    if not AuditLog.objects.filter(action="zombie.refused", subject=f"trade:{trade.ref}").exists():
        raise RuleBroken(f"the desk refused the open ({code}), but the audit log has no zombie.refused for it")
    drill.send(trade.opened_message, trade.opened_message)
    drill.settle()
    if drill.executions(trade) != before:
        raise RuleBroken(f"the copier executed the late packet: {drill.executions(trade)}")
    return f"the desk answered 409 {code} and recorded zombie.refused; the late packet opened nothing"


def killed_in_close(when: str) -> Callable[[Drill], str]:
    def check(drill: Drill) -> str:
        trade = drill.open_copied()
        drill.copier.write({"cmd": "pause_in_close", "when": when})
        drill.send(drill.close(trade))
        drill.copier.read("closing")
        drill.copier.kill()
        executed = int(when == AFTER)
        drill.expect(trade, opens=1, closes=executed, held=Decimal(0) if executed else trade.volume)
        drill.ensure_ready()
        drill.wait_until_closed(trade)
        drill.send(trade.opened_message, trade.closed_message, trade.opened_message)
        drill.settle()
        drill.expect(trade, opens=1, closes=1)
        drill.wait_until(
            lambda: drill.desk_copies(trade) == [], "the close of the copy was not reported to the desk", trade
        )
        state = "closed" if executed else "still open"
        return f"{state} at the broker when killed; after the restart closed once, opened once, reported to the desk"

    return check


def restarted(drill: Drill) -> str:
    closed, held = drill.open_copied(), drill.open_copied()
    drill.close_all(closed)
    drill.copier.kill()
    drill.close(held)
    missed = drill.open()
    drill.close(missed)
    drill.ensure_ready()
    drill.wait_until_closed(held)
    for trade in (closed, held, missed):
        drill.send(trade.opened_message, trade.closed_message)
    drill.settle()
    drill.expect(closed, opens=1, closes=1)
    drill.expect(held, opens=1, closes=1)
    drill.expect(missed, opens=0, closes=0)
    return "one trade closed before, one in the meantime, one opened and closed in the meantime: no open was executed"


def state_lost(drill: Drill) -> str:
    active, closed = drill.open_copied(), drill.open_copied()
    drill.copier.kill()
    drill.close(closed)
    missed = drill.open()
    for file in drill.copier.folder.iterdir():
        file.unlink()
    drill.ensure_ready()
    drill.wait_until_closed(closed)
    drill.send(active.opened_message, closed.opened_message, closed.closed_message, missed.opened_message)
    drill.settle()
    drill.expect(active, opens=1, closes=0, held=active.volume)
    drill.expect(closed, opens=1, closes=1)
    drill.expect(missed, opens=0, closes=0)
    drill.close_all(active, missed)
    drill.expect(active, opens=1, closes=1)
    return "the active copy was kept, the closed one was closed, the missed trade was not opened"


def altered(drill: Drill) -> str:
    trade = drill.open()
    before = drill.copier.state()["counts"].get("packet_signature", 0)
    packet = {**trade.opened_message["packet"], "volume": f"{trade.volume * 10:.8f}"}
    drill.send({**trade.opened_message, "packet": packet})
    refused = drill.copier.state()["counts"].get("packet_signature", 0) - before
    drill.wait_until(lambda: bool(drill.executions(trade).held), "the active trade was not copied", trade)
    drill.settle()
    if drill.executions(trade).opened != trade.volume:
        raise RuleBroken(f"{lots(drill.executions(trade).opened)} were opened, but {lots(trade.volume)} were signed")
    if not refused:
        raise RuleBroken("the altered packet was not refused for its signature")
    drill.close_all(trade)
    return f"ten times the volume was refused (packet_signature); {lots(trade.volume)} were copied, as signed"


def emptied_out(drill: Drill) -> str:
    trade = drill.open_copied()
    forgery = {"type": "snapshot", **emptied(drill.listener.client.active())}
    drill.send(forgery)
    drill.settle()
    drill.expect(trade, opens=1, closes=0, held=trade.volume)
    before = drill.copier.state()["forged"]
    drill.copier.write({"cmd": "forge_next_snapshot"})
    drill.send({"type": "snapshot"})
    drill.wait_until(lambda: drill.copier.state()["forged"] > before, "the answer was not forged")
    drill.wait_until(lambda: "snapshot" not in drill.copier.state()["faults"], "the copier did not recover")
    drill.settle()
    drill.expect(trade, opens=1, closes=0, held=trade.volume)
    drill.close_all(trade)
    drill.expect(trade, opens=1, closes=1)
    return "neither the snapshot on the socket nor the forged answer closed the copy; the provider's close did"


def second(drill: Drill) -> str:
    held = drill.open_copied()
    other = drill.start_second()
    drill.wait_until(
        lambda: drill.copier.state()["lease"] == "lost", "the first copier did not learn that it lost the lease"
    )
    later = drill.open()
    for copier in (other, drill.copier):
        copier.write(later.opened_message)
        drill.settle(copier)
    drill.expect(later, opens=0, closes=0)
    reason = other.state()["copies"].get(later.ref, {}).get("why", "")
    other.stop()
    drill.close_all(held, later)
    drill.expect(held, opens=1, closes=1)
    drill.wait_until(lambda: drill.desk_copies(held) == [], "the close of the copy was not reported to the desk", held)
    return f"the second copier opened nothing ({reason}), the first opened nothing new and closed its copy"


def flat(drill: Drill) -> str:
    if drill.copier.process is None:
        drill.copier.start()
    account, desk = drill.records.account, drill.listener.client
    drill.wait_until(lambda: not account.positions(), "positions are still open at the broker")
    drill.wait_until(lambda: not desk.active()["trades"], "trades are still open at the desk")
    return f"{len(drill.trades)} trades were opened and closed; nothing is open"


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
_OBSTACLES = (SetupFailed, DeskError, AnswerForged, OSError)


# --- a run


def run(*, actor: audit.Actor, by: str, url: str = "", command: Sequence[str] = COMMAND) -> Report:
    """Run the drill against the desk at `url` and record the report. Raises AlreadyRunning; other faults are findings.

    At the end nothing is left of its trades, keys and folders.
    """
    began = time.monotonic()
    with reports.exclusive_run():
        findings = _findings(url or settings.DESK_URL, command)
        report = Report(tuple(findings), round((time.monotonic() - began) * 1000), by)
        reports.record(report, actor)
    return report


def _findings(url: str, command: Sequence[str]) -> list[Finding]:
    try:
        with _prepared(url, command) as drill:
            return [_check(drill, rule) for rule in RULES]
    except _OBSTACLES as fault:
        return [Finding(rule, False, f"The drill could not be run: {fault}.") for rule in RULES]


def _check(drill: Drill, rule: str) -> Finding:
    if time.monotonic() > drill.deadline:
        drill.abort_reason = drill.abort_reason or f"the drill reached its limit of {DEADLINE_S} s"
    if drill.abort_reason:
        return Finding(rule, False, f"Not run: {drill.abort_reason}.")
    try:
        if rule != "flat":  # it opens nothing, so it needs no lease
            drill.ensure_ready()
        return Finding(rule, True, CHECKS[rule](drill))
    except RuleBroken as fault:
        seen = str(fault)
    except _OBSTACLES as fault:
        seen = f"could not be run: {fault}"
    except Exception as fault:
        log.exception("the drill's rule %s", rule)
        seen = f"could not be run: {type(fault).__name__}: {fault}"
    try:
        drill.clean_up()
    except _OBSTACLES as fault:
        drill.abort_reason = str(fault)
    return Finding(rule, False, seen)


@contextmanager
def _prepared(url: str, command: Sequence[str]) -> Iterator[Drill]:
    env, folder = environment.set_up(), TemporaryFolder()
    provider = env.client(url, environment.PROVIDER_KEY)
    listener = StreamListener(env.client(url, environment.LISTENER_KEY))
    config = _config(url, env, folder.path)
    account = broker(config.account, config.bars, config.began_ms, PaperBroker)
    records = BrokerRecords(account, config.subscription.index)
    drill = Drill(env, provider, listener, records, Sandbox(command, config), time.monotonic() + DEADLINE_S)
    try:
        listener.client.active()  # fails early where the desk cannot be reached
        listener.open()
        yield drill
    finally:
        for copier in (drill.copier, *drill.other_copiers):
            copier.kill()
        listener.stream.close()
        for client in (provider, listener.client):
            client.hang_up()
        account.close_file()
        environment.clean_up()
        folder.remove()


def _config(url: str, env: Environment, folder: Path) -> Config:
    key, began_ms = env.keys[environment.FIRST_KEY], time.time_ns() // 1_000_000
    return Config(
        url=url, key=key.key, secret=key.secret, strategy=environment.STRATEGY, sub_id=env.subscription.sub_id,
        packet_secrets={str(env.subscription.packet_generation): strategies.packet_secret(env.subscription)},
        folder=str(folder / "copier"), account=str(folder / "account.sqlite3"), bars=str(EURUSD_1H),
        began_ms=began_ms, instance=env.instance,
    )  # fmt: skip
