"""`manage.py up`: the whole desk on this machine, seen to until it is told to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import demo_data, embedded

READY_S = 90
STOP_S = 8
SLOWEST_RESTART_S = 30


@dataclass
class Child:
    """One process of the desk, started again when it ends, each time a little later."""

    name: str
    command: Sequence[str]
    environ: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0
    failures: int = 0

    def start(self) -> None:
        with embedded.rotated(log_path(self.name)).open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=settings.BASE_DIR, env={**os.environ, **self.environ}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=embedded.dying_with_parent(signal.SIGTERM),
            )  # fmt: skip
        embedded.remember(settings.VAR_DIR, self.process.pid)
        self.started_at = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """What it may have left of its group ends then too: it would hold the port, or do work twice."""
        if self.process is None:
            return True
        if self.process.poll() is None:
            return False
        self.signal(signal.SIGKILL)
        self.process = None  # its number is anybody's from now on
        return True

    def restart_when_due(self) -> bool:
        """Start it again once it has been down long enough; whether it was."""
        if time.monotonic() - self.started_at > 2 * SLOWEST_RESTART_S:
            self.failures = 0
        if time.monotonic() - self.started_at < min(2**self.failures, SLOWEST_RESTART_S):
            return False
        self.failures += 1
        self.start()
        return True

    def signal(self, how: signal.Signals) -> None:
        """To the whole group: workers have children of their own."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)


def log_path(name: str) -> Path:
    folder = settings.VAR_DIR / "log"
    folder.mkdir(parents=True, exist_ok=True)
    path: Path = folder / f"{name}.log"
    return path


class StopRequested(Exception):
    """Somebody asked for the end."""


class Command(BaseCommand):
    help = "Run the whole desk on this machine: web, push, worker, beat, and a demo."
    requires_system_checks = []  # they run below, with the database

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="no demo: an empty desk")

    def handle(self, *args: Any, **options: Any) -> None:
        port = embedded.wanted_port()
        for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(asked) is not signal.SIG_IGN:  # nohup
                signal.signal(asked, self._request_stop)
        children = processes(port, demo=not options["no_demo"])
        try:
            self._start(children, port)
            self._see_to(children)
        except StopRequested:
            self.stdout.write("\nStopping")
        finally:
            for asked in (signal.SIGTERM, signal.SIGINT):
                signal.signal(asked, signal.default_int_handler)  # once more ends at once
            end(children)

    @staticmethod
    def _request_stop(number: int, frame: FrameType | None) -> None:
        raise StopRequested

    def _start(self, children: list[Child], port: int) -> None:
        self._step("Migrated", lambda: call_command("migrate", verbosity=0))
        self.check(databases=["default"])
        for child in children:
            child.start()
        self._step("Web, worker and beat started", lambda: wait_for_web(children[0], port))
        self.stdout.write(f"Copydesk is up: http://127.0.0.1:{port}   (Ctrl-C stops it; logs: {settings.VAR_DIR}/log)")
        self.stdout.flush()

    def _step(self, says: str, do: Any) -> None:
        began = time.monotonic()
        do()
        self.stdout.write(f"{says} ({time.monotonic() - began:.1f} s)")
        self.stdout.flush()

    def _see_to(self, children: list[Child]) -> None:
        while True:
            time.sleep(0.25)
            for line in embedded.running.repair() if embedded.running else []:
                self._say(line)
            for child in children:
                if child.has_ended and child.restart_when_due():
                    self._say(f"{child.name} had ended: started again (see {log_path(child.name)})")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def processes(port: int, *, demo: bool) -> list[Child]:
    """The desk's processes, the web first."""
    python = sys.executable
    schedule = settings.VAR_DIR / "beat"
    schedule.mkdir(parents=True, exist_ok=True)
    web = [
        python, "-m", "uvicorn", "config.asgi:application", "--host", "127.0.0.1", "--port", str(port),
        "--no-proxy-headers", "--no-access-log", "--log-level", "warning", "--ws", "websockets-sansio",
        "--ws-max-size", "65536", "--timeout-graceful-shutdown", "3",
        "--workers", os.environ.get("WEB_PROCESSES") or "1",
    ]  # fmt: skip
    celery = [python, "-W", "ignore", "-m", "celery", "-A", "config"]
    children = [
        Child("web", web, {"DEMO_GUEST": demo_data.DEMO_GUEST} if demo else {}),
        Child("worker", [*celery, "worker", "-c", "1", "-l", "warning", "--without-gossip", "--without-mingle"]),
        Child("beat", [*celery, "beat", "-l", "warning", "-s", str(schedule / "schedule"), "--pidfile="]),
    ]
    if demo:
        url = f"http://127.0.0.1:{port}"
        children.append(Child("demo", [python, "manage.py", "demo", "--url", url]))
        children.append(Child("demo-copier", [python, "manage.py", "demo", "--copies", "--url", url]))
    return children


def wait_for_web(web: Child, port: int) -> None:
    deadline = time.monotonic() + READY_S
    while not answers(port):
        if web.has_ended or time.monotonic() > deadline:
            said = log_path(web.name).read_text(errors="replace")[-1500:]
            raise CommandError(f"The web process did not start. Its log ends with:\n{said}")
        time.sleep(0.1)


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def end(children: list[Child]) -> None:
    """Ask all to end, and after a while, or when told once more, insist."""
    try:
        for child in children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for child in children:
            if child.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.1, deadline - time.monotonic()))
    finally:
        for child in children:
            child.signal(signal.SIGKILL)
