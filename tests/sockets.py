"""A real client of the stream, signed as a bot or with a browser's session. Waits are long, for busy machines."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATH = "/ws/v2/active"
PATIENCE_S = 60


class Watching:
    """An open socket, message by message. `next` skips heartbeats by default."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def next(self, timeout_s: float = PATIENCE_S, *, heartbeats: bool = False) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            message = json.loads(self.connection.recv(max(0.01, deadline - time.monotonic())))
            if heartbeats or message["type"] != "heartbeat":
                return message

    def until(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()), heartbeats=True)
            if wanted(message):
                return message

    def say(self, message: Any) -> None:
        self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def nothing_for(self, quiet_s: float) -> bool:
        try:
            self.next(quiet_s)
        except TimeoutError:
            return True
        return False


@contextmanager
def watch(url: str, headers: dict[str, str] | None = None, **more: Any) -> Iterator[Watching]:
    address = url.replace("http://", "ws://") + PATH
    patience = {"open_timeout": PATIENCE_S, "ping_timeout": PATIENCE_S}
    with connect(address, additional_headers=headers or {}, compression=None, **patience, **more) as connection:
        yield Watching(connection)


@contextmanager
def watch_as_bot(bot: Any, **more: Any) -> Iterator[Watching]:
    with watch(bot.url, bot.headers("GET", PATH), **more) as watching:
        yield watching
