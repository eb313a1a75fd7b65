"""`manage.py up`: runs the whole desk on this machine and restarts its processes, until it is stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.checks import CRITICAL
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import checks, child_processes, demo_data, embedded, web_server

READY_S = 90
STOP_S = 8
SLOWEST_RESTART_S = 30


@dataclass
class Child:
    """One process of the desk. It is restarted when it ends, after a delay that grows with each failure."""

    name: str
    command: Sequence[str]
    environ: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0
    failures: int = 0

    def start(self) -> None:
        with child_processes.rotated(log_path(self.name)).open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=settings.BASE_DIR, env={**os.environ, **self.environ}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
                preexec_fn=child_processes.dying_with_parent(signal.SIGTERM),
            )  # fmt: skip
        child_processes.remember(settings.VAR_DIR, self.process.pid)
        self.started_at = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Once it has ended, the rest of its group is killed too: it would hold the port or do work twice."""
        if self.process is None:
            return True
        if self.process.poll() is None:
            return False
        self.signal(signal.SIGKILL)
        self.process = None  # from now on another process may get its id
        return True

    def restart_when_due(self) -> bool:
        """Restart it if its delay is over; return whether it was restarted."""
        if time.monotonic() - self.started_at > 2 * SLOWEST_RESTART_S:
            self.failures = 0
        if time.monotonic() - self.started_at < min(2**self.failures, SLOWEST_RESTART_S):
            return False
        self.failures += 1
        self.start()
        return True

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole process group: workers have children of their own."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def log_path(name: str) -> Path:
    folder = settings.VAR_DIR / "log"
    folder.mkdir(parents=True, exist_ok=True)
    path: Path = folder / f"{name}.log"
    return path


class StopRequested(Exception):
    """A signal asked this process to stop."""


class Command(BaseCommand):
    help = "Run the whole desk on this machine: web server, worker, scheduler and a demo."
    requires_system_checks = []  # they run below, with the database

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="start an empty desk, without the demo")

    def handle(self, *args: Any, **options: Any) -> None:
        port = embedded.wanted_port()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._request_stop)
        children = processes(port, demo=not options["no_demo"])
        try:
            self._start(children, port)
            self._supervise(children)
        except StopRequested:
            self.stdout.write("\nStopping")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.default_int_handler)  # a second signal ends at once
            end(children)

    @staticmethod
    def _request_stop(number: int, frame: FrameType | None) -> None:
        raise StopRequested

    def _start(self, children: list[Child], port: int) -> None:
        self._step("Migrated", lambda: call_command("migrate", verbosity=0))
        os.environ.pop("DATABASE_OWNER_URL", None)  # no process that serves can log in as the tables' owner
        # What differs in the database is reported. The desk starts all the same: its trades must be closed.
        self.check(databases=["default"], fail_level=CRITICAL)
        checks.refuse_unsafe()
        for child in children:
            child.start()
        self._step("Web, worker and beat started", lambda: wait_for_web(children[0], port))
        self.stdout.write(f"Copydesk is up: http://127.0.0.1:{port}   (Ctrl-C stops it; logs: {settings.VAR_DIR}/log)")
        self.stdout.flush()

    def _step(self, message: str, action: Any) -> None:
        began = time.monotonic()
        action()
        self.stdout.write(f"{message} ({time.monotonic() - began:.1f} s)")
        self.stdout.flush()

    def _supervise(self, children: list[Child]) -> None:
        while True:
            time.sleep(0.25)
            for line in embedded.running.repair() if embedded.running else []:
                self._say(line)
            for child in children:
                if child.has_ended and child.restart_when_due():
                    self._say(f"{child.name} ended and was restarted (see {log_path(child.name)})")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def processes(port: int, *, demo: bool) -> list[Child]:
    """Return the desk's processes, the web server first."""
    python = sys.executable
    schedule = settings.VAR_DIR / "beat"
    schedule.mkdir(parents=True, exist_ok=True)
    web = web_server.command("config.asgi:application", port, "--workers", os.environ.get("WEB_PROCESSES") or "1")
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
    while not web_server.answers(port):
        if web.has_ended or time.monotonic() > deadline:
            log_end = log_path(web.name).read_text(errors="replace")[-1500:]
            raise CommandError(f"The web process did not start. Its log ends with:\n{log_end}")
        time.sleep(0.1)


def end(children: list[Child]) -> None:
    """Ask all processes to end; kill those that remain after a while, or when a second signal comes."""
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
