"""A hostile desk on loopback: it executes and hangs up, answers 500, forges, repeats old answers, stalls.

It counts the effects that it executes. Each request uses the next trick of `tricks`; without tricks it is honest.
"""

import hashlib
import hmac
import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

KEY, SECRET = "ck_0123456789abcdef.1", "0123456789abcdef" * 4


def mac(*lines: Any) -> str:
    return "v1=" + hmac.new(SECRET.encode(), "\n".join(lines).encode(), hashlib.sha256).hexdigest()


def sha256(body: Any) -> Any:
    return hashlib.sha256(body).hexdigest()


class HostileDesk(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.tricks = deque()
        self.requests, self.effects, self.answers = [], [], {}
        self.refuses: Any = None  # a signed refusal of every request
        self.signs_etags = True
        self.last_seq, self.clock_ahead_ms, self.old, self.lock = 0, 0, None, threading.Lock()

    def clock_ms(self) -> Any:
        return time.time_ns() // 1_000_000 + self.clock_ahead_ms

    def __enter__(self) -> Any:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log broken pipes, which the tests cause on purpose."""


def problem(status: int, code: str, retry: str = "never", **more: Any) -> tuple[int, bytes]:
    return status, json.dumps({"status": status, "code": code, "retry": retry, "detail": "", **more}).encode()


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answered(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append(SimpleNamespace(headers=self.headers, path=self.path))
            trick = self.server.tricks.popleft() if self.server.tricks else "honest"
        getattr(self, f"play_{trick}")()

    do_GET = do_POST = do_PATCH = do_DELETE = answered

    # --- what a desk does

    def judged(self) -> Any:
        """Status, body and whether the answer is signed, in the protocol's order of checks."""
        with self.server.lock:
            return self.judged_alone()

    def judged_alone(self) -> Any:
        desk, head = self.server, self.headers
        parts = urlsplit(self.path)
        if parts.path == "/api/v2/time":
            return 200, b'{"server_time":1.5}', False
        right = mac(
            "CD1-HMAC-SHA256", self.command, head["Host"], parts.path, parts.query, head["X-Cd-Key"],
            head["X-Cd-Time"], head["X-Cd-Window"], head["X-Cd-Seq"], head.get("Idempotency-Key", "-"),
            sha256(self.body),
        )  # fmt: skip
        if abs(desk.clock_ms() - int(head["X-Cd-Time"])) > int(head["X-Cd-Window"]):
            is_signed = head["X-Cd-Sig"] == right
            return *problem(401, "clock_outside_window", "same_key", server_time=desk.clock_ms()), is_signed
        if head["X-Cd-Sig"] != right:
            return *problem(401, "signature_invalid"), False
        seq = int(head["X-Cd-Seq"])
        if seq <= desk.last_seq:
            return *problem(409, "seq_replayed", "new_seq", last_seq=str(desk.last_seq)), True
        desk.last_seq = seq
        if desk.refuses is not None:
            return *desk.refuses, True
        return *self.executed(), True

    def executed(self) -> Any:
        desk = self.server
        if self.command == "GET":
            if self.headers.get("If-None-Match") == '"e1"':
                return 304, b""
            return 200, b'{"trades":[],"count":0,"rate":1.10}'
        key = self.headers["Idempotency-Key"]
        if key not in desk.answers:
            desk.effects.append((self.command, self.path, self.body))
            desk.answers[key] = (201, json.dumps({"number": len(desk.effects)}).encode())
        return desk.answers[key]

    def signed(self, status: Any, body: Any, etag: str = '"e1"') -> dict[str, Any]:
        time_ms = str(self.server.clock_ms())
        signed = (self.headers["X-Cd-Sig"].removeprefix("v1="), str(status), time_ms, sha256(body))
        headers = {"X-Cd-Response-Time": time_ms, "X-Cd-Response-Sig": mac("CD1-RESPONSE", *signed)}
        if self.server.signs_etags:
            headers["X-Cd-Response-Etag-Sig"] = mac("CD1-RESPONSE-ETAG", *signed, etag)
        return headers

    def write(self, status: Any, body: Any, headers: Any = None, kind: str = "application/json") -> None:
        self.send_response(status)
        kind = "application/problem+json" if status >= 400 and kind == "application/json" else kind
        for name, value in {"Content-Type": kind, "ETag": '"e1"', **(headers or {})}.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # --- tricks

    def play_honest(self) -> None:
        status, body, may_sign = self.judged()
        headers = self.signed(status, body) if may_sign else {}
        self.server.old = (status, body, headers)
        self.write(status, body, headers)

    def play_hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def play_execute_and_hang_up(self) -> None:
        self.judged()
        self.play_hang_up()

    def play_half_an_answer(self) -> None:
        status, body, _ = self.judged()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 10))
        self.end_headers()
        self.wfile.write(body)
        self.play_hang_up()

    def play_500(self) -> None:
        self.write(*problem(500, "internal", "same_key"))

    def play_execute_and_500(self) -> None:
        self.judged()
        self.play_500()

    def play_execute_and_502_of_a_proxy(self) -> None:
        self.judged()
        self.write(502, b"<html>Bad gateway</html>", kind="text/html")

    def play_forge(self) -> None:
        status, body, _ = self.judged()
        self.write(status, body.replace(b"1", b"2"), self.signed(status, body))

    def play_forged_500(self) -> None:
        self.judged()
        self.write(*problem(500, "internal"), {"X-Cd-Response-Time": "1", "X-Cd-Response-Sig": "v1=" + "0" * 64})

    def play_leave_out_the_signature(self) -> None:
        status, body, _ = self.judged()
        self.write(status, body)

    def play_answer_with_an_old_answer(self) -> None:
        self.judged()
        self.write(*self.server.old)

    def play_say_it_is_closed(self) -> None:
        """An answer by a man in the middle, who cannot sign."""
        self.judged()
        self.write(*problem(409, "trade_closed"))

    def play_say_it_is_unchanged(self) -> None:
        """A man in the middle made the request conditional: the desk signs its own 304 to it."""
        self.write(304, b"", self.signed(304, b""))

    def play_replace_the_etag(self) -> None:
        """A man in the middle gives the answer the ETag of a later state, so that the next read finds nothing new."""
        status, body, _ = self.judged()
        self.write(status, body, {**self.signed(status, body), "ETag": '"e2"'})

    def play_ask_about_another_etag(self) -> None:
        """A man in the middle asked about the ETag that is current: the desk signs that nothing has changed since."""
        self.write(304, b"", {**self.signed(304, b"", '"e2"'), "ETag": '"e2"'})

    def play_say_unchanged_without_the_second_signature(self) -> None:
        headers = self.signed(304, b"")
        del headers["X-Cd-Response-Etag-Sig"]
        self.write(304, b"", headers)

    def play_execute_and_refuse_the_key(self) -> None:
        """A man in the middle replaces the answer by a refusal that the desk would not sign either."""
        self.judged()
        self.write(*problem(401, "signature_invalid"))

    def play_execute_and_say_it_is_malformed(self) -> None:
        self.judged()
        self.write(*problem(400, "request_malformed"))

    def play_execute_and_say_it_is_forbidden(self) -> None:
        self.judged()
        self.write(*problem(403, "https_required"))

    def play_lie_about_the_clock(self) -> None:
        self.write(*problem(401, "clock_outside_window", "same_key", server_time=1_000_000_000_000))

    def play_busy(self) -> None:
        status, body = problem(409, "busy", "same_key", retry_after_ms=700)
        self.write(status, body, self.signed(status, body))

    def play_ask_to_wait(self) -> None:
        self.write(*problem(429, "rate_limited", "after"), {"Retry-After": "7"})

    def play_ask_to_wait_as_a_proxy(self) -> None:
        self.write(429, b"slow down", {"Retry-After": "7"}, kind="text/plain")

    def play_ask_to_wait_for_an_hour(self) -> None:
        self.write(*problem(429, "rate_limited", "after", retry_after_ms=3_600_000))

    def play_drip(self) -> None:
        """Send a genuine answer byte by byte, so that no single wait is long."""
        status, body, _ = self.judged()
        body = b" " * 60 + body
        self.send_response(status)
        for name, value in {**self.signed(status, body), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()
            time.sleep(0.02)
