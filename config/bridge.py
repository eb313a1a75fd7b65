"""Passes HTTP requests from the ASGI server to Django's WSGI application, in threads that last as long as the process.

The event loop reads the whole request and writes the answer; one of the threads handles the request in between, and its
database connections stay open from request to request. So a client that sends or reads slowly occupies no thread. Only
an answer of megabytes keeps its thread while its client reads: exports have threads of their own, and a reader has a
least speed.
"""

import asyncio
import io
import itertools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import structlog

from accounts.signed_http import MAX_BATCH_BODY
from core import problem

Scope = dict[str, Any]
Environ = dict[str, Any]

BODY_S = 15  # limit for receiving a body; a buffering proxy sends it at once
MOST_WAITING_PEOPLE = 256
MOST_WAITING_EXPORTS = 16
MOST_UPLOADS = 2  # at a time, each held in memory
MOST_WHOLE = 4 * 1024 * 1024  # a longer answer is streamed
PIECE = 64 * 1024  # of a streamed answer
PIECE_S = 10.0  # limit for a client to accept a piece
PATIENCE_S = 30.0  # a reader may be behind the least speed by as much
LEAST_SPEED = 64 * 1024  # bytes a second, on average

log = structlog.get_logger()

EXPORTS = (".csv", ".zip")  # how the paths of exports end

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Lane:
    """Threads with a queue of their own. `most_waiting`: beyond it a request is refused at once; None never refuses."""

    def __init__(
        self, name: str, threads: int, work: Callable[["Lane"], None], most_waiting: int | None = None
    ) -> None:
        self.waiting: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.most_waiting = most_waiting
        for number in range(threads):
            threading.Thread(target=work, args=[self], name=f"{name}-{number}", daemon=True).start()

    def is_full(self) -> bool:
        return self.most_waiting is not None and self.waiting.qsize() >= self.most_waiting


class ReaderTooSlow(Exception):
    """The client of a streamed answer does not read, or is gone."""


