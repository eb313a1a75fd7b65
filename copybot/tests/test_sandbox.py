"""The drill's copier in a process of its own: its input, output, pauses and end."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry
from copybot.desk_model import SECRET as PACKET_SECRET
from copybot.desk_model import STRATEGY, SUB_ID
from copybot.paper import PaperBroker
from copybot.sandbox import Config, broker, emptied
from copybot.tests.desk_server import COPIER, KEYS, MASTER, SECRET, DeskServer

ROOT = Path(__file__).resolve().parent.parent.parent
ACTIVE = "/api/v2/trades/active"


class Bot:
    """The process, the model of the desk on a port, and the broker's books."""

    process: Any

    def __init__(self, office: Any, folder: Any) -> None:
        self.office, self.process = office, None
        rows = [f"2026-01-05T{hour:02d}:00:00+00:00,1.1,1.101,1.099,1.1" for hour in range(24)]
        (folder / "bars.csv").write_text("\n".join(["time,open,high,low,close", *rows]), encoding="ascii")
        self.config = Config(
            office.url, KEYS[COPIER], SECRET, STRATEGY, SUB_ID, {"1": PACKET_SECRET}, str(folder / "state"),
            str(folder / "account"), str(folder / "bars.csv"), time.time_ns() // 1_000_000, "drill-0123456789",
        )  # fmt: skip
        self.account = broker(self.config.account, self.config.bars, self.config.began_ms, PaperBroker)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "copybot.sandbox"], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.watchdog = threading.Timer(30, self.process.kill)  # ends a wait for a line that never comes
        self.watchdog.start()
        self.say(asdict(self.config))
        assert self.heard() == {"said": "ready"}
        self.until(lambda state: not state["is_asking"] and state["lease"] == "live")

    def kill(self) -> None:
        self.watchdog.cancel()
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            end.close()

    def say(self, line: Any) -> None:
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def heard(self) -> Any:
        return json.loads(self.process.stdout.readline())

    def state(self) -> Any:
        self.say({"cmd": "state"})
        return self.heard()

    def until(self, is_so: Any) -> Any:
        deadline = time.monotonic() + 120
        while not is_so(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.02)
        return state

    def led(self, method: Any, path: str = "", **fields: Any) -> Any:
        """Let lena trade, and return the delta."""
        desk = self.office.desk
        with self.office.lock:
            desk.send(MASTER, method, f"{ACTIVE}{path}", fields, f"lena-{len(desk.sent)}")
            return desk.sent[-1]

    def open(self) -> Any:
        return self.led(
            "POST", ticket_id="7", symbol="EURUSD", type="BUY", volume="0.20000000", open_price="1.10000000"
        )

    def close(self) -> Any:
        return self.led("DELETE", "/7", close_price="1.1", profit="0", reason="MANUAL")

    @property
    def done(self) -> Any:
        """The number of opening and of closing deals."""
        entries = [deal.entry for deal in self.account.history()]
        return entries.count(Entry.IN), entries.count(Entry.OUT)


@pytest.fixture
def bot(tmp_path: Path) -> Any:
    with DeskServer() as office:
        bot = Bot(office, tmp_path)
        yield bot
        bot.kill()
        bot.account.close_file()


def test_takes_a_stream_message_and_reports_its_actions(bot: Any) -> None:
    opened = bot.open()
    ref = opened["packet"]["trade_ref"]
    bot.say(opened)

    state = bot.state()

    assert (state["seen"], state["standing"], state["positions"]) == (1, "LIVE", {ref: "0.10"})
    assert state["copies"] == {ref: {"state": "HELD", "volume": "0.10000000", "why": ""}}
    assert state["orders"] == [["open", ref, 1]]
    bot.until(lambda _: len(bot.office.rows(COPIER)) == 1)


@pytest.mark.parametrize(("when", "at_the_kill"), [("before", (1, 0)), ("after", (1, 1))])
def test_pauses_in_the_next_close_and_continues_after_a_kill(when: str, at_the_kill: Any, bot: Any) -> None:
    bot.say(bot.open())
    bot.say({"cmd": "pause_in_close", "when": when})
    bot.say(bot.close())
    assert bot.heard() == {"said": "closing", "when": when}

    bot.kill()
    assert bot.done == at_the_kill
    bot.start()

    bot.until(lambda state: not state["positions"])
    assert bot.done == (1, 1)


def test_an_emptied_answer_is_refused(bot: Any) -> None:
    bot.say(bot.open())
    bot.say({"cmd": "forge_next_snapshot"})
    bot.say({"type": "snapshot"})

    state = bot.until(lambda state: state["forged"] == 1 and "snapshot" in state["faults"])

    assert "AnswerForged" in state["faults"]["snapshot"]
    bot.until(lambda state: "snapshot" not in state["faults"])
    assert bot.done == (1, 0)


def test_an_emptied_snapshot_differs_only_in_its_trades() -> None:
    snapshot = {"stream_epoch": "1", "as_of": {STRATEGY: "3"}, "count": 1, "trades": [{}]}

    assert emptied(snapshot) == {"stream_epoch": "1", "as_of": {STRATEGY: "3"}, "count": 0, "trades": []}


@pytest.mark.parametrize("ends", [lambda bot: bot.say({"cmd": "stop"}), lambda bot: bot.process.stdin.close()])
def test_returns_its_lease_on_stop_or_end_of_input(ends: Callable[..., Any], bot: Any) -> None:
    ends(bot)

    assert bot.heard() == {"said": "stopped"}
    assert bot.process.wait(60) == 0
    with bot.office.lock:
        kept = bot.office.desk.state
        assert (kept.instance, kept.leased_until <= time.time_ns() // 1_000_000) == (bot.config.instance, True)


def test_a_pause_ends_with_the_input(bot: Any) -> None:
    bot.say(bot.open())
    bot.say({"cmd": "pause_in_close", "when": "before"})
    bot.say(bot.close())
    bot.heard()

    bot.process.stdin.close()

    assert bot.process.wait(60) == 1
    assert bot.done == (1, 0)
