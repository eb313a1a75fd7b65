"""Fixtures: a fresh database for each test, and its cast: lena leads, finn follows, sam is a stranger, desk is staff.

After each test the invariants of trades and wallets are checked: every trade is in exactly one home, and every balance
is the sum of its entries.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import hypothesis
import psycopg
import pytest
from django.conf import settings
from django.db import connections

from config import web_server
from copybot.client import Client
from tests import databases, ports
from tests.signed import Bot

ROOT = Path(__file__).resolve().parent.parent
# The same examples each time, so that only a change of the code changes the result. COPYDESK_EXAMPLES searches others.
hypothesis.settings.register_profile("steady", derandomize=True)
if "COPYDESK_EXAMPLES" not in os.environ:
    hypothesis.settings.load_profile("steady")


@dataclass(frozen=True)
class Template:
    name: str
    cast: dict[str, Any]


@pytest.fixture(scope="session")
def template(django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """A migrated database with the cast in it."""
    from config import demo_data

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the run's folder, which contains a folder for each worker
    shared = databases.shared_template(folder, demo_data.make)
    with django_db_blocker.unblock(), shared as (name, cast), databases.one_connection():
        yield Template(name, cast)


@pytest.fixture(scope="session")
def django_db_setup() -> None:
    """pytest-django's own test database is not created: see `desk_db`."""


@pytest.fixture
def desk_db(template: Template, django_db_blocker: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the test's own database. Django's aliases point to it."""
    name = databases.copy(template.name)
    with django_db_blocker.unblock():
        databases.point_at(name)
        _forget_refusals()
        try:
            yield name
            if "breaks_the_books" not in request.keywords:
                _check_the_books()
        finally:
            databases.point_at("postgres")
    databases.drop(name)


def _forget_refusals() -> None:
    """Each test has a database of its own, whose audit log has room."""
    from audit import sampling

    for sampler in (sampling.of_nobody, sampling.of_the_verified):
        sampler.forget()


def _check_the_books() -> None:
    from core import invariants
    from trades import checks as trades
    from wallets import checks as wallets

    assert invariants.faults({**trades.INVARIANTS, **wallets.INVARIANTS}) == []


@pytest.fixture
def cast(template: Template, desk_db: str) -> dict[str, Any]:
    """What `seed --json` prints."""
    return template.cast


def _account(name: str) -> Any:
    from accounts.models import TradingAccount

    return TradingAccount.objects.select_related("owner").get(name=f"{name}-mt5")


@pytest.fixture
def lena(cast: dict[str, Any]) -> Any:
    """Lena's trading account; she publishes lena-eurusd from it."""
    return _account("lena")


@pytest.fixture
def finn(cast: dict[str, Any]) -> Any:
    """Finn's trading account; it follows lena-eurusd."""
    return _account("finn")


@pytest.fixture
def sam(cast: dict[str, Any]) -> Any:
    """Sam's trading account; he publishes sam-xauusd and must see nothing of lena's."""
    return _account("sam")


@pytest.fixture
def staff(cast: dict[str, Any]) -> Any:
    """The staff user `desk`."""
    from accounts.models import User

    return User.objects.get(username="desk")


@pytest.fixture
def admin(client: Any, staff: Any) -> Any:
    """The browser of `desk`, a superuser."""
    client.force_login(staff)
    return client


@pytest.fixture
def clerk(client: Any, cast: dict[str, Any]) -> Callable[..., Any]:
    """A function that returns the browser of a staff user with only these permissions."""
    from tests.people import colleague

    def with_permissions(*codenames: str) -> Any:
        client.force_login(colleague("vera", *codenames))
        return client

    return with_permissions


@pytest.fixture
def superuser(desk_db: str) -> Iterator[psycopg.Connection[Any]]:
    """The server's superuser, in the mode in which only triggers enabled ALWAYS fire."""
    try:
        connection = psycopg.connect(databases.superuser_url(desk_db), autocommit=True)
    except KeyError:
        pytest.skip("NOT TESTED: the given servers' superuser is not known (COPYDESK_TESTS_SUPERUSER_URL)")
    with connection:
        connection.execute("set session_replication_role = replica")
        yield connection


# --- bots


def key_of(cast: dict[str, Any], owner: str, kind: str) -> dict[str, str]:
    return next(key for key in cast["keys"] if (key["owner"], key["kind"]) == (owner, kind))


class Serving:
    """A real web process on loopback, with the test's database."""

    tree = ROOT  # the code that it runs
    application = "config.asgi:application"
    options: tuple[str, ...] = ()  # of uvicorn, besides the desk's own
    prefix: tuple[str, ...] = ()  # a command that runs it

    def __init__(self, database: str, cast: dict[str, Any], **more: str) -> None:
        self.cast, self.port = cast, ports.free()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {**os.environ, **databases.urls(database), "DEBUG": "1", **more}
        self.environ.pop("DATABASE_OWNER_URL")  # no process that serves has it
        self.process: subprocess.Popen[bytes] | None = None
        self.bots: list[Client] = []

    def start(self) -> Self:
        command = [*self.prefix, *web_server.command(self.application, self.port, *self.options)]
        self.process = subprocess.Popen(command, cwd=self.tree, env=self.environ, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 180
        while not self.answers():
            assert self.process.poll() is None, "the web process ended"
            assert time.monotonic() < deadline, "the web process does not answer"
            time.sleep(0.05)
        return self

    def answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill the process as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        for bot in self.bots:
            bot.hang_up()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def bot(self, owner: str, kind: str, **more: Any) -> Client:
        key = key_of(self.cast, owner, kind)
        self.bots.append(Client(self.url, key["key"], key["secret"], **more))
        return self.bots[-1]


@pytest.fixture
def serve(desk_db: str, cast: dict[str, Any]) -> Iterator[Callable[..., Serving]]:
    """A function that starts a web process; its keyword arguments are environment variables."""
    started: list[Serving] = []

    def start(**more: str) -> Serving:
        started.append(Serving(desk_db, cast, **more))
        return started[-1].start()

    yield start
    for serving in started:
        serving.stop()


@pytest.fixture
def web(serve: Callable[..., Serving]) -> Serving:
    """One web process."""
    return serve()


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    yield
    for alias in settings.DATABASES:
        connections[alias].close()


@pytest.fixture
def lena_bot(cast: dict[str, Any]) -> Bot:
    return Bot(key_of(cast, "lena", "master"))


@pytest.fixture
def finn_bot(cast: dict[str, Any]) -> Bot:
    return Bot(key_of(cast, "finn", "copier"))


@pytest.fixture
def sam_copier(cast: dict[str, Any]) -> Bot:
    return Bot(key_of(cast, "sam", "copier"))


@pytest.fixture
def sam_bot(cast: dict[str, Any]) -> Bot:
    return Bot(key_of(cast, "sam", "master"))
