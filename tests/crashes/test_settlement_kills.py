"""A settling process is killed by SIGKILL again and again: every fee is charged exactly once."""

import os
import random
import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import TradingAccount, User
from audit import services as audit
from strategies import services as strategies
from tests import databases
from tests.conftest import ROOT
from tests.transactions import committed
from tests.wallets.conftest import JUST_AFTER, Following, accept, following, pay_in, usd
from wallets import tasks
from wallets.models import FeeClaim, LedgerTransfer, Settlement
from wallets.services import settlement

KILLS = int(os.environ.get("COPYDESK_KILLS", "6"))
FOLLOWERS = 40
SETTLER = """
import sys
from datetime import datetime
import django
django.setup()
from wallets.services import settlement
print("ready", flush=True)
while True:
    settlement.sweep(now=datetime.fromisoformat(sys.argv[1]))
"""


def make_followers(lena: TradingAccount, finn: TradingAccount, monthly: Any) -> list[Any]:
    """Forty subscribers, each with 100 of profit, 1000 in the wallet, and terms of 20 % and a monthly fee."""
    finns = following(lena, finn, subscription_fee=Decimal(monthly))
    strategy, began = finns.agreement.strategy, finns.agreement.started_at
    followers = []
    for number in range(FOLLOWERS):
        owner = User.objects.create(username=f"follower-{number}")
        account = TradingAccount.objects.create(owner=owner, name=f"f{number}", broker="b", server="s", login=number)
        committed(strategies.subscribe, account=account, strategy=strategy, actor=audit.SYSTEM)
        agreement = accept(account, now=began)
        pay_in(account, "1000")
        followers.append(Following(lena, account, agreement))
        followers[-1].realise(str(1000 + number), "100")
    strategies.end(subscription=finn.subscriptions.get(), actor=audit.SYSTEM)
    return followers


def start(database: Any, *arguments: Any, **options: Any) -> Any:
    environ = {**os.environ, **databases.urls(database), "DJANGO_SETTINGS_MODULE": "config.settings"}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environ, start_new_session=True, **options)


def kill(process: Any) -> None:
    os.killpg(process.pid, 9)
    process.wait()


def progress() -> Any:
    return Settlement.objects.filter(period_no=1).count(), FeeClaim.objects.exclude(collected_at=None).count()


def assert_charged_once(followers: Any, *fees: Any) -> None:
    for kind, amount in fees:
        claims = FeeClaim.objects.filter(kind=kind)
        assert [claim.collected for claim in claims] == [amount] * FOLLOWERS
        assert LedgerTransfer.objects.filter(kind=kind).count() == FOLLOWERS
    assert LedgerTransfer.objects.filter(kind="ACCRUAL").count() == FOLLOWERS * len(fees)
    left = 1000 - sum(amount for _, amount in fees)
    assert {usd(follower.finn).balance for follower in followers} == {left}


@pytest.mark.dated
@pytest.mark.crash
def test_a_fee_is_charged_once_although_the_sweep_is_killed(
    desk_db: str, lena: TradingAccount, finn: TradingAccount
) -> None:
    followers = make_followers(lena, finn, monthly=3)
    rng, states = random.Random(20260301), set()
    due = followers[0].month_end() + JUST_AFTER
    for _ in range(KILLS):
        settler = start(desk_db, "-c", SETTLER, due.isoformat(), stdout=subprocess.PIPE)
        with settler.stdout as output:
            assert output.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 1.6 / KILLS))
        kill(settler)
        states.add(progress())
    settlement.sweep(now=due)

    assert len(states) > 2, "no kill interrupted the work"
    assert_charged_once(followers, ("FEE_PERFORMANCE", 20), ("FEE_SUBSCRIPTION", 3))


@pytest.mark.dated
@pytest.mark.crash
def test_the_next_worker_finishes_the_work_of_a_killed_one(
    desk_db: str, lena: TradingAccount, finn: TradingAccount
) -> None:
    """A real worker and a real broker. A lost message delays nothing for good, because the rows are the queue."""
    followers = make_followers(lena, finn, monthly=0)
    for follower in followers:
        follower.settle()
    worker = ["-W", "ignore", "-m", "celery", "-A", "config", "worker", "-P", "solo", "-l", "error"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def collected() -> Any:
        return progress()[1]

    for target in (1, FOLLOWERS):
        tasks.sweep.delay()
        process = start(desk_db, *worker, **silent)
        deadline = time.monotonic() + 180
        while collected() < target:
            assert time.monotonic() < deadline, "the worker did nothing"
            time.sleep(0.005)
        kill(process)
        if target == 1:
            assert collected() < FOLLOWERS, "the worker was killed too late"

    assert_charged_once(followers, ("FEE_PERFORMANCE", 20))
