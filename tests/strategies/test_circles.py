"""No account follows itself, directly or through others. The database refuses a subscription that makes a circle."""

import itertools
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from accounts.models import TradingAccount, User
from audit import services as audit
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from strategies.services import FollowsInCircle
from tests import databases
from tests.answers import text
from tests.sql import as_owner
from tests.transactions import committed
from trades import checks

CONSTRAINT = "subscription_makes_no_circle"
Account = Callable[[str], TradingAccount]
TRIGGERS = (
    "alter table subscriptions disable trigger makes_no_circle, disable trigger makes_no_circle_again",
    "alter table subscriptions enable always trigger makes_no_circle, enable always trigger makes_no_circle_again",
)


@pytest.fixture
def account(sam: TradingAccount) -> Account:
    """A function that makes an account which leads the strategy of its name."""

    def make(name: str) -> TradingAccount:
        made = TradingAccount.objects.create(name=name, owner=sam.owner, currency="USD", server="x", login=name)
        committed(strategies.publish, strategy=Strategy(name=f"{name}-s", account=made))
        return made

    return make


def follow(follower: TradingAccount, leader: TradingAccount) -> Subscription:
    strategy = Strategy.objects.get(account=leader)
    return committed(strategies.subscribe, account=follower, strategy=strategy, actor=audit.SYSTEM)


def follow_anyway(follower: TradingAccount, leader: TradingAccount) -> Subscription:
    """Subscribe as the version before could, without the triggers."""
    as_owner(TRIGGERS[0])
    try:
        return follow(follower, leader)
    finally:
        as_owner(TRIGGERS[1])


def test_an_account_cannot_follow_its_own_strategy(lena: TradingAccount) -> None:
    with pytest.raises(FollowsInCircle):
        follow(lena, lena)

    assert not Subscription.objects.filter(account=lena).exists()


@pytest.mark.parametrize("length", [2, 3, 7])
def test_accounts_cannot_follow_each_other_in_a_circle(account: Account, length: int) -> None:
    accounts = [account(f"a{number}") for number in range(length)]
    for follower, leader in itertools.pairwise(accounts):
        follow(follower, leader)

    with pytest.raises(FollowsInCircle):
        follow(accounts[-1], accounts[0])

    assert Subscription.objects.filter(account=accounts[-1]).count() == 0


def test_a_chain_and_two_ways_to_one_leader_are_no_circle(account: Account) -> None:
    first, second, third = account("a"), account("b"), account("c")

    follow(first, second)
    follow(second, third)
    follow(first, third)

    assert checks.faults() == []


def test_a_paused_subscription_counts_and_an_ended_one_does_not(account: Account) -> None:
    first, second = account("a"), account("b")
    subscription = follow(first, second)
    strategies.pause(subscription=subscription, actor=audit.SYSTEM)
    with pytest.raises(FollowsInCircle):
        follow(second, first)
    strategies.end(subscription=subscription, actor=audit.SYSTEM)
    follow(second, first)

    with pytest.raises(FollowsInCircle):  # taking it up again is refused as a new one is
        follow(first, second)

    subscription.refresh_from_db()
    assert subscription.status == "ENDED"


def test_a_strategy_cannot_move_to_an_account_that_follows_it(account: Account) -> None:
    first, second, third = account("a"), account("b"), account("c")
    follow(first, second)
    follow(second, third)
    Strategy.objects.filter(account=first).delete()
    strategy = Strategy.objects.get(account=third)
    strategy.account = first

    with pytest.raises(FollowsInCircle):
        committed(strategies.change_strategy, strategy=strategy, changed=["account"])


def test_the_database_refuses_a_circle_whoever_writes_it(account: Account) -> None:
    first, second = account("a"), account("b")
    theirs, back = follow(first, second), None
    strategies.end(subscription=theirs, actor=audit.SYSTEM)
    back = follow(second, first)

    for changes in ({"status": "ACTIVE"}, {"status": "PAUSED", "paused_for": "HAND"}):
        with pytest.raises(IntegrityError, match="follow itself"), transaction.atomic(using="owner"):
            Subscription.objects.using("owner").filter(pk=theirs.pk).update(**changes)
    with pytest.raises(IntegrityError, match="follow itself"), transaction.atomic():
        Subscription.objects.filter(pk=back.pk).update(account=first)


def test_staff_read_which_field_makes_the_circle(client: Client, staff: User, lena: TradingAccount) -> None:
    client.force_login(staff)
    fields = {"strategy": Strategy.objects.get(account=lena).pk, "account": lena.pk}

    page = text(client.post(reverse("admin:strategies_subscription_add"), fields))

    assert FollowsInCircle.detail in page
    assert not Subscription.objects.filter(account=lena).exists()


# --- a circle from the version before


