"""One port for everything: sockets go to Channels, HTTP goes to Django's WSGI application in threads.

Django's own ASGI handler would give each request a new thread, and so a new database connection: measured, that
costs two to four times the throughput.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from a2wsgi import WSGIMiddleware
from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.http import HttpResponse

from accounts.authentication import MAX_BATCH_BODY
from config.wsgi import application as wsgi
from core import problem
from trades.consumers import websocket_application

BODY_S = 15  # a body takes so long at most; before a proxy that waits for it, it is there at once

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Door:
    """Before the threads: a header or query that WSGI would read in another way, and bodies that come slowly or not
    at all. A thread is asked only once a request is here whole, so nobody holds one by sending nothing.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if not scope["query_string"].isascii():
            await _answer(send, 400, "request_malformed", "The query has characters that are no ASCII.")
            return
        # WSGI cannot tell X_Forwarded_For from X-Forwarded-For: what a proxy says must not be said by its client.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if b"_" not in name]
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
            try:
                async with asyncio.timeout(BODY_S):
                    body = await _body(receive)
            except TimeoutError:
                await _answer(send, 408, "request_timeout", "The body did not come in time.")
                return
            if body is None:
                return
            receive = _once(body, receive)
        await self.app(scope, receive, send)


async def _body(receive: Receive) -> bytes | None:
    """The body as far as any route takes one, and a byte more, by which it is seen to be too large. None: gone."""
    body = bytearray()
    while len(body) <= MAX_BATCH_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body[: MAX_BATCH_BODY + 1])


def _once(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return received


async def _answer(send: Send, status: int, code: str, detail: str) -> None:
    answer: HttpResponse = problem.response(problem.body(status=status, code=code, detail=detail))
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": answer.content})


application = ProtocolTypeRouter(
    {"http": Door(WSGIMiddleware(wsgi, workers=settings.WEB_THREADS)), "websocket": websocket_application}
)
