"""The embedded servers as child processes: which user they run as, how they end, what a killed desk left running.

Nothing here needs Django. Signals go only to processes that are proven to be the desk's: a process id alone may belong
to another process by now.
"""

import contextlib
import ctypes
import functools
import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

START_S = 60
LOG_BYTES = 10_000_000
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class CannotServe(SystemExit):
    """The servers cannot be started. The message says why and what to do."""


def wheel_files(package: str, *patterns: str) -> list[Path]:
    """Return the installed package's files of these patterns, without an import; none where it is not installed."""
    spec = find_spec(package)
    home = next(iter(spec.submodule_search_locations or []), None) if spec else None
    return [path for pattern in patterns for path in sorted(Path(home).glob(pattern))] if home else []


def dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return a preexec_fn: the child gets this signal when its parent ends for whatever reason (Linux)."""
    parent = os.getpid()

    def prepare() -> None:
        if LIBC is not None:
            LIBC.prctl(1, number)  # PR_SET_PDEATHSIG
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
    if getattr(LIBC, call)(*args):
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
    for way in ways if LIBC is not None else []:
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
    """Send the signal and wait for the end; kill what still runs after that time."""
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
        if becomes_true(lambda: not left(), 4):
            break
    path.unlink(missing_ok=True)


def becomes_true(condition: Callable[[], object], patience_s: float) -> bool:
    """Whether the condition holds within that time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


def command_words(pid: int) -> list[str]:
    """Return the words of the process's command line; none where it has ended."""
    if not Path("/proc/self/cmdline").exists():
        return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout.split()
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def wait_for(answers: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path, name: str) -> None:
    """Return once the server answers. Raises CannotServe with the log's end if it ends before, or after START_S."""
    deadline = time.monotonic() + START_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            log_end = log.read_text(errors="replace")[-600:]
            raise CannotServe(f"{name} did not start. Its log ({log}) ends with:\n{log_end}")
        time.sleep(0.02)


def rotated(log: Path) -> Path:
    """Return the log's path, after renaming a file that has become long."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    return log
