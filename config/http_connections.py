"""One HTTP connection of uvicorn, with the limits that uvicorn leaves to a proxy: how long a request's head may take
and how large it is, how long a client may take to read, and how many connections a process has.
"""

import asyncio
import logging
import time
from asyncio import TimerHandle

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core import descriptors

HEAD_S = 10.0  # from the first byte, or from the connection's begin, to the end of the headers
MOST_HEAD = 64 * 1024
LINGER_S = 5.0  # for a body that comes on after its answer
WRITE_S = 20.0  # for a client to read the 64 KiB that wait for it
LOGGED_EVERY_S = 10.0

log = logging.getLogger("copydesk.connections")
ENDED = Counter("copydesk_connections_ended", "Connections that the desk ended.", ["why"])


class Connection(HttpToolsProtocol):
    _deadline: TimerHandle | None = None  # for what the client has to send next
    _write_deadline: TimerHandle | None = None
    _is_in_head = True
    _head_bytes = 0
    _last_log = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > descriptors.connections():
            self._log_that_it_is_full()
            self._end("too many connections")
            return
        self._expect_within(HEAD_S, "slow head")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for deadline in (self._deadline, self._write_deadline):
            if deadline is not None:
                deadline.cancel()

    # --- what the client sends

    def data_received(self, data: bytes) -> None:
        if self._is_in_head and self._head_bytes > MOST_HEAD:
            self._end("large head")
            return
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0
        self._expect_within(HEAD_S, "slow head")

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._expect_nothing()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.response_complete and self.cycle.more_body:  # the application has not read all of it
            self._expect_within(LINGER_S, "body after its answer")
        super().on_response_complete()
        if self.transport.is_closing():
            self._flush_within()

    # --- what the client reads

    def pause_writing(self) -> None:
        super().pause_writing()
        self._flush_within()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None and not self.transport.is_closing():
            self._write_deadline.cancel()
            self._write_deadline = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._flush_within()

    # --- deadlines

    def _expect_within(self, seconds: float, what: str) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._end, what)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _flush_within(self) -> None:
        if self._write_deadline is None and self.transport.get_write_buffer_size():
            self._write_deadline = self.loop.call_later(WRITE_S, self._end, "slow reader")

    def _end(self, why: str) -> None:
        ENDED.labels(why).inc()
        self._expect_nothing()
        self.transport.abort()

    def _log_that_it_is_full(self) -> None:
        now = time.monotonic()
        if now - Connection._last_log >= LOGGED_EVERY_S:
            Connection._last_log = now
            log.error("This process has %d connections, as many as its descriptors allow.", len(self.connections))
