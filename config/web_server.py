"""The web server's process: its command line, and whether it answers. `up` and the benchmarks start the same one."""

import sys
from http.client import HTTPConnection, HTTPException

# The same everywhere: ops/systemd, `up`, the tests and the benchmarks.
OPTIONS = (
    "--http", "config.http_connections:Connection", "--ws", "websockets-sansio", "--ws-max-size", "65536",
    "--no-proxy-headers", "--no-access-log", "--no-server-header", "--log-level", "warning",
)  # fmt: skip


def command(application: str, port: int, *options: str) -> list[str]:
    """Return the command line of uvicorn for an ASGI application on a loopback port."""
    return [
        sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", str(port), *OPTIONS,
        "--timeout-graceful-shutdown", "3", *options,
    ]  # fmt: skip


def answers(port: int) -> bool:
    """Whether the server on this loopback port says that it is alive."""
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
