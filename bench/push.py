"""One delta to many sockets: published through Redis as a web process publishes it, until the last socket has it."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import desk
from bench.desk import Desk
from bench.table import Line, Turn

DELTAS = 5  # measured in each turn; the turn's figure is their median
PAUSE_S = 0.1

LINES = [
    Line("one delta to {sockets} sockets", "push", "push, floor", "C, epoll, same bytes", at_most=4.0),
    Line("one delta to {sockets} sockets", "push", "push, bare", "bare asyncio on uvloop"),
    Line("the same with packets", "push, packets", "push, floor, packets", "C, epoll, same bytes", at_most=6.0),
    Line("the same with packets", "push, packets", "push, bare, packets", "bare asyncio on uvloop"),
    Line("KiB a socket, in the process", "push, KiB", "", "", at_most=30.0),
    Line("KiB a socket with packets, in the process", "push, packets, KiB", "", "", at_most=30.0),
]


@dataclass
class Sockets:
    """A program that holds many sockets and reports when all of them have received a message."""

    process: "subprocess.Popen[bytes]"

    @classmethod
    def opened(cls, on: Desk, port: int, count: int, keys: str) -> "Sockets":
        command = [desk.native("sockets"), port, count, on.folder / keys]
        log = on.folder / f"sockets-{port}.log"
        sockets = cls(desk.spawn(command, log=log, talks=True))
        if not sockets._read_line():
            raise SystemExit(f"The sockets did not open: {log.read_text()[-500:]}")
        return sockets

    def listen(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"listen\n")
        self.process.stdin.flush()
        self._read_line()

    def heard_last(self) -> int:
        """The time at which the last socket received the message, in ns since 1970."""
        report = json.loads(self._read_line())
        if report["gone"] or not report["last_ns"]:
            raise SystemExit(f"Sockets were lost: {report}")
        return int(report["last_ns"])

    def _read_line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate(timeout=20)


@dataclass
class Fan:
    """A server that writes a given frame to all its sockets."""

    process: "subprocess.Popen[bytes]"
    sockets: Sockets

    @classmethod
    def started(cls, on: Desk, command: list[object], count: int) -> "Fan":
        port = desk.free_port()
        process = desk.spawn([*command, port], log=on.folder / f"fan-{port}.log", talks=True)
        time.sleep(0.5)
        return cls(process, Sockets.opened(on, port, count, "watchers"))

    def ms(self, text: bytes) -> float:
        return _median(lambda: self._once(b"\x81\x7e" + len(text).to_bytes(2, "big") + text))

    def _once(self, frame: bytes) -> float:
        assert self.process.stdin is not None
        self.sockets.listen()
        began = time.time_ns()
        self.process.stdin.write(len(frame).to_bytes(4, "big") + frame)
        self.process.stdin.flush()
        return (self.sockets.heard_last() - began) / 1e6

    def close(self) -> None:
        self.sockets.close()
        self.process.terminate()
        self.process.communicate(timeout=20)


@dataclass
class Pushed:
    """A web process of the desk whose sockets watch one strategy, and the means to publish to it."""

    web: desk.Web
    sockets: Sockets
    strategy: Any
    layer: Any
    runner: asyncio.Runner
    kib_a_socket: float
    seq: int = field(init=False)

    def __post_init__(self) -> None:
        self.seq = self.strategy.last_seq

    @classmethod
    def started(cls, on: Desk, strategy: Any, keys: str, count: int, layer: Any, runner: asyncio.Runner) -> "Pushed":
        web = desk.web(on)
        Sockets.opened(on, web.ports[0], 16, keys).close()  # the first sockets cause one-time allocations
        before = _resident_kib(web)
        sockets = Sockets.opened(on, web.ports[0], count, keys)
        return cls(web, sockets, strategy, layer, runner, (_resident_kib(web) - before) / count)

    def ms(self) -> float:
        return _median(self._once)

    def _once(self) -> float:
        from trades import publisher

        self.seq += 1
        delta = delta_of(self.strategy.name, self.seq)
        message = {
            "type": "deltas",
            "strategy_id": self.strategy.pk,
            "deltas": [(time.time_ns() // 1_000_000, delta)],
        }
        self.sockets.listen()
        began = time.time_ns()
        self.runner.run(self.layer.group_send(publisher.group(self.strategy.pk), message))
        return (self.sockets.heard_last() - began) / 1e6

    def close(self) -> None:
        self.sockets.close()
        self.web.stop()


def _median(once: Turn) -> float:
    times = []
    for _ in range(DELTAS):
        times.append(once())
        time.sleep(PAUSE_S)
    return statistics.median(times)


def _resident_kib(web: desk.Web) -> float:
    status = Path(f"/proc/{web.processes[0].pid}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def delta_of(strategy: str, seq: int) -> dict[str, Any]:
    """A modification as the database returns it."""
    trade = {
        "trade_id": "019aa0c0-0000-7000-8000-000000000000", "role": "master", "strategy": strategy,
        "ticket_id": "987654", "master_ticket": "987654", "symbol": "EURUSD", "type": "BUY", "volume": "0.10000000",
        "copy_volume": None, "copy": None, "copies": None, "open_price": "1.10500000", "sl": "1.10000000",
        "tp": "1.12000000", "opened_volume": "0.10000000", "opened_sl": "1.10000000",
        "opened_at": "2026-01-05T10:00:00.000Z", "seq": str(seq), "status": "OPEN",
    }  # fmt: skip
    return {"type": "trade.modified", "strategy": strategy, "seq": str(seq), "trade": trade}


PACKET_BYTES = 480  # what a packet adds to a delta's text


@contextmanager
def turns(on: Desk, count: int) -> Iterator[dict[str, Turn]]:
    """The measurements of each round, by name; each call returns milliseconds (or KiB)."""
    import django

    django.setup()
    from channels.layers import get_channel_layer

    from strategies.models import Strategy

    text = json.dumps(delta_of("bench-00", 12345), separators=(",", ":")).encode()
    text_with_packet = text[:-1] + b',"packet":"' + b"x" * (PACKET_BYTES - 12) + b'"}'
    with ExitStack() as ending:
        runner = ending.enter_context(asyncio.Runner())
        layer = get_channel_layer()

        def up(started: Any) -> Any:
            ending.callback(started.close)
            return started

        floor = up(Fan.started(on, [desk.native("fan")], count))
        bare = up(Fan.started(on, [sys.executable, "-m", "bench.twin.fan"], count))
        strategies = {name: Strategy.objects.get(name=name) for name in ("bench-00", "bench-01")}
        plain = up(Pushed.started(on, strategies["bench-00"], "watchers", count, layer, runner))
        packets = up(Pushed.started(on, strategies["bench-01"], "followers", count, layer, runner))
        yield {
            "push": plain.ms,
            "push, floor": lambda: floor.ms(text),
            "push, bare": lambda: bare.ms(text),
            "push, packets": packets.ms,
            "push, floor, packets": lambda: floor.ms(text_with_packet),
            "push, bare, packets": lambda: bare.ms(text_with_packet),
            "push, KiB": lambda: plain.kib_a_socket,
            "push, packets, KiB": lambda: packets.kib_a_socket,
        }
