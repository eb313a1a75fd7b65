"""For one release, the version before runs on the new schema: beside the new one, and alone after a way back."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from accounts.services import NewSecret
from copybot.errors import DeskError
from core import catalogue
from tests import databases
from tests.crashes.test_kills import Writer
from tests.signed import opening
from tests.upgrades.conftest import HERE, LATEST, Desk, Release, Upgraded, pointed_at
from trades import checks as trades
from trades.models import TradeHistory
from wallets import checks as wallets
from wallets.models import LedgerTransfer

pytestmark = pytest.mark.parametrize("release", [LATEST], ids=[LATEST.version], indirect=True, scope="session")

# The steps of going back: the old version's own migrate, its checks, and a movement of money.
BACK = """
from decimal import Decimal
from django.core.management import call_command
from accounts.models import User
from wallets import services as wallets

call_command("migrate", verbosity=0)
wallet = wallets.wallet_of(owner=User.objects.get(username="finn"), currency="USD")
wallets.debit_wallet(
    wallet=wallet, amount=Decimal("1.25"), kind="ADJUSTMENT", note="Under the old version", idempotency_key="old-1"
)
for check in ("trade_check", "ledger_check", "trust_check"):
    call_command(check)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LATEST.unpack(tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="module")
def old_served(upgraded: Upgraded, source: Path) -> Iterator[Desk]:
    """The version before serves a copy of the upgraded database, after its own migrate."""
    name = databases.copy(upgraded.name)
    shell(source, LATEST.environ(name), BACK)
    serving = Desk(name, LATEST, source).start()
    yield serving
    serving.stop()
    databases.drop(name)


@pytest.fixture
def old_desk(old_served: Desk, django_db_blocker: Any) -> Iterator[Desk]:
    with pointed_at(old_served.database, django_db_blocker):
        yield old_served


def shell(tree: Path, environ: dict[str, str], statements: str) -> None:
    command = [sys.executable, "-W", "ignore", "manage.py", "shell", "-c", statements]
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def results_of_old_bots(source: Path, desk: Desk, release: Release) -> dict[str, Any]:
    """Return what the old version's own client does and sees on this desk."""

    def credential(name: str) -> dict[str, str]:
        bot = desk.bot_of(name)
        return {"key": bot.key, "secret": bot.secret, "seq": str(bot.seq)}

    given = {"url": desk.url, "provider": credential("lena master"), "copier": credential("finn copier")}
    done = subprocess.run(
        [sys.executable, HERE / "old_bot.py"], env=release.environ("postgres") | {"PYTHONPATH": str(source)},
        input=json.dumps(given), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered


def check_old_bots(source: Path, desk: Desk) -> None:
    results = results_of_old_bots(source, desk, desk.release)

    open_before = {ticket for account, ticket in desk.release.facts["open"] if account == "lena-mt5"}
    assert results["opened"]
    assert set(results["provider_holds"]) == open_before | {"5001"}
    assert results["reopened"] == "trade_closed"
    assert results["heartbeat"] == ["fence", "lease_ms", "may_open_in_ms", "subscriptions"]
    assert set(results["copier_sees"]) == open_before
    assert TradeHistory.objects.get(ticket_id="5001").profit == 9
    assert [*trades.faults(), *wallets.faults()] == []


def test_the_version_before_serves_its_bots_on_the_new_schema(old_desk: Desk, source: Path) -> None:
    check_old_bots(source, old_desk)


def test_money_moves_under_the_version_before(old_desk: Desk) -> None:
    assert str(LedgerTransfer.objects.get(idempotency_key="old-1").amount) == "1.25000000"


def test_the_version_before_says_that_it_is_ready(old_desk: Desk) -> None:
    status, state = old_desk.get("/readyz")

    assert (status, json.loads(state)["status"]) == (200, "ready")


def test_the_new_version_is_intact_after_its_own_migrate(old_desk: Desk) -> None:
    call_command("migrate", verbosity=0)

    assert catalogue.differences() == []


def test_old_bots_work_with_the_new_version(desk: Desk, source: Path) -> None:
    check_old_bots(source, desk)


def test_no_acknowledged_close_is_lost_while_a_serving_desk_is_upgraded(
    upgraded: Upgraded, source: Path, django_db_blocker: Any
) -> None:
    """While a provider trades without pause, today's migrate runs and today's web process takes over."""
    name = databases.copy(upgraded.before)
    old, new = Desk(name, LATEST, source).start(), Desk(name, LATEST)
    provider = old.bot_of("lena master")
    writer = Writer(old.url, NewSecret(provider.key, provider.secret))
    writer.desk.seq = provider.seq
    writer.start()
    with pointed_at(name, django_db_blocker):
        try:
            call_command("migrate", verbosity=0)
            during = len(writer.acknowledged)
            time.sleep(0.5)
            writer.over.set()
            writer.join(60)
            old.stop()
            check_nothing_is_lost(writer, new.start())
            assert 0 < during < len(writer.acknowledged), "the desk did not serve all the while"
        finally:
            writer.over.set()
            old.stop()
            new.stop()
    databases.drop(name)


def check_nothing_is_lost(writer: Writer, desk: Desk) -> None:
    closed = set(TradeHistory.objects.filter(account__name="lena-mt5").values_list("ticket_id", flat=True))
    assert writer.faults == []
    assert writer.acknowledged - closed == set()
    bot = desk.bot_of("lena master")
    bot.seq = writer.desk.seq
    for ticket in sorted(writer.acknowledged)[-3:]:
        with pytest.raises(DeskError) as zombie:
            bot.open(**opening(ticket))
        assert zombie.value.code == "trade_closed"
    assert [*trades.faults(), *wallets.faults()] == []
