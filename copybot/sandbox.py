"""Run as `python -m copybot.sandbox`: a real copier on a paper account, for drills. Standard input is its stream.

The first line is the configuration (`Config`). Each further line is a message of the desk's stream, taken as if from
the socket, or a command {"cmd": …}, see `Sandbox.take`. The output is one JSON object per line. The process may be
killed at any moment and started again on the same folder. It ends in good order at the end of its input.
"""

import json
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from copybot.broker import Position, Result
from copybot.candles import Candles, Clock, Instrument
from copybot.client import ACTIVE, Client
from copybot.copier import Copier, Pace
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.paper import PaperBroker
from copybot.protocol import Answer, Attempt
from copybot.subscriptions import FollowedSubscription, Subscription

SYMBOL = "EURUSD"
BEFORE, AFTER = "before", "after"
STEP_S = 0.1
LONGEST_PAUSE_S = 60
LIMITS = Limits(settle_ms=1_000, second_look_ms=200, brake_ms=300)
PACE = Pace(
    heartbeat_ms=1_500, snapshot_ms=10_000, polling_ms=1_000, again_ms=150, position_sync_ms=200, first_retry_ms=200,
    longest_retry_ms=1_000,
)  # fmt: skip

BrokerType = TypeVar("BrokerType", bound=PaperBroker)
Line = Mapping[str, Any]
Say = Callable[[Line], None]


@dataclass(frozen=True)
class Config:
    """The desk, the subscription, and the files. `packet_secrets`: by generation. `account`: the broker's file.

    `instance`: the copier's name for the lease, which survives the loss of the folder. `began_ms`: see `broker`.
    """

    url: str
    key: str
    secret: str
    strategy: str
    sub_id: str
    packet_secrets: Mapping[str, str]
    folder: str
    account: str
    bars: str
    began_ms: int
    instance: str

    @property
    def subscription(self) -> Subscription:
        secrets = {int(generation): secret for generation, secret in self.packet_secrets.items()}
        return Subscription(self.strategy, self.sub_id, secrets)


class Pausable(PaperBroker):
    """A paper broker that pauses in its next close, before or after the execution, as a moment to kill the process."""

    pause_in = ""
    on_pause: Callable[[str], None]
    sent: Counter[tuple[str, int]]  # this process's orders, by verb and magic

    def open(self, *, magic: int, **order: Any) -> Result:
        self.sent["open", magic] += 1
        return super().open(magic=magic, **order)

    def close(self, position: Position, volume: Decimal) -> Result:
        self.sent["close", position.magic] += 1
        self._may_pause(BEFORE)
        result = super().close(position, volume)
        self._may_pause(AFTER)
        return result

    def _may_pause(self, when: str) -> None:
        if self.pause_in == when:
            self.on_pause(when)


