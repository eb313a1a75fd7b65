"""PostgreSQL and Valkey for a machine that has neither: from wheels, as child processes, on Unix sockets only.

Nothing here needs Django. All data is in one folder, which one process serves at a time; the sockets are in a private
temporary folder, because their paths may have at most 103 bytes.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from config import child_processes
from config.child_processes import START_S, CannotServe, becomes_true
from config.postgres import Postgres
from config.valkey import Valkey

# These variables would lead a client to another server than its URL names.
_MISLEADING = ("PGHOSTADDR", "PGOPTIONS", "PGPORT", "PGSERVICE")


# --- the port and the sockets


def wanted_port() -> int:
    """Return the desk's port from the environment."""
    port = os.environ.get("PORT", "") or "8000"
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise CannotServe(f"PORT is {port!r}, which is not a port number. Set it to one such as 8001, or unset it.")
    return int(port)


def refuse_taken(number: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as fault:
            reason = "is taken" if fault.errno == errno.EADDRINUSE else f"cannot be used ({fault.strerror})"
            raise CannotServe(f"Port {number} {reason}. Use another: PORT=8001 python3 manage.py up") from None


def socket_folder(data: Path) -> Path:
    """Return a private folder with a short path, the same each time for the same data."""
    stem = hashlib.sha256(str(data).encode()).hexdigest()[:10]
    base = Path(tempfile.gettempdir())
    folder = (base if len(str(base)) < 55 else Path("/tmp")) / f"copydesk-{os.geteuid()}-{stem}"  # noqa: S108  # nosec B108
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise CannotServe(f"{folder} belongs to another user. Remove it, or set TMPDIR to another folder.")
    return folder


# --- both servers


@dataclass
class Servers:
    """The embedded servers of one folder."""

    folder: Path
    fast: bool = False
    as_owner: bool = False  # also set the URL of the login that owns the tables
    postgres: Postgres = field(init=False)
    valkey: Valkey = field(init=False)
    failures: int = 0
    retry_at: float = 0

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self.folder.stat().st_uid
        if owner != os.geteuid():
            raise CannotServe(
                f"{self.folder} belongs to {_name_of(owner)}. Run this as that user, or set COPYDESK_VAR."
            )
        sockets = socket_folder(self.folder)
        self.postgres = Postgres(self.folder / "pg", sockets, self.fast)
        self.valkey = Valkey(self.folder / "valkey", sockets, persist=not self.fast)

    def start(self) -> None:
        """Start the servers that the environment does not name, and set their URLs in it."""
        if not os.environ.get("DATABASE_URL"):
            _clear_misleading()
            self.postgres.start()
            os.environ.update(self.postgres.urls(owner=self.as_owner))
        if not os.environ.get("REDIS_URL"):
            self.valkey.start()
            os.environ["REDIS_URL"] = self.valkey.url

    def attach(self, sockets: Path) -> bool:
        """Use the servers that another process of this folder runs; return whether they answer."""
        self.postgres.sockets = self.valkey.sockets = sockets
        is_ours = not os.environ.get("DATABASE_URL")
        if is_ours:
            _clear_misleading()
            if not (self.postgres.answers() and self.postgres.has_logins):
                return False
        if not (os.environ.get("REDIS_URL") or self.valkey.answers()):
            return False
        if is_ours:
            os.environ.update(self.postgres.urls(owner=self.as_owner))
        os.environ["REDIS_URL"] = os.environ.get("REDIS_URL") or self.valkey.url
        return True

    def repair(self) -> list[str]:
        """Restart servers that have ended; return lines for the console. Failed starts are retried, ever later."""
        lines: list[str] = []
        for name, server in (("PostgreSQL", self.postgres), ("Valkey", self.valkey)):
            if server.process is not None and server.process.poll() is not None and time.monotonic() >= self.retry_at:
                lines.append(self._restart(name, server))
        return lines

    def _restart(self, name: str, server: Postgres | Valkey) -> str:
        try:
            server.launch()
        except CannotServe as fault:
            self.failures += 1
            wait_s = min(2**self.failures, 30)
            self.retry_at = time.monotonic() + wait_s
            return f"{name} ended and does not start; next attempt in {wait_s} s. {fault}"
        self.failures = 0
        return f"{name} ended and was restarted"

    def stop(self) -> None:
        self.postgres.stop()
        self.valkey.stop()

    def remove(self) -> None:
        """Stop the servers and delete their data: for tests."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.postgres.sockets, ignore_errors=True)


running: Servers | None = None  # the servers that this process runs; `up` supervises them


@contextlib.contextmanager
def serving(folder: Path, *, port: int | None = None, as_owner: bool = False) -> Iterator[None]:
    """Provide servers for a block: those of another process of this folder, or new ones that end with the block.

    Only `up` gives a `port`: the port must be free, and another `up` in the same folder is an error. The process that
    runs the servers (the keeper) holds the file `lock`, which says which command it is and where the sockets are. A
    process that only uses them (a guest) holds `guests`: a short command that is the keeper waits for its guests.
    """
    servers = Servers(folder, as_owner=as_owner)
    with (servers.folder / "lock").open("a+") as lock, (servers.folder / "guests").open("a") as guests:
        if not _becomes_keeper(servers, lock, guests, stays=port is not None):
            yield
            return
        with _keeping(servers, lock, port):
            try:
                yield
            finally:
                if port is None and not _locked(guests):
                    print("Waiting for other commands that use these servers", file=sys.stderr, flush=True)
                    fcntl.flock(guests, fcntl.LOCK_EX)


def _becomes_keeper(servers: Servers, lock: IO[str], guests: IO[str], *, stays: bool) -> bool:
    """Whether this process now holds the lock; else it uses the keeper's servers."""
    has_announced = False
    deadline = time.monotonic() + START_S
    while not becomes_true(lambda: _locked(lock), 0.3):  # is_up() holds the lock for less
        keeper, sockets = _keeper(lock)
        if stays and keeper == "up":
            raise CannotServe(f"The desk of {servers.folder} is already up. Stop it first, or use another folder.")
        if stays and not has_announced:
            print("Waiting for another command that runs the servers of this folder", flush=True)
            has_announced = True
        if not stays and sockets and _locked(guests, fcntl.LOCK_SH):
            if servers.attach(Path(sockets)):
                return False
            fcntl.flock(guests, fcntl.LOCK_UN)
        if not stays and (time.monotonic() > deadline or (keeper == "up" and not sockets)):
            raise CannotServe(
                f"The desk of {servers.folder} is up, but its servers do not answer. If it uses servers of its own, "
                "set their URLs here too. If an earlier version runs it, stop that first."
            )
    return True


@contextlib.contextmanager
def _keeping(servers: Servers, lock: IO[str], port: int | None) -> Iterator[None]:
    global running
    own = not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"))
    lock.truncate(0)
    lock.write(f"{'command' if port is None else 'up'} {servers.postgres.sockets if own else ''}")
    lock.flush()
    child_processes.end_leftovers(servers.folder)
    if port is not None:
        refuse_taken(port)
    running = servers
    try:
        began = time.monotonic()
        servers.start()
        if port is not None and own:
            print(f"PostgreSQL and Valkey started ({time.monotonic() - began:.1f} s)", flush=True)
        yield
    finally:
        servers.stop()
        running = None


def _keeper(lock: IO[str]) -> tuple[str, str]:
    lock.seek(0)
    kind, _, sockets = lock.read().partition(" ")
    return kind, sockets


def is_up(folder: Path) -> bool:
    """Whether a desk runs in this folder, on these or other servers."""
    path = folder / "lock"
    if not path.exists():
        return False
    with path.open() as lock:
        # Shared, so that two callers of this function do not take each other for a desk.
        return not _locked(lock, fcntl.LOCK_SH) and _keeper(lock)[0] == "up"


def _locked(file: IO[str], how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_misleading() -> None:
    for name in _MISLEADING:
        os.environ.pop(name, None)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


# --- secrets of a developer's machine


def development_secrets(folder: Path) -> dict[str, str]:
    """Return this folder's DJANGO_SECRET_KEY and COPYDESK_KEKS, generated the first time. Only for DEBUG."""
    path = folder / "secrets.json"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        generated = {"DJANGO_SECRET_KEY": secrets.token_urlsafe(50), "COPYDESK_KEKS": f"k1:{secrets.token_hex(32)}"}
        handle, name = tempfile.mkstemp(dir=folder)  # 0600
        with os.fdopen(handle, "w") as file:
            json.dump(generated, file)
        with contextlib.suppress(FileExistsError):
            os.link(name, path)  # of two processes at once the first one wins
        Path(name).unlink()
    stored: dict[str, str] = json.loads(path.read_text())
    return stored
