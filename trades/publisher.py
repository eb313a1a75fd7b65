"""Deltas on their way out: after the commit, through Redis, to the hub of every web process.

A delta is a hint, state is the truth: one that is lost here is noticed by its number and repaired from the database.
So publishing never waits and never fails a request.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog
from channels.layers import get_channel_layer

log = structlog.get_logger()

MAX_WAITING = 10_000
MAX_TOGETHER = 200
GATHER_S = 0.002  # what follows within this goes out together


def group(strategy_id: int) -> str:
    """The channel-layer group of a strategy. A process joins it once, however many of its sockets watch."""
    return f"strategy-{strategy_id}"


def publish(outcome: Mapping[str, Any]) -> None:
    """Send the outcome of a committed transition to whoever watches its strategy. Returns at once."""
    delta = {
        "type": outcome["event"],
        "strategy": outcome["trade"]["strategy"],
        "seq": outcome["trade"]["seq"],
        "trade": outcome["trade"],
    }
    _publisher().put(Waiting(outcome["strategy_id"], time.time_ns() // 1_000_000, delta))


class Waiting(NamedTuple):
    strategy_id: int
    at_ms: int
    delta: dict[str, Any]


class Publisher(threading.Thread):
    """One a process: sends what waits, as one message a strategy, so that a burst costs few round trips."""

    def __init__(self) -> None:
        super().__init__(name="publisher", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.waiting: asyncio.Queue[Waiting] = asyncio.Queue(MAX_WAITING)

    def put(self, delta: Waiting) -> None:
        self.loop.call_soon_threadsafe(self._put, delta)

    def _put(self, delta: Waiting) -> None:
        try:
            self.waiting.put_nowait(delta)
        except asyncio.QueueFull:
            log.warning("stream.overrun", strategy=delta.delta["strategy"])

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.send_all())

    async def send_all(self) -> None:
        layer = get_channel_layer()
        while True:
            together = [await self.waiting.get()]
            await asyncio.sleep(GATHER_S)
            while not self.waiting.empty() and len(together) < MAX_TOGETHER:
                together.append(self.waiting.get_nowait())
            for strategy_id in dict.fromkeys(delta.strategy_id for delta in together):
                deltas = [(one.at_ms, one.delta) for one in together if one.strategy_id == strategy_id]
                message = {"type": "deltas", "strategy_id": strategy_id, "deltas": deltas}
                try:
                    await layer.group_send(group(strategy_id), message)
                except Exception as fault:  # Redis away: heartbeats carry the numbers, readers resync
                    log.warning("stream.unpublished", fault=type(fault).__name__, deltas=len(deltas))


_starting = threading.Lock()
_running: Publisher | None = None


def _publisher() -> Publisher:
    """This process's publisher, started with its first delta."""
    global _running
    with _starting:
        if _running is None or not _running.is_alive():
            _running = Publisher()
            _running.start()
        return _running