def broker(path: str | Path, bars: str | Path, began_ms: int, kind: type[BrokerType]) -> BrokerType:
    """The account in a file. Its market starts a bar at `began_ms`, a different bar for each such time."""
    candles = Candles.read(Path(bars), digits=5)
    bar = candles.bars[began_ms // 1000 % len(candles.bars)]
    clock = Clock(bar.at_ms, anchor_ms=began_ms)
    return kind(path, [Instrument(SYMBOL, candles)], clock, login="sandbox", stamp=clock.wall_at)


class Tapped(Client):
    """A client with a man in the middle, who can empty a snapshot before the client checks its signature."""

    forges = False
    forged = 0

    def _exchange(self, attempt: Attempt) -> Answer:
        answer = super()._exchange(attempt)
        if not self.forges or attempt.method != "GET" or urlsplit(attempt.url).path != ACTIVE:
            return answer
        self.forges, self.forged = False, self.forged + 1
        return replace(answer, body=json.dumps(emptied(answer.json()), default=str).encode())


def emptied(snapshot: Line) -> dict[str, Any]:
    """The snapshot without its trades."""
    return {**snapshot, "count": 0, "trades": []}


class Sandbox:
    """The copier, with a stand-in for the desk's socket, a man in the middle and a pause to kill it in."""

    line_of: ClassVar[type[Tapped]] = Tapped
    copier_of: ClassVar[type[Copier]] = Copier
    guard_of: ClassVar[type[ExecutionGuard]] = ExecutionGuard

    def __init__(self, config: Config, say: Say) -> None:
        self.config, self.say, self.is_over = config, say, False
        self.lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self.ended = threading.Event()
        self.broker = broker(config.account, config.bars, config.began_ms, Pausable)
        self.broker.on_pause, self.broker.sent = self._pause, Counter()
        self.desk = self.line_of(config.url, config.key, config.secret, timeout_s=5, attempts=1)
        folder = Path(config.folder)
        folder.mkdir(exist_ok=True)
        self.copier = self.copier_of(
            self.desk, self.broker, [config.subscription], folder, self.desk.desk_ms, LIMITS, PACE,
            instance=config.instance, guard_of=self.guard_of,
        )  # fmt: skip

    def listen(self, lines: Any) -> None:
        """Read lines until the end. Run it in a thread of its own, so that a pause notices the end too."""
        for line in lines:
            self.lines.put(json.loads(line, parse_float=Decimal))
        self.ended.set()
        self.lines.put(None)

    def run(self) -> None:
        self.say({"said": "ready"})
        while not self.is_over:
            try:
                line = self.lines.get(timeout=STEP_S)
            except queue.Empty:
                line = {}
            if line is None:
                break
            if line:
                self.take(line)
            self.copier.step()
        self.copier.stop()
        self.desk.hang_up()
        self.say({"said": "stopped"})

    def take(self, line: Line) -> None:
        """A message of the stream, or a command: state, step, pause_in_close, forge_next_snapshot, stop."""
        match line.get("cmd"):
            case None:
                self.copier.on_message(line)
            case "state":
                self.copier.step()
                self.say({"said": "state", **self.state()})
            case "step":
                self.copier.step()
            case "pause_in_close":
                self.broker.pause_in = line["when"]
            case "forge_next_snapshot":
                self.desk.forges = True
            case "stop":
                self.is_over = True

    def state(self) -> dict[str, Any]:
        """The guard's state, its copies by trade, and this process's orders for each."""
        (followed,) = self.copier.followed
        guard, lease = followed.guard, self.copier.lease
        return {
            "seen": guard.seen,
            "standing": guard.mode.value,
            "why": guard.why,
            "is_asking": guard.needs_snapshot,
            "lease": "lost" if lease.is_lost else "live" if lease.is_live else "waits",
            "copies": {
                copy.ref: {"state": copy.state.value, "volume": str(copy.volume), "why": copy.why}
                for copy in guard.copies()
            },
            "positions": {
                self._ref(followed, position.magic): str(position.volume) for position in self.broker.positions()
            },
            "orders": [[verb, self._ref(followed, magic), times] for (verb, magic), times in self.broker.sent.items()],
            "events": [[event.event, event.ref, event.why] for event in guard.outbox()],
            "counts": dict(self.copier.counts),
            "faults": dict(self.copier.faults),
            "forged": self.desk.forged,
        }

    @staticmethod
    def _ref(followed: FollowedSubscription, magic: int) -> str:
        copy = followed.guard.by_magic(magic)
        return f"{magic:x}" if copy is None else copy.ref

    def _pause(self, when: str) -> None:
        self.say({"said": "closing", "when": when})
        self.ended.wait(LONGEST_PAUSE_S)
        raise SystemExit(f"the sandbox was not killed while it paused {when} the close")


def say(line: Line) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(kind: type[Sandbox] = Sandbox) -> None:
    sandbox = kind(Config(**json.loads(sys.stdin.readline())), say)
    threading.Thread(target=sandbox.listen, args=(sys.stdin,), daemon=True).start()
    sandbox.run()


if __name__ == "__main__":
    main()
