"""Sends deltas after the commit, through Redis, to the hub of every web process.

Publishing never waits and never fails a request. A delta that is lost here is noticed by its number, and the receivers
read the state from the database.
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from channels.layers import get_channel_layer

log = structlog.get_logger()

MAX_QUEUED = 10_000
MAX_BATCH = 200
GATHER_S = 0.002  # deltas that arrive within this time are sent together


def group(strategy_id: int) -> str:
    """The channel-layer group of a strategy. A process joins it once, regardless of its number of sockets."""
    return f"strategy-{strategy_id}"


def publish(outcome: Mapping[str, Any]) -> None:
    """Send the event of a committed transition to the watchers of its strategy. Returns at once."""
    delta = {
        "type": outcome["event"],
        "strategy": outcome["trade"]["strategy"],
        "seq": outcome["trade"]["seq"],
        "trade": outcome["trade"],
    }
    at_ms, paused = time.time_ns() // 1_000_000, outcome.get("paused", [])
    _publisher().put(QueuedDelta(outcome["strategy_id"], at_ms, delta, paused))


def refresh(*, strategy_id: int, account_id: int) -> None:
    """Let the account's sockets that watch this strategy have a fresh snapshot, because it shows them something that is
    no event of the stream. Call it after the commit.
    """
    _publisher().put(Refresh(strategy_id, account_id))


class QueuedDelta(NamedTuple):
    """`paused`: the `sub_id` of each subscription that was paused when the trade opened; it is not shown the delta."""

    strategy_id: int
    at_ms: int
    delta: dict[str, Any]
    paused: Sequence[str] = ()


class Refresh(NamedTuple):
    strategy_id: int
    account_id: int


Queued = QueuedDelta | Refresh


class Publisher(threading.Thread):
    """The process's sending thread. It sends queued deltas as one message per strategy: few round trips in a burst."""

    def __init__(self) -> None:
        super().__init__(name="publisher", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.queue: asyncio.Queue[Queued] = asyncio.Queue(MAX_QUEUED)

    def put(self, queued: Queued) -> None:
        self.loop.call_soon_threadsafe(self._put, queued)

    def _put(self, queued: Queued) -> None:
        try:
            self.queue.put_nowait(queued)
        except asyncio.QueueFull:
            log.warning("stream.overrun", strategy_id=queued.strategy_id)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.send_all())

    async def send_all(self) -> None:
        layer = get_channel_layer()
        while True:
            batch = [await self.queue.get()]
            await asyncio.sleep(GATHER_S)
            while not self.queue.empty() and len(batch) < MAX_BATCH:
                batch.append(self.queue.get_nowait())
            for strategy_id in dict.fromkeys(queued.strategy_id for queued in batch):
                message = _message(strategy_id, [queued for queued in batch if queued.strategy_id == strategy_id])
                try:
                    await layer.group_send(group(strategy_id), message)
                except Exception as fault:  # Redis is away: hubs notice the loss by the numbers and send snapshots
                    log.warning("stream.unpublished", fault=type(fault).__name__, deltas=len(message["deltas"]))


def _message(strategy_id: int, batch: Sequence[Queued]) -> dict[str, Any]:
    """One message to the hubs. A hub of 0.1.0 reads the deltas alone; its copiers learn the rest by heartbeat."""
    deltas = [queued for queued in batch if isinstance(queued, QueuedDelta)]
    return {
        "type": "deltas",
        "strategy_id": strategy_id,
        "deltas": [(queued.at_ms, queued.delta) for queued in deltas],
        "paused": {queued.delta["seq"]: list(queued.paused) for queued in deltas if queued.paused},
        "refresh": [queued.account_id for queued in batch if isinstance(queued, Refresh)],
    }


_start_lock = threading.Lock()
_running: Publisher | None = None


def _publisher() -> Publisher:
    """This process's publisher, started with its first delta."""
    global _running
    with _start_lock:
        if _running is None or not _running.is_alive():
            _running = Publisher()
            _running.start()
        return _running
