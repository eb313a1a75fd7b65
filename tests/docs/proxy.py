"""A proxy between a client and the desk that can drop or change responses."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOST = None


@dataclass(frozen=True)
class Refusal:
    """An answer of the proxy's own in place of the desk's."""

    status: int
    code: str

    @property
    def body(self) -> bytes:
        return json.dumps({"status": self.status, "code": self.code, "retry": "never", "detail": ""}).encode()


Changes = Callable[[bytes], bytes | Refusal | None]


class Proxy(ThreadingHTTPServer):
    """Forwards requests. `answers`: functions that change the bodies of the next responses, one each; then none.

    `asks` and `says`: headers that the proxy sets in each request and in each response.
    """

    daemon_threads = True

    def __init__(self, to_port: int, answers: list[Changes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.to_port, self.answers = to_port, answers
        self.asks: dict[str, str] = {}
        self.says: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        headers = dict(self.headers.items())
        self.server.seen.append((self.command, {name.lower(): value for name, value in headers.items()}))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        desk = HTTPConnection("127.0.0.1", self.server.to_port, timeout=10)
        desk.request(self.command, self.path, body or None, headers | self.server.asks)
        answer = desk.getresponse()
        text = answer.read()
        desk.close()
        change = self.server.answers.pop(0) if self.server.answers else bytes
        changed = change(text)
        if changed is LOST:
            self.close_connection = True
            return
        if isinstance(changed, Refusal):
            self._write(changed.status, {"Content-Type": "application/problem+json"}, changed.body)
        else:
            given = {name.lower(): value for name, value in answer.getheaders()}
            self._write(answer.status, given | self.server.says, changed)

    def _write(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PATCH = do_DELETE = do_GET


def lose(_: bytes) -> None:
    return LOST


@contextmanager
def between(to_port: int, *answers: Changes) -> Iterator[Proxy]:
    proxy = Proxy(to_port, list(answers))
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
