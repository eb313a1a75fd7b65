"""Bodies larger than those of bots: only where files are uploaded, and few at a time."""

import asyncio
from typing import Any

from django.http import HttpResponse

from accounts.signed_http import MAX_BATCH_BODY
from config.bridge import MOST_UPLOADS, WsgiThreads

UPLOAD, LARGEST = "/upload/", 8 * MAX_BATCH_BODY


async def post(threads: WsgiThreads, path: str, size: int, sends: asyncio.Event | None = None) -> tuple[int, int]:
    """The status, and the length of the body that the application saw. The client sends its body after `sends`."""
    status = seen = 0

    async def receive() -> dict[str, Any]:
        if sends is not None:
            await sends.wait()
        return {"type": "http.request", "body": b"x" * size}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, seen
        if message["type"] == "http.response.start":
            status = message["status"]
            seen = int(dict(message["headers"]).get(b"x-seen", b"0"))

    await threads({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    return status, seen


def measure(environ: dict[str, Any], start_response: Any) -> HttpResponse:
    start_response("200 OK", [("X-Seen", str(len(environ["wsgi.input"].read())))])
    return HttpResponse()


def bridge() -> WsgiThreads:
    return WsgiThreads(measure, bots=1, people=1, exports=1, bots_paths=(), uploads={UPLOAD: LARGEST})


def test_only_an_upload_may_be_larger_than_a_batch_of_bots() -> None:
    async def run() -> list[tuple[int, int]]:
        threads = bridge()
        return [await post(threads, path, 5 * MAX_BATCH_BODY) for path in (UPLOAD, "/elsewhere/")]

    assert asyncio.run(run()) == [(200, 5 * MAX_BATCH_BODY), (200, MAX_BATCH_BODY + 1)]


def test_an_upload_is_cut_one_byte_past_its_bound() -> None:
    async def run() -> tuple[int, int]:
        return await post(bridge(), UPLOAD, 9 * MAX_BATCH_BODY)

    assert asyncio.run(run()) == (200, LARGEST + 1)


def test_slow_uploads_are_few_and_hold_up_no_page() -> None:
    async def run() -> tuple[tuple[int, int], tuple[int, int], list[tuple[int, int]]]:
        threads, sends = bridge(), asyncio.Event()
        slow = [asyncio.create_task(post(threads, UPLOAD, 10, sends)) for _ in range(MOST_UPLOADS)]
        await asyncio.sleep(0)
        refused, page = await post(threads, UPLOAD, 10), await post(threads, "/page/", 10)
        sends.set()
        return refused, page, await asyncio.gather(*slow)

    refused, page, slow = asyncio.run(run())

    assert (refused[0], page, slow) == (503, (200, 10), [(200, 10)] * MOST_UPLOADS)