@pytest.mark.breaks_the_books
def test_an_earlier_circle_is_named_and_can_be_paused_and_ended_but_not_resumed(account: Account) -> None:
    first, second = account("a"), account("b")
    follow(first, second)
    theirs = follow_anyway(second, first)

    assert {fault.subject for fault in checks.faults()} == {"a", "b"}
    strategies.pause(subscription=theirs, actor=audit.SYSTEM)
    with pytest.raises(FollowsInCircle):
        strategies.resume(subscription=theirs, actor=audit.SYSTEM)
    strategies.end(subscription=theirs, actor=audit.SYSTEM)

    assert checks.faults() == []


@pytest.mark.breaks_the_books
def test_a_person_reads_why_an_earlier_circle_does_not_resume(client: Client, account: Account, sam: Any) -> None:
    first, second = account("a"), account("b")
    follow(first, second)
    theirs = follow_anyway(second, first)
    strategies.pause(subscription=theirs, actor=audit.SYSTEM, why="OWNER")
    client.force_login(sam.owner)

    page = text(client.post(reverse("portal:copying-resume", args=[theirs.sub_id]), follow=True))

    assert FollowsInCircle.detail in page


def test_a_temporary_table_hides_no_circle_from_the_database(desk_db: str, account: Account) -> None:
    """The application's login may write subscriptions: what it puts before the desk's tables does not count."""
    first, second, third = account("a"), account("b"), account("c")
    follow(first, second)
    follow(third, first)
    Strategy.objects.get(account=third).delete()
    with closing(psycopg.connect(databases.url(desk_db, "DATABASE_URL"), autocommit=True)) as app:
        for table in ("strategies", "subscriptions"):
            app.execute(f"create temporary table {table} (like public.{table})")

        insert = INSERT.replace("into subscriptions", "into public.subscriptions").replace("from s", "from public.s")
        with pytest.raises(psycopg.errors.CheckViolation, match="would follow itself"):
            app.execute(insert, ["r-1", "a-s", "b"])
        with pytest.raises(psycopg.errors.CheckViolation, match="would follow itself"):
            app.execute("update public.strategies set account_id = %s where account_id = %s", [third.pk, second.pk])


# --- two at once

INSERT = (
    "insert into subscriptions (sub_id, strategy_id, account_id, status, sealed_packet_secret, packet_generation)"
    " select %s, s.id, a.id, 'ACTIVE', '', 1 from strategies s, trading_accounts a where s.name = %s and a.name = %s"
)
UNLOCKED = """
    create or replace function refuse_circle(p_account bigint, p_provider bigint) returns void language plpgsql as $$
    begin
      if follows_in_circle(p_account, p_provider) then
        raise exception 'circle' using errcode = 'check_violation', constraint = 'subscription_makes_no_circle';
      end if;
    end $$"""


def race(name: str, account: Account) -> list[Any]:
    """Two transactions: each makes one half of a circle of four, the second before the first has committed."""
    one, two, three, four = (account(letter) for letter in "abcd")
    follow(two, three)
    follow(four, one)
    answers: list[Any] = [None, None]

    def make(connection: Any, at: int, leader: str, follower: str) -> None:
        try:
            connection.execute(INSERT, [f"r-{at}", f"{leader}-s", follower])
            if at:
                connection.commit()
            answers[at] = "made"
        except psycopg.Error as error:
            answers[at] = error.diag.constraint_name

    login = databases.login()
    with (
        closing(psycopg.connect(**login, dbname=name)) as first,
        closing(psycopg.connect(**login, dbname=name)) as last,
    ):
        make(first, 0, "b", "a")
        thread = threading.Thread(target=make, args=(last, 1, "d", "c"))
        thread.start()
        thread.join(0.5)
        first.commit()
        thread.join()
    return answers


def test_two_transactions_cannot_each_make_half_a_circle(desk_db: str, account: Account) -> None:
    assert race(desk_db, account) == ["made", CONSTRAINT]
    assert checks.faults() == []


@pytest.mark.breaks_the_books
def test_control_without_the_lock_two_transactions_make_a_circle(desk_db: str, account: Account) -> None:
    as_owner(UNLOCKED)

    assert race(desk_db, account) == ["made", "made"]

    assert {fault.subject for fault in checks.faults()} >= set("abcd")


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_a_transaction_with_an_older_view_of_the_database_cannot_subscribe(
    desk_db: str, account: Account, level: psycopg.IsolationLevel
) -> None:
    account("a")
    account("b")
    with closing(psycopg.connect(**databases.login(), dbname=desk_db)) as connection:
        connection.isolation_level = level

        with pytest.raises(psycopg.errors.ActiveSqlTransaction):
            connection.execute(INSERT, ["r-1", "b-s", "a"])
