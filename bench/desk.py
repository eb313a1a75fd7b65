"""A separate desk for measurements: durable servers, a migrated database, bots, web processes, and the peer.

Everything lies in bench/build and ends with the run. Nothing but loopback and Unix sockets is used.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from config import child_processes, embedded, logins, web_server
from config.postgres import postgres_bin

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"
START_S = 60


@dataclass(frozen=True)
class Desk:
    """What the parts of a run share. The ids of key generations and accounts are consecutive."""

    folder: Path
    first_generation: int
    first_account: int

    @property
    def masters(self) -> Path:
        return self.folder / "masters"


@contextlib.contextmanager
def serving() -> Iterator[Desk]:
    """Start durable servers and a migrated desk with the data of the benchmarks; remove them at the end."""
    folder = BUILD / f"desk-{os.getpid()}"
    for name in (*logins.VARIABLES, "REDIS_URL"):
        os.environ.pop(name, None)
    os.environ |= {
        "COPYDESK_NO_VENV": "1",  # a measurement installs nothing
        "COPYDESK_KEKS": f"k1:{secrets.token_hex(32)}",
        "COPYDESK_VAR": str(folder / "var"),
        "DEBUG": "1",
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    servers = embedded.Servers(folder, as_owner=True)
    try:
        servers.start()
        yield _prepare(folder)
    finally:
        servers.remove()


def _prepare(folder: Path) -> Desk:
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "bench.demo_data", folder], cwd=ROOT, check=True)
    keys = [line.split() for line in (folder / "masters").read_text().splitlines()]
    with connect() as connection:
        connection.execute((HERE / "twin" / "schema.sql").read_text())
        rows = [_row(connection, key) for key, _ in keys]
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into twin.accounts (id, key, secret) values (%s, %s, %s)",
                [(account, *key) for (_, account), key in zip(rows, keys, strict=True)],
            )
    generation, account = rows[0]
    assert rows == [(generation + n, account + n) for n in range(len(rows))], "pgbench needs consecutive ids"
    return Desk(folder, generation, account)


def connect() -> psycopg.Connection:
    """Return a connection as the tables' owner, in autocommit mode."""
    return psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True)


def _row(connection: psycopg.Connection, key: str) -> tuple[int, int]:
    query = "select generation_id, account_id from bot_key_lookup(%s, 1)"
    row = connection.execute(query, [key.partition(".")[0]]).fetchone()
    assert row is not None
    return row[0], row[1]


# --- processes


@dataclass
class Web:
    """Server processes of one application, each on its own port, as behind a proxy."""

    ports: list[int]
    processes: list["subprocess.Popen[bytes]"]

    def stop(self) -> None:
        for process in self.processes:
            child_processes.stop(process, signal.SIGTERM, 10)


def web(desk: Desk, processes: int = 1, **environ: str) -> Web:
    return _uvicorn(desk, "config.asgi:application", processes, environ)


def twin(desk: Desk, processes: int = 1) -> Web:
    return _uvicorn(desk, "bench.twin.app:app", processes, {"TWIN_URL": os.environ["DATABASE_OWNER_URL"]})


def _uvicorn(desk: Desk, application: str, processes: int, environ: dict[str, str]) -> Web:
    """Start server processes with the options of `manage.py up`."""
    started = Web([], [])
    for _ in range(processes):
        port = free_port()
        log = desk.folder / f"{application.partition(':')[0]}-{port}.log"
        started.processes.append(spawn(web_server.command(application, port), log=log, environ=environ))
        started.ports.append(port)
        _wait_for(port, started.processes[-1], log)
    return started


def spawn(
    command: Sequence[object], *, log: Path, environ: dict[str, str] | None = None, talks: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a process that ends with this one. `talks`: connect its stdin and stdout by pipes."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env={**os.environ, **(environ or {})},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else out, stderr=out,
            preexec_fn=child_processes.dying_with_parent(signal.SIGTERM),
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not web_server.answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"A server did not start. Its log ends with:\n{log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.05)


# --- programs


def native(name: str) -> Path:
    """The path of the C program, compiled again if a source is newer."""
    program = BUILD / name
    if not program.exists() or program.stat().st_mtime < max(
        path.stat().st_mtime for path in (HERE / "native").iterdir()
    ):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("The load generators are C programs: install a C compiler (gcc or clang).")
        BUILD.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-o", program, HERE / "native" / f"{name}.c"], check=True)
    return program


def pgbench() -> Path:
    """The pgbench of the measured server, or the system's."""
    beside = postgres_bin() / "pgbench"
    path = beside if beside.exists() else shutil.which("pgbench")
    if path is None:
        raise SystemExit("The floors need pgbench: install it (Debian: postgresql-contrib).")
    return Path(path)
