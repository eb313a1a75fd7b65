"""Concurrent workers on one score lose no update. Control: without the lock, the chain of assessments refuses them."""

import os
import threading
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connections, transaction
from django.utils import timezone

from accounts import services as accounts
from accounts.models import TradingAccount, User
from audit import services as audit
from strategies.models import Strategy
from tests import databases
from tests.transactions import committed
from trades import services as trades
from trust import checks, detector, evidence, services
from trust.models import ScoreKind, TrustAssessment, TrustScore, TrustSubject

USERS, WORKERS = 10, 32
EACH = int(os.environ.get("COPYDESK_RECALCULATIONS", "8"))  # the long run: 1000


def make_users(count: Any, deals: Any) -> list[Any]:
    users = []
    for number in range(count):
        owner = User.objects.create(username=f"judged-{number}")
        account = TradingAccount.objects.create(
            owner=owner, name=f"j{number}", broker="b", server="s", login=str(number)
        )
        Strategy.objects.create(name=f"judged-{number}", owner=owner, account=account)
        committed(accounts.create_key, account=account, kind="master", actor=audit.SYSTEM)
        for ticket in range(1, deals + 1):
            close(account, ticket)
        users.append((owner, account))
    return users


def close(account: Any, ticket: Any, profit: int = 10) -> None:
    price = Decimal("1.1")
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(ticket), "open_price": price}
    closing = {"close_price": price, "profit": Decimal(-profit), "reason": "SL"}
    with transaction.atomic():
        trades.open_trade(account=account, ticket_id=str(ticket), **opening)
        trades.close_trade(account=account, ticket_id=str(ticket), **closing)


def all_at_once(work: Any, count: Any = WORKERS) -> Counter:
    failures = Counter()

    def run(number: Any) -> None:
        try:
            work(number)
        except Exception as error:
            failures[type(error).__name__] += 1
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def until_it_gets_the_lock(do: Any, *args: Any, **kwargs: Any) -> Any:
    """Repeat after a lock timeout or a lost connection, as the next sweep does."""
    while True:
        try:
            return do(*args, **kwargs)
        except OperationalError:
            connections.close_all()


def test_many_workers_recalculate_a_few_users_and_nothing_is_lost(desk_db: str) -> None:
    users = make_users(USERS, deals=3)

    def work(number: Any) -> None:
        for step in range(EACH):
            owner, account = users[(number + step) % USERS]
            if number % 8 == 0 and step % 20 == 0:
                until_it_gets_the_lock(close, account, 100 + number * EACH + step)
            until_it_gets_the_lock(services.recalculate, user_id=owner.pk, always=True)

    assert all_at_once(work) == {}
    now = timezone.now()
    for owner, _ in users:
        services.recalculate(user_id=owner.pk, now=now, always=True)
        score = TrustScore.objects.get(user=owner, kind=ScoreKind.FLOW)
        assert score.score == detector.assess(evidence.of_provider(owner.strategies.get(), now=now), now=now).score
    assessments = TrustAssessment.objects.filter(kind=ScoreKind.FLOW)
    assert assessments.count() == WORKERS * EACH + USERS
    assert checks.faults() == []


def test_of_many_workers_without_news_only_the_first_writes(desk_db: str) -> None:
    (owner, _), *_ = make_users(1, deals=3)

    def work(number: Any) -> None:
        for _ in range(3):
            until_it_gets_the_lock(services.recalculate, user_id=owner.pk)

    assert all_at_once(work) == {}
    assert TrustAssessment.objects.filter(user=owner).count() == 3  # one for each kind
    assert checks.faults() == []


def test_concurrent_sweeps_recalculate_each_user_once(desk_db: str) -> None:
    users = make_users(USERS, deals=1)
    services.sweep(now=timezone.now())
    for _, account in users:
        close(account, 2)
    later, done = timezone.now() + services.RECALCULATE_AFTER, []

    assert all_at_once(lambda number: done.append(services.sweep(now=later)), count=8) == {}
    assert sum(done) == TrustSubject.objects.count()
    assert set(
        TrustAssessment.objects.filter(user__username__startswith="judged").values_list("version", flat=True)
    ) == {1, 2}
    assert checks.faults() == []


# --- the controls


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the locks of the user and of the queue row."""
    monkeypatch.setattr("trust.models.TrustSubjectQuerySet.lock", lambda self, **_: self)
    monkeypatch.setattr("accounts.models.UserQuerySet.lock", lambda self: self)


def test_control_without_the_lock_the_chain_refuses_stale_assessments(desk_db: str, unlocked: None) -> None:
    (owner, _), *_ = make_users(1, deals=3)
    services.recalculate(user_id=owner.pk)

    failures = all_at_once(
        lambda number: [services.recalculate(user_id=owner.pk, always=True) for _ in range(6)], count=8
    )

    assert set(failures) == {"IntegrityError"}, "no assessment was stale: the lock was not needed"
    assert IntegrityError.__name__ in failures
    assert checks.faults() == []


@pytest.mark.parametrize("locked", [True, False])
def test_control_a_plain_score_without_a_lock_loses_updates(desk_db: str, locked: bool) -> None:
    """The naive way: read the score, subtract points, write it."""
    import psycopg

    with connections["owner"].cursor() as cursor:
        cursor.execute("create table plain_score (score int not null)")
        cursor.execute("insert into plain_score values (1000)")

    def work(number: Any) -> None:
        with psycopg.connect(**databases.login(), dbname=desk_db) as connection:
            for _ in range(10):
                (score,) = connection.execute("select score from plain_score" + " for update" * locked).fetchone()
                connection.execute("select pg_sleep(0.001)")
                connection.execute("update plain_score set score = %s", [score - 1])
                connection.commit()

    assert all_at_once(work, count=12) == {}
    with connections["owner"].cursor() as cursor:
        cursor.execute("select score from plain_score")
        (left,) = cursor.fetchone()
    assert (left == 1000 - 120) is locked
