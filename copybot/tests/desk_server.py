"""The model of the desk on a real port: signed requests and the stream, for bots in processes of their own."""

import base64
import hashlib
import json
import struct
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from copybot import packets
from copybot.desk_model import COPIER, MASTER, STRATEGY, SUB_ID, DeskModel
from copybot.desk_model import SECRET as PACKET_SECRET
from copybot.errors import DeskError
from copybot.tests.hostile_desk import SECRET, Handler, HostileDesk, mac, problem, sha256

KEYS = {MASTER: "ck_000000000000000a.1", COPIER: "ck_000000000000000b.1", "readonly": "ck_000000000000000c.1"}
_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def clock_ms() -> Any:
    return time.time_ns() // 1_000_000


class DeskServer(HostileDesk):
    """`desk`: the model; hold `lock` to read it. `revoked`: keys that are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = Clerk
        self.desk = DeskModel(now=clock_ms, lease_ms=5_000)
        self.setup: dict[str, Any] = {}  # changes of what the desk says of the copier's account
        self.last, self.revoked, self.worth, self.handshakes = {}, set(), {}, 0

    def rows(self, account: Any) -> dict[Any, Any]:
        with self.lock:
            return {ticket: row for (owner, ticket), row in self.desk.state.rows.items() if owner == account}

    def closed(self, account: Any) -> dict[Any, Any]:
        with self.lock:
            return {ticket: how for (owner, ticket), how in self.desk.state.closed.items() if owner == account}


class Clerk(Handler):
    def judged_alone(self) -> Any:
        office, head, parts = self.server, self.headers, urlsplit(self.path)
        if parts.path == "/api/v2/time":
            return 200, json.dumps({"server_time": office.clock_ms()}).encode(), False
        key = head["X-Cd-Key"]
        right = mac(
            "CD1-HMAC-SHA256", self.command, head["Host"], parts.path, parts.query, key, head["X-Cd-Time"],
            head["X-Cd-Window"], head["X-Cd-Seq"], head.get("Idempotency-Key", "-"), sha256(self.body),
        )  # fmt: skip
        if head["X-Cd-Sig"] != right or key not in KEYS.values():
            return *problem(401, "signature_invalid"), False
        if key in office.revoked:
            return *problem(401, "key_revoked", "rotate"), True
        account = next(name for name, known in KEYS.items() if known == key)
        status, body = self.done(account, parts)
        return status, body, True

    def done(self, account: Any, parts: Any) -> Any:
        desk, fields = self.server.desk, json.loads(self.body) if self.body else dict(parse_qsl(parts.query))
        if parts.path == "/api/v2/account" and self.command == "GET":
            return 200, json.dumps(self.account(account)).encode()
        if self.command == "GET":
            return 200, json.dumps(desk.active(account)).encode()
        if account == "readonly" or (
            account == MASTER and parts.path.startswith(("/api/v2/copier/", "/api/v2/trades/orders"))
        ):
            return problem(403, "scope_denied")
        if self.command == "POST" and parts.path == "/api/v2/trades/active" and not fields:
            missing = ["ticket_id", *(("strategy",) if account == COPIER else ())]
            return problem(422, "invalid", fields={name: ["is missing"] for name in missing})
        seq = int(self.headers["X-Cd-Seq"])
        if seq <= self.server.last.get(account, 0):
            return problem(409, "seq_replayed", "new_seq", last_seq=str(self.server.last[account]))
        self.server.last[account] = seq
        if parts.path == "/api/v2/account":
            self.server.worth[account] = fields
            return 200, b'{"status":"noted"}'
        try:
            answer = desk.send(account, self.command, parts.path, fields, self.headers["Idempotency-Key"])
        except DeskError as no:
            return problem(no.status, no.code, no.retry)
        return 200, json.dumps(answer).encode()

    def account(self, account: Any) -> Any:
        """As GET /api/v2/account answers."""
        check = packets.secret_check(PACKET_SECRET, sub_id=SUB_ID, generation=1)
        subscription = {
            "strategy": STRATEGY,
            "sub_id": SUB_ID,
            "status": "ACTIVE",
            "generation": 1,
            "checks": {"1": check},
        }
        follows = account == COPIER
        return {
            "account": f"{'finn' if follows else 'lena'}-mt5", "currency": "USD", "copier": None, "symbols": [],
            "publishes": None if follows else STRATEGY, "subscriptions": [subscription] if follows else [],
            **(self.server.setup if follows else {}),
        }  # fmt: skip

    def answered(self) -> Any:
        if self.path == "/ws/v2/active":
            return self.stream()
        return super().answered()

    do_GET = do_POST = do_PATCH = do_DELETE = answered

    def stream(self) -> None:
        """Send deltas from now on, and a heartbeat, until the reader disconnects."""
        accept = hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + _WEBSOCKET).digest()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        self.close_connection = True
        with self.server.lock:
            self.server.handshakes += 1
            sent, first = len(self.server.desk.sent), self.server.desk.active(COPIER)
        self.say({"type": "snapshot", **first})
        try:
            while True:
                with self.server.lock:
                    news, as_of = self.server.desk.sent[sent:], self.server.desk.active(COPIER)["as_of"]
                sent += len(news)
                for message in [*news, {"type": "heartbeat", "as_of": as_of}]:
                    self.say(message)
                time.sleep(0.05)
        except OSError:
            return

    def say(self, message: Any) -> None:
        text = json.dumps(message).encode()
        length = bytes([len(text)]) if len(text) < 126 else b"\x7e" + struct.pack(">H", len(text))
        self.wfile.write(b"\x81" + length + text)


__all__ = ["COPIER", "KEYS", "MASTER", "SECRET", "DeskServer"]
