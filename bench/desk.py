"""A desk of its own to measure: durable servers, a migrated database, sixteen bots, web processes and the twin's.

Everything lives in bench/build and ends with the run. Nothing but loopback and Unix sockets is used.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psycopg

from config import embedded

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"
BOTS = 16
START_S = 60


@dataclass(frozen=True)
class Desk:
    """What the parts of a run need to know."""

    sockets: Path
    keys: Path
    first_generation: int
    first_account: int
    logs: Path

    def environ(self, **more: str) -> dict[str, str]:
        return {**os.environ, **more}

    def run_sql(self, text: str) -> None:
        with psycopg.connect(host=str(self.sockets), user="copydesk", dbname="copydesk", autocommit=True) as connection:
            connection.execute(text)


@contextlib.contextmanager
def serving() -> Iterator[Desk]:
    """A migrated desk on durable servers of its own, with the cast of the bench in it."""
    folder = BUILD / f"desk-{os.getpid()}"
    for name in ("DATABASE_URL", "REDIS_URL", "DATABASE_OWNER_URL"):
        os.environ.pop(name, None)
    os.environ |= {
        "COPYDESK_NO_VENV": "1",  # whoever measures installs nothing
        "DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
        "COPYDESK_KEKS": f"k1:{secrets.token_hex(32)}",
        "COPYDESK_VAR": str(folder / "var"),
    }
    servers = embedded.Servers(folder)
    try:
        servers.start()
        yield _furnish(folder, servers.postgres.sockets)
    finally:
        servers.remove()


def _furnish(folder: Path, sockets: Path) -> Desk:
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, check=True)
    keys = folder / "keys"
    subprocess.run([sys.executable, "-m", "bench.cast", keys], cwd=ROOT, check=True)
    with psycopg.connect(host=str(sockets), user="copydesk", dbname="copydesk", autocommit=True) as connection:
        connection.execute((HERE / "twin" / "schema.sql").read_text())
        rows = [line.split() for line in keys.read_text().splitlines()]
        found = [_key_row(connection, key) for key, _ in rows[:BOTS]]
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into twin.accounts (id, key, secret) values (%s, %s, %s)",
                [(account, key, secret) for (_, account), (key, secret) in zip(found, rows, strict=False)],
            )
        connection.execute("vacuum analyze")
    (generation, account), *_ = found
    assert found == [(generation + i, account + i) for i in range(BOTS)], "pgbench counts on rows numbered one by one"
    logs = folder / "log"
    logs.mkdir()
    return Desk(sockets, keys, generation, account, logs)


def _key_row(connection: psycopg.Connection, key: str) -> tuple[int, int]:
    row = connection.execute(
        "select generation_id, account_id from bot_key_lookup(%s, 1)", [key.partition(".")[0]]
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server process, or several that share its port."""

    port: int
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        embedded.stop(self.process, embedded.signal.SIGTERM, 10)

    def pids(self) -> list[int]:
        """Its own and its workers'."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *(map(int, children.read_text().split()) if children.exists() else [])]


def _uvicorn(desk: Desk, application: str, name: str, processes: int, **environ: str) -> Server:
    """As `manage.py up` starts it, with as many processes as asked."""
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", str(port), "--no-proxy-headers",
        "--no-access-log", "--log-level", "warning", "--ws", "websockets-sansio", "--ws-max-size", "65536",
        "--timeout-graceful-shutdown", "3", "--workers", str(processes), "--backlog", "4096",
    ]  # fmt: skip
    with (desk.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=desk.environ(**environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=embedded.dying_with_parent(embedded.signal.SIGTERM),
        )  # fmt: skip
    server = Server(port, process)
    wait_for(server, desk.logs / f"{name}.log")
    return server


def web(desk: Desk, processes: int, name: str = "", **environ: str) -> Server:
    return _uvicorn(desk, "config.asgi:application", name or f"web-{processes}", processes, **environ)


def twin(desk: Desk, processes: int) -> Server:
    return _uvicorn(desk, "bench.twin.app:app", f"twin-{processes}", processes, TWIN_HOST=str(desk.sockets))


def wait_for(server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(server.port):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"A server did not start. Its log ends with:\n{log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def native(name: str) -> Path:
    """The C program of that name, compiled where its source is newer."""
    source, made = HERE / "native" / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime for path in (HERE / "native").iterdir())
    if not made.exists() or made.stat().st_mtime < newest:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("The load generators are C programs: install a C compiler (gcc or clang).")
        BUILD.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-o", made, source, "-lm"], check=True)
    return made


def pgbench() -> Path:
    """Beside the server that is measured, or the system's."""
    beside = embedded.postgres_bin() / "pgbench"
    found = beside if beside.exists() else shutil.which("pgbench")
    if found is None:
        raise SystemExit("The floors are pgbench's: install it (Debian: postgresql-contrib or postgresql).")
    return Path(found)
