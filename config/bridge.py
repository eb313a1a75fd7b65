"""HTTP from the ASGI server to Django's WSGI application, in threads that last as long as the process.

The event loop reads the request and writes the answer; in between lies one hop to a thread, whose database connections
stay open from request to request.
"""

import asyncio
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Scope = dict[str, Any]
Environ = dict[str, Any]

MAX_BODY = 4 * 1024 * 1024  # what any route may take; each has its own, smaller limit
SEND_S = 60  # how long a reader of a streamed answer may take for one piece of it

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class WsgiThreads:
    """An ASGI application that runs a WSGI one."""

    def __init__(self, wsgi: Callable[..., Any], threads: int) -> None:
        self.wsgi = wsgi
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="http")

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        body = await _body(receive)
        if body is None:
            await _send(send, (413, [(b"content-type", b"text/plain")], b"The body is too large.\n"))
            return
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self.pool, self._run, environ_of(scope, body), loop, send)
        if answer is not None:
            await _send(send, answer)

    def _run(self, environ: Environ, loop: asyncio.AbstractEventLoop, send: Callable[..., Any]) -> Answer | None:
        """In a thread: the whole answer, or None where it was streamed from here."""
        began: list[tuple[int, list[tuple[bytes, bytes]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            began.append((int(status[:3]), encoded))

        response = self.wsgi(environ, start_response)
        try:
            if not getattr(response, "streaming", False):
                return *began[-1], b"".join(response)
            self._stream(response, began[-1], loop, send)
            return None
        finally:
            response.close()

    @staticmethod
    def _stream(response: Any, begun: Any, loop: asyncio.AbstractEventLoop, send: Callable[..., Any]) -> None:
        """Piece by piece, from this thread, where the answer's database cursor lives."""

        def wait_for(message: dict[str, Any]) -> None:
            asyncio.run_coroutine_threadsafe(send(message), loop).result(SEND_S)

        wait_for({"type": "http.response.start", "status": begun[0], "headers": begun[1]})
        for piece in response:
            wait_for({"type": "http.response.body", "body": piece, "more_body": True})
        wait_for({"type": "http.response.body", "body": b""})


async def _send(send: Callable[..., Any], answer: Answer) -> None:
    status, headers, body = answer
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Callable[..., Any]) -> bytes | None:
    """The request's body; None where it is larger than any route takes."""
    pieces, size = [], 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(pieces)


def environ_of(scope: Scope, body: bytes) -> Environ:
    """The request as PEP 3333 has it, and RAW_PATH: the path as it was sent, which is what bots sign.

    A header that stands twice is joined with a comma. One with an underscore is left out: it could pass for another.
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
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        if b"_" in raw_name or raw_name == b"content-length":
            continue
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        name = name if name == "CONTENT_TYPE" else f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ
