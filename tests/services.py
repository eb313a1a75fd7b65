"""A private PostgreSQL and Valkey for the tests, unless DATABASE_URL and REDIS_URL name servers.

Given servers need all three logins (ops/roles.sql), and an owner who may create databases.

A plugin on pytest's command line, because settings are read before any conftest. Workers of a parallel run inherit the
servers of the run that started them.
"""

import atexit
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from config import embedded, logins

SPACE_BYTES = 2 * 1024**3
MOST_WORKERS = 8
_servers: embedded.Servers | None = None


def start() -> None:
    global _servers
    os.environ.setdefault("DEBUG", "1")
    os.environ.setdefault("DJANGO_SECRET_KEY", secrets.token_urlsafe(50))
    os.environ.setdefault("COPYDESK_KEKS", f"k1:{secrets.token_hex(32)}")
    # A test moves in a second what customers move in months. Tests of the sums write limits of their own.
    os.environ.setdefault("SECOND_PERSON_SUMS", "1000000,1000000,1000000")
    os.environ["REDIS_PREFIX"] = f"test-{os.getpid()}"
    if not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        memory = _memory()
        os.environ["COPYDESK_TESTS_IN_MEMORY"] = "1" if memory else ""
        folder = Path(tempfile.mkdtemp(prefix="copydesk-test-", dir=memory))
        _servers = embedded.Servers(folder, fast=True, as_owner=True)
        atexit.register(stop)  # for runs that end before the session starts: --version, a wrong option
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled run cleans up as after Ctrl-C
        _servers.start()
        with _servers.postgres._connection() as superuser:
            superuser.execute(f"alter role {logins.OWNER} createdb")  # each test has its own database
        os.environ["COPYDESK_TESTS_SUPERUSER_URL"] = _servers.postgres.url(logins.SUPERUSER)
    missing = [name for name in logins.VARIABLES if not os.environ.get(name)]
    if missing:
        raise SystemExit(f"The tests need {', '.join(missing)} beside DATABASE_URL (ops/roles.sql).")


def _memory() -> str | None:
    """A file system in memory with enough space: each test's database is copied file by file."""
    shared = Path("/dev/shm")
    has_space = (
        shared.is_dir() and os.access(shared, os.W_OK | os.X_OK) and shutil.disk_usage(shared).free > SPACE_BYTES
    )
    return str(shared) if has_space else None


def stop() -> None:
    global _servers
    if _servers is not None:
        _servers.remove()
        _servers = None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: Any) -> int:
    """Three more than cores, because a worker waits a third of its time for sockets and processes."""
    return min((os.cpu_count() or 1) + 3, MOST_WORKERS)


def pytest_report_header(config: Any) -> str:
    given = "given" if _servers is None else "own"
    return f"servers: {given}, {os.environ['DATABASE_URL'].split('@')[-1]}"


def pytest_unconfigure(config: Any) -> None:
    stop()


start()