class WsgiThreads:
    """An ASGI application that runs a WSGI application. Bots, people's pages and exports have threads of their own, so
    that no flood of the others holds up a close. `bots_paths`: what the paths of bots begin with. `uploads`: the paths
    that accept a body larger than those of bots, with the largest in bytes; the exports' threads answer them."""

    def __init__(
        self, wsgi: Callable[..., Any], *, bots: int, people: int, exports: int, bots_paths: tuple[str, ...],
        uploads: Mapping[str, int] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.wsgi, self.bots_paths, self.uploads = wsgi, bots_paths, uploads
        self.uploading = asyncio.Semaphore(MOST_UPLOADS)
        self.bots = Lane("bots", bots, self._work)
        self.people = Lane("people", people, self._work, most_waiting=MOST_WAITING_PEOPLE)
        self.exports = Lane("exports", exports, self._work, most_waiting=MOST_WAITING_EXPORTS)

    def lane_of(self, path: str) -> Lane:
        if path.startswith(self.bots_paths):
            return self.bots
        return self.exports if path.endswith(EXPORTS) or path in self.uploads else self.people

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if not scope.get("query_string", b"").isascii():
            await _send(send, _refusal(400, "request_malformed", "The query has characters outside ASCII."))
            return
        if scope["path"] in self.uploads and scope["method"] == "POST":
            if self.uploading.locked():
                await _send(send, _busy())
                return
            async with self.uploading:
                await self._answer(scope, receive, send, self.uploads[scope["path"]])
        else:
            await self._answer(scope, receive, send, MAX_BATCH_BODY)

    async def _answer(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any], largest: int) -> None:
        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(receive, largest)
        except TimeoutError:
            await _send(send, _refusal(408, "request_timeout", "The body did not arrive in time."))
            return
        if body is None:
            return
        lane = self.lane_of(scope["path"])
        if lane.is_full():
            await _send(send, _busy())
            return
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer | None] = loop.create_future()
        lane.waiting.put((answered, environ_of(scope, body), Reader(loop, receive, send)))
        try:
            answer = await answered
        except ReaderTooSlow as fault:
            log.warning("answer.broken_off", path=scope["path"][:200], why=str(fault))
            return
        if answer is not None:
            await _send(send, answer)

    def _work(self, lane: Lane) -> None:
        """Run in each thread. A queue and a call back into the loop cost a third of an executor's two futures."""
        while True:
            answered, environ, reader = lane.waiting.get()
            try:
                answer, fault = self._run(environ, reader), None
            except BaseException as caught:
                answer, fault = None, caught
            reader.loop.call_soon_threadsafe(_resolve, answered, answer, fault)
            del answered, environ, reader, answer, fault

    def _run(self, environ: Environ, reader: "Reader") -> Answer | None:
        """In a thread: return the whole answer, or None where it is so long that this thread streamed it."""
        starts: list[tuple[int, list[tuple[bytes, bytes]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            starts.append((int(status[:3]), encoded))

        response = self.wsgi(environ, start_response)
        try:
            pieces = _joined(response)
            beginning = list(itertools.islice(pieces, MOST_WHOLE // PIECE))
            if len(beginning) < MOST_WHOLE // PIECE:
                return *starts[-1], b"".join(beginning)
            reader.stream(starts[-1], itertools.chain(beginning, pieces))
            return None
        finally:
            response.close()


class Reader:
    """The client of a streamed answer. The thread sends it piece by piece, because it owns the answer's cursor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        self.loop, self.receive, self.send = loop, receive, send

    def stream(self, start: tuple[int, list[tuple[bytes, bytes]]], pieces: Iterable[bytes]) -> None:
        """Send the answer; raise ReaderTooSlow where its client is gone or reads too slowly."""
        gone = asyncio.run_coroutine_threadsafe(self._until_gone(), self.loop)
        began, size = time.monotonic(), 0
        try:
            self._wait_for({"type": "http.response.start", "status": start[0], "headers": start[1]}, PIECE_S)
            for piece in _joined(pieces):
                if gone.done():
                    raise ReaderTooSlow("gone")
                remaining_s = began + PATIENCE_S + size / LEAST_SPEED - time.monotonic()
                size += len(piece)
                message = {"type": "http.response.body", "body": piece, "more_body": True}
                self._wait_for(message, min(PIECE_S, remaining_s))
            self._wait_for({"type": "http.response.body", "body": b""}, PIECE_S)
        finally:
            gone.cancel()

    def _wait_for(self, message: dict[str, Any], seconds: float) -> None:
        sending = asyncio.run_coroutine_threadsafe(self.send(message), self.loop)
        try:
            sending.result(max(0.0, seconds))
        except TimeoutError:
            sending.cancel()
            raise ReaderTooSlow("reads too slowly") from None

    async def _until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join pieces to the size of one at least, because each that is sent costs a way to the event loop and back."""
    waiting, size = [], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _resolve(answered: "asyncio.Future[Answer | None]", answer: Answer | None, fault: BaseException | None) -> None:
    if answered.done():
        return  # cancelled: the client is gone
    if fault is not None:
        answered.set_exception(fault)
    else:
        answered.set_result(answer)


async def _send(send: Callable[..., Any], answer: Answer) -> None:
    status, headers, body = answer
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refusal(status: int, code: str, detail: str, **more: Any) -> Answer:
    refusal = problem.response(problem.body(status=status, code=code, detail=detail, **more))
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.items()]
    return status, [*headers, (b"connection", b"close")], refusal.content


def _busy() -> Answer:
    return _refusal(503, "busy", "The desk is busy. Try again in a moment.", retry="same_key", retry_after_ms=2000)


async def _body(receive: Callable[..., Any], largest: int) -> bytes | None:
    """Read the body up to one byte more than the route accepts, which shows that it is too large. None: client gone."""
    pieces, size = [], 0
    while size <= largest:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if not message.get("more_body"):
            break
    return b"".join(pieces)[: largest + 1]


_UNPREFIXED = {"CONTENT_TYPE", "CONTENT_LENGTH"}


def environ_of(scope: Scope, body: bytes) -> Environ:
    """Return the request's WSGI environment (PEP 3333), with RAW_PATH: the path as sent, which bots sign.

    Repeated headers are joined with a comma. A header with an underscore is left out, because in WSGI it
    equals the same name with a hyphen.
    """
    server, client = scope.get("server") or ("localhost", 0), scope.get("client") or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8").decode("latin-1"),
        "RAW_PATH": (scope.get("raw_path") or scope["path"].encode("utf-8")).decode("latin-1"),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        if b"_" in raw_name:
            continue
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        name = name if name in _UNPREFIXED else f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ
