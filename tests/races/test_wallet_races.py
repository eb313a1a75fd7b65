"""Concurrent requests on one wallet. Controls: without the lock the chain refuses, and a plain table loses money."""

import functools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connections

from accounts.models import TradingAccount, User
from audit import services as audit
from core.errors import DomainError
from tests import databases
from tests.wallets.conftest import balance, pay_in, set_limits, usd
from wallets import checks, services
from wallets.models import LedgerTransfer, MoneyRequest, TransferKind, Wallet, WalletHold

ATTEMPTS = 200
AT_ONCE = 40  # each has a connection, and PostgreSQL allows a hundred by default


def all_at_once(*jobs: Any) -> Any:
    """Run them in threads that begin together; how each job ended, counted."""
    outcomes, count = Counter(), min(AT_ONCE, len(jobs))
    barrier = threading.Barrier(count)

    def run(share: Any) -> None:
        barrier.wait()
        for job in share:
            try:
                job()
                outcomes["done"] += 1
            except DomainError as refusal:
                outcomes[refusal.code] += 1
            except Exception as error:
                outcomes[type(error).__name__] += 1
        connections.close_all()

    threads = [threading.Thread(target=run, args=(jobs[number::count],)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def debiting(account: Any, key: Any, amount: int = 1, kind: Any = TransferKind.FEE_PERFORMANCE) -> Callable[..., Any]:
    wallet = usd(account)
    return lambda: services.debit_wallet(
        wallet=wallet, amount=Decimal(amount), kind=kind, note="", idempotency_key=str(key)
    )


def test_two_hundred_debits_of_one_wallet_never_overdraw_it(finn: TradingAccount) -> None:
    pay_in(finn, "150")

    outcomes = all_at_once(*(debiting(finn, key) for key in range(ATTEMPTS)))

    assert set(outcomes) <= {"done", "insufficient_funds", "wallet_busy", "concurrent_modification"}
    assert sum(outcomes.values()) == ATTEMPTS
    assert balance(finn) == 150 - outcomes["done"]
    assert LedgerTransfer.objects.filter(kind=TransferKind.FEE_PERFORMANCE).count() == outcomes["done"] > 10


def test_repeated_requests_spend_the_whole_balance_and_no_more(finn: TradingAccount) -> None:
    pay_in(finn, "60")
    applied = Counter()

    def repeat_until_decided(key: Any) -> Callable[..., Any]:
        debit = debiting(finn, key)

        def job() -> None:
            while True:
                try:
                    debit()
                    applied["done"] += 1
                    return
                except (services.WalletBusy, services.ConcurrentModification):
                    continue
                except services.InsufficientFunds:
                    applied["insufficient"] += 1
                    return

        return job

    all_at_once(*(repeat_until_decided(key) for key in range(80)))

    assert applied == {"done": 60, "insufficient": 20}
    assert balance(finn) == 0


def test_one_debit_sent_fifty_times_is_done_once(finn: TradingAccount) -> None:
    pay_in(finn, "100")

    outcomes = all_at_once(*[debiting(finn, "the same")] * 50)

    assert set(outcomes) <= {"done", "wallet_busy", "concurrent_modification"}
    assert balance(finn) == 99


def test_transfers_in_both_directions_neither_deadlock_nor_lose_money(
    lena: TradingAccount, finn: TradingAccount
) -> None:
    pay_in(lena, "1000")
    pay_in(finn, "1000")
    wallets = {"lena": usd(lena), "finn": usd(finn)}

    def move(source: Any, target: Any, key: Any) -> Callable[..., Any]:
        return lambda: services.transfer(
            source=wallets[source], target=wallets[target], amount=Decimal(1), note="", idempotency_key=f"{source}{key}"
        )

    jobs = [move(*way, key) for key in range(30) for way in (("lena", "finn"), ("finn", "lena"))]
    outcomes = all_at_once(*jobs)

    assert set(outcomes) <= {"done", "wallet_busy", "concurrent_modification"}
    assert balance(lena) + balance(finn) == 2000


def test_waiting_workers_transfer_in_both_directions_without_a_deadlock(
    lena: TradingAccount, finn: TradingAccount
) -> None:
    """Celery workers wait for a wallet, always for the lower id first."""
    pay_in(lena, "1000")
    pay_in(finn, "1000")
    ids = [usd(lena).pk, usd(finn).pk]

    def move(debit: Any, credit: Any, key: Any) -> Callable[..., Any]:
        args = {
            "scope": "s",
            "key": key,
            "kind": "TRANSFER",
            "amount": "1",
            "debit": debit,
            "credit": credit,
            "wait": True,
        }
        return lambda: services.call_ledger("ledger_move", audit.SYSTEM, args)

    outcomes = all_at_once(*(move(*random.sample(ids, 2), key=str(key)) for key in range(40)))

    assert outcomes == {"done": 40}
    assert balance(lena) + balance(finn) == 2000


def test_a_hold_is_resolved_once(finn: TradingAccount) -> None:
    pay_in(finn, "100")
    wallet = usd(finn)
    hold_id = services.hold(wallet=wallet, amount=Decimal(40), purpose="p", idempotency_key="h")

    def post(key: Any) -> Callable[..., Any]:
        return lambda: services.post(
            wallet=wallet,
            hold_id=hold_id,
            amount=Decimal(40),
            kind=TransferKind.ADJUSTMENT,
            note="",
            idempotency_key=str(key),
        )

    outcomes = all_at_once(*(post(key) for key in range(10)), *[lambda: services.void(hold_id=hold_id)] * 10)

    state = WalletHold.objects.get().state
    assert set(outcomes) <= {"done", "hold_resolved", "wallet_busy", "concurrent_modification"}
    assert (balance(finn), state) in ((60, "POSTED"), (100, "VOIDED"))
    assert usd(finn).held == 0
    if state == "POSTED":
        assert outcomes["done"] == 1


def test_concurrent_approvals_approve_once(finn: TradingAccount, staff: User) -> None:
    set_limits("10")
    request = services.request_money(
        wallet=usd(finn), kind="DEPOSIT", amount=Decimal(100), reason="", idempotency_key="d", by=finn.owner,
        actor=audit.SYSTEM,
    )  # fmt: skip

    outcomes = all_at_once(*[lambda: services.approve(request=request, by=staff, actor=audit.SYSTEM)] * 10)

    assert outcomes["done"] == 1
    assert set(outcomes) <= {"done", "request_decided", "wallet_busy", "concurrent_modification"}
    assert balance(finn) == 100


def test_one_request_sent_ten_times_is_one_request(finn: TradingAccount) -> None:
    pay_in(finn, "100")
    set_limits("10")
    wallet = usd(finn)

    def request_money() -> None:
        services.request_money(
            wallet=wallet, kind="WITHDRAWAL", amount=Decimal(40), reason="", idempotency_key="w", by=finn.owner,
            actor=audit.SYSTEM,
        )  # fmt: skip

    outcomes = all_at_once(*[request_money] * 10)

    assert set(outcomes) <= {"done", "wallet_busy", "concurrent_modification"}
    assert (MoneyRequest.objects.count(), usd(finn).held) == (1, 40)


def all_in_one_day(of: list[Wallet], by: User) -> Counter:
    """Ten deposits of 40 at the same moment, over these wallets in turn; what became of the requests.

    Each commit waits after its checks, so that without a lock all of them have checked before the first is visible.
    """
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "create function waits() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null;"
            " end $$;"
            "create constraint trigger waits after insert on ledger_transfers deferrable initially deferred"
            " for each row execute function waits()"
        )

    barrier = threading.Barrier(10)

    def depositing(number: int) -> None:
        connections["default"].ensure_connection()
        barrier.wait()
        services.request_money(
            wallet=of[number % len(of)], kind="DEPOSIT", amount=Decimal(40), reason="", idempotency_key=f"{number}",
            by=by, actor=audit.SYSTEM,
        )  # fmt: skip

    all_at_once(*(functools.partial(depositing, number) for number in range(10)))
    return Counter(MoneyRequest.objects.values_list("state", flat=True))


def wallets_of_one_customer(finn: TradingAccount) -> list[Wallet]:
    codes = ("USD", "EUR", "GBP", "CHF", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF")
    return [services.wallet_of(owner=finn.owner, currency=currency) for currency in codes]


def wallets_of_ten_customers() -> list[Wallet]:
    customers = [User.objects.create(username=f"customer-{number}") for number in range(10)]
    return [services.wallet_of(owner=customer, currency="USD") for customer in customers]


def test_a_customers_movements_at_the_same_moment_stay_within_the_sum(finn: TradingAccount, staff: User) -> None:
    set_limits("100", "1,5,10")

    assert all_in_one_day(wallets_of_one_customer(finn), staff)["DONE"] == 2


def test_a_tellers_movements_at_the_same_moment_stay_within_the_sum(staff: User) -> None:
    set_limits("100", "1,5,10")

    assert all_in_one_day(wallets_of_ten_customers(), staff)["DONE"] == 2


def test_a_writer_that_read_an_older_state_cannot_pass_the_sum(finn: TradingAccount, desk_db: str) -> None:
    """Two deposits in repeatable read, whose snapshots are older than the other's commit."""
    set_limits("100", "1,5,10")
    usd_wallet, euro_wallet = wallets_of_one_customer(finn)[:2]
    query = "select ledger_move('{}', %s::jsonb)"
    args = {"scope": "s", "kind": "DEPOSIT", "amount": "60", "debit_house": "CASH_IN"}
    login = {**databases.login(), "dbname": desk_db}
    outcomes = []
    with psycopg.connect(**login) as first, psycopg.connect(**login) as second:
        for connection in (first, second):
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("select 1 from wallets limit 1")
        for connection, wallet in ((first, usd_wallet), (second, euro_wallet)):
            connection.execute(query, [json.dumps(args | {"key": str(wallet.pk), "credit": wallet.pk})])
            try:
                connection.commit()
            except psycopg.DatabaseError as error:
                outcomes.append(error.sqlstate)
            else:
                outcomes.append("done")

    assert outcomes == ["done", "40001"]


# --- the controls


def test_control_without_the_lock_of_the_movers_the_sum_is_passed(finn: TradingAccount, staff: User) -> None:
    set_limits("100", "1,5,10")
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "create or replace function lock_movers(p_people uuid[]) returns void language plpgsql as $$ begin end $$"
        )

    assert all_in_one_day(wallets_of_one_customer(finn), staff)["DONE"] > 2


def unlock(desk_db: str) -> None:
    """Replace the ledger's lock function by one that does nothing, in this test's database only."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "create or replace function ledger_lock(p_wallets bigint[], p_wait boolean) returns void"
            " language plpgsql as $$ begin end $$"
        )


def test_control_without_the_lock_the_chain_refuses_and_nothing_is_lost(desk_db: str, finn: TradingAccount) -> None:
    pay_in(finn, "150")
    unlock(desk_db)

    outcomes = all_at_once(*(debiting(finn, key) for key in range(60)))

    assert outcomes["done"] < 60, "the lock was not needed"
    assert outcomes["concurrent_modification"] + outcomes["done"] == 60
    assert balance(finn) == 150 - outcomes["done"]
    assert [fault.subject for fault in checks.faults()] == ["function ledger_lock(bigint[],boolean)"]  # as planted


def naive(desk_db: str, locked: Any) -> Any:
    """Read, check and write on a plain table; return the balance left and the number of debits."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("create table naive_wallet (balance numeric(20, 8) not null)")
        cursor.execute("insert into naive_wallet values (100)")
    params = {
        name: value for name, value in connections["owner"].get_connection_params().items() if name != "cursor_factory"
    }
    params = {name: params[name] for name in ("host", "port", "user", "password", "dbname") if params.get(name)}
    taken, barrier = Counter(), threading.Barrier(20)

    def debit() -> None:
        with psycopg.connect(**params) as connection:
            barrier.wait()
            for _ in range(5):
                query = "select balance from naive_wallet" + (" for update" if locked else "")
                (before,) = connection.execute(query).fetchone()
                if before >= 1:
                    connection.execute("select pg_sleep(0.002)")
                    connection.execute("update naive_wallet set balance = %s", [before - 1])
                    taken["1"] += 1
                connection.commit()

    threads = [threading.Thread(target=debit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connections["owner"].cursor() as cursor:
        cursor.execute("select balance from naive_wallet")
        (left,) = cursor.fetchone()
    return int(left), taken["1"]


@pytest.mark.parametrize("locked", [True, False])
def test_control_a_plain_table_without_a_lock_loses_money(desk_db: str, locked: bool) -> None:
    left, taken = naive(desk_db, locked)

    assert (left == 100 - taken) is locked
