"""Processes are killed during closes, under load. Acknowledged closes survive; every trade has exactly one home.

Each writer opens and closes trades of its own, and repeats what got no certain answer under the same Idempotency-Key.
What was acknowledged is copied *before* the database is read: what is acknowledged later does not count.
"""

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from pytest_django import DjangoDbBlocker

from accounts import services as accounts
from accounts.models import TradingAccount, User
from audit import services as audit
from copybot.client import Client, DeskError
from strategies.models import Strategy
from tests import databases
from tests.conftest import Serving
from tests.signed import opening
from tests.transactions import committed
from trades import checks
from trades.models import TradeHistory

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("COPYDESK_KILLS", "3"))
WRITERS = 6


class Writer(threading.Thread):
    """A provider's bot that opens and closes as fast as it can until it is stopped."""

    def __init__(self, url: str, secret: accounts.NewSecret) -> None:
        super().__init__(daemon=True)
        self.desk = Client(url, secret.key, secret.secret, attempts=60, timeout_s=5)
        self.acknowledged: set[str] = set()
        self.faults: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        for number in itertools.count(1):
            if self.over.is_set():
                break
            try:
                self.desk.open(**opening(number))
                self.desk.close(str(number), close_price="1.11", profit="5", reason="TP")
                self.acknowledged.add(str(number))
            except DeskError as no:
                self.faults.append(f"{number}: {no}")
            except ConnectionError:
                continue  # never a certain answer: nothing was acknowledged
        self.desk.hang_up()


def make_writers(web: Serving) -> dict[TradingAccount, Writer]:
    writers = {}
    for number in range(WRITERS):
        owner = User.objects.create_user(f"writer-{number}")
        account = TradingAccount.objects.create(
            name=f"writer-{number}", owner=owner, broker="b", server="s", login=str(number)
        )
        Strategy.objects.create(name=f"writer-{number}", owner=owner, account=account)
        _, secret = committed(accounts.create_key, account=account, kind="master", actor=audit.SYSTEM)
        writers[account] = Writer(web.url, secret)
    return writers


def kill_under_load(writers: dict[TradingAccount, Writer], kill: Callable[[], None]) -> None:
    for writer in writers.values():
        writer.start()
    for _ in range(KILLS):
        time.sleep(random.uniform(0.3, 1.2))
        kill()
    time.sleep(1)
    for writer in writers.values():
        writer.over.set()
    for writer in writers.values():
        writer.join(300)


def lost(writers: dict[TradingAccount, Writer]) -> list[str]:
    """The acknowledged closes that are missing in history."""
    acknowledged = {account: set(writer.acknowledged) for account, writer in writers.items()}
    missing = []
    for account, tickets in acknowledged.items():
        stored = set(TradeHistory.objects.filter(account=account).values_list("ticket_id", flat=True))
        missing += [f"{account}/{ticket}" for ticket in tickets - stored]
    return missing


def check_all(writers: dict[TradingAccount, Writer]) -> None:
    acknowledged = sum(len(writer.acknowledged) for writer in writers.values())
    assert [fault for writer in writers.values() for fault in writer.faults] == []
    assert lost(writers) == []
    assert checks.faults() == []
    assert acknowledged > 20 * KILLS, f"only {acknowledged} closes: there was no load"
    for writer in writers.values():
        for ticket in random.sample(sorted(writer.acknowledged), min(5, len(writer.acknowledged))):
            with pytest.raises(DeskError) as zombie:
                writer.desk.open(**opening(ticket))
            assert zombie.value.code == "trade_closed"
        writer.desk.hang_up()


def test_no_acknowledged_close_is_lost_when_the_web_process_is_killed(web: Serving) -> None:
    writers = make_writers(web)

    def kill() -> None:
        web.kill()
        web.start()

    kill_under_load(writers, kill)

    check_all(writers)


@pytest.fixture
def durable_web(durable: Any, django_db_blocker: DjangoDbBlocker) -> Iterator[Any]:
    """A desk on the durable cluster."""
    with django_db_blocker.unblock():
        name = databases.make_template()
        from config import demo_data

        serving = Serving(name, demo_data.make())
        yield serving.start()
        serving.stop()


def test_no_acknowledged_close_is_lost_when_postgresql_is_killed(durable: Any, durable_web: Any) -> None:
    writers = make_writers(durable_web)

    def kill() -> None:
        assert durable.postgres.process is not None
        durable.postgres.process.kill()
        durable.postgres.process.wait()
        durable.postgres.launch()

    kill_under_load(writers, kill)

    for alias in connections:
        connections[alias].close()
    check_all(writers)


def test_control_the_check_detects_a_lost_close(desk_db: str, lena: TradingAccount) -> None:
    """An acknowledged close has no row."""
    writer = Writer("http://127.0.0.1:1", accounts.NewSecret("ck_0000000000000000.1", "0" * 64))
    writer.acknowledged.add("1")

    assert lost({lena: writer}) == ["lena-mt5/1"]


@pytest.mark.breaks_the_books
def test_control_the_check_detects_a_close_in_two_transactions(desk_db: str, lena: TradingAccount) -> None:
    """A close stops half-way, on tables whose keys were dropped."""
    with transaction.atomic():
        from trades import services

        services._ask("trade_open", {"kind": "system", "account": lena.pk}, opening("1"))
    with connections["owner"].cursor() as cursor:
        cursor.execute("alter table trades drop constraint open_trade_is_active")
        cursor.execute("alter table active_trades disable trigger goes_with_its_close")
        cursor.execute("delete from active_trades")

    assert "an open trade is in the hot table, and nowhere else" in {fault.invariant for fault in checks.faults()}
