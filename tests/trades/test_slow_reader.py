"""A client that never reads costs bounded memory and does not delay others."""

import socket
import time
from pathlib import Path
from typing import Any

from tests.conftest import Serving
from tests.signed import opening
from tests.sockets import PATH, watch_as_bot

DELTAS = 6000  # about 4 MiB of them, many times what the log keeps


def deaf_socket(web: Serving, bot: Any) -> Any:
    """Open a raw socket with a small receive window, complete the handshake, and never read again."""
    lines = [f"{name}: {value}" for name, value in bot.headers("GET", PATH).items()]
    request = [
        f"GET {PATH} HTTP/1.1", f"Host: 127.0.0.1:{web.port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *lines,
    ]  # fmt: skip
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", web.port))
    deaf.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
    assert deaf.recv(12) == b"HTTP/1.1 101"
    return deaf


def resident_kib(pid: Any) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def modifications(count: Any) -> list[Any]:
    """A batch that moves a stop `count` times."""
    return [
        {
            "action": "modify",
            "idempotency_key": f"modify-{time.monotonic_ns()}-{number:06d}",
            "ticket_id": "1",
            "sl": f"1.0{1001 + number % 1000}000",  # below the take profit, and different from the one before
        }
        for number in range(count)
    ]


def test_a_socket_that_never_reads_delays_nobody_and_uses_little_memory(web: Serving) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    deaf = [deaf_socket(web, web.bot("finn", "copier", seq=time.time_ns() // 1000 + n)) for n in range(1, 5)]
    try:
        with watch_as_bot(web.bot("finn", "copier"), max_queue=None) as finn:
            first = int(finn.next()["as_of"]["lena-eurusd"])
            before = resident_kib(web.process.pid)
            seen = first
            for _ in range(DELTAS // 300):
                lena.send("POST", "/api/v2/trades/active/batch", {"operations": modifications(300)})
                for _ in range(300):
                    message = finn.next()
                    assert message["type"] == "trade.modified"
                    seen += 1
                    assert int(message["seq"]) == seen
            grown = resident_kib(web.process.pid) - before
    finally:
        for connection in deaf:
            connection.close()

    assert seen == first + DELTAS
    assert grown < 24 * 1024, f"{grown} KiB more, with four deaf sockets and {DELTAS} deltas"
