# ruff: noqa: E501 - what is planted is a table
"""`manage.py ledger_check` finds every fault that the database normally prevents, and halts the ledger."""

import io
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from accounts.models import TradingAccount
from core import catalogue
from core.invariants import FIRST, IN_PLACE
from tests.sql import as_owner
from tests.wallets.conftest import balance, following, pay_in, set_limits, usd
from wallets import checks, services
from wallets.models import LedgerHalt, LedgerTransfer
from wallets.services import ledger_halt


@pytest.fixture
def books(lena: TradingAccount, finn: TradingAccount) -> Any:
    """Every kind of row: deposits, a withdrawal, a hold, a request, a settled fee that is partly collected."""
    set_limits("100")
    follows = following(lena, finn)
    pay_in(finn, "150")
    follows.realise("1", "1000")
    follows.settle()
    from wallets.services import settlement

    settlement.collect(claim_id=follows.agreement.claims.get().pk)
    pay_in(finn, "500")
    wallet = usd(finn)
    services.debit_wallet(wallet=wallet, amount=Decimal(20), kind="ADJUSTMENT", note="", idempotency_key="w")
    services.hold(wallet=wallet, amount=Decimal(30), purpose="p", idempotency_key="h")
    from audit import services as audit

    services.request_money(
        wallet=wallet,
        kind="DEPOSIT",
        amount=Decimal(5),
        reason="",
        idempotency_key="d",
        by=lena.owner,
        actor=audit.SYSTEM,
    )
    return wallet


def without_guards(*tables: Any) -> None:
    """Disable the triggers of these tables and drop their constraints."""
    with connections["owner"].cursor() as cursor:
        for table in tables:
            cursor.execute(f"alter table {table} disable trigger user")
            cursor.execute(
                "select conname from pg_constraint where conrelid = %s::regclass and contype in ('c', 'f')", [table]
            )
            for (name,) in cursor.fetchall():
                cursor.execute(f'alter table {table} drop constraint "{name}"')


def output(**options: Any) -> tuple[str, str]:
    """What the command prints, and its error."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("ledger_check", stdout=out, stderr=err, **options)
    except CommandError as error:
        return err.getvalue(), str(error)
    return out.getvalue(), ""


ENTRIES, TRANSFERS, WALLETS = "ledger_entries", "ledger_transfers", "wallets"
PLANTED = [
    ("the balances of a currency add up to zero", [WALLETS], "update wallets set balance = balance + 1 where owner_id is not null and balance > 0"),
    ("a balance is the sum of its entries, without a gap", [WALLETS], "update wallets set balance = balance - 1 where balance > 0"),
    ("a balance is the sum of its entries, without a gap", [ENTRIES, TRANSFERS, WALLETS], "delete from ledger_entries where version = 2"),
    ("an entry continues from the balance before", [ENTRIES, TRANSFERS, WALLETS], "update ledger_entries set balance_after = balance_after + 1 where version = 1"),
    ("a transfer is one debit and one credit of its amount", [TRANSFERS], "update ledger_transfers set amount = amount + 1"),
    ("a transfer is one debit and one credit of its amount", [ENTRIES, TRANSFERS, WALLETS], "delete from ledger_entries where side = -1"),
    ("no wallet is overdrawn", [WALLETS], "update wallets set held = balance + 1 where owner_id is not null"),
    ("the held amount equals the pending holds", [WALLETS], "update wallets set held = 0"),
    ("the held amount equals the pending holds", ["wallet_holds"], "update wallet_holds set state = 'VOIDED', resolved_at = now()"),
    ("a transfer has one request", [TRANSFERS, "ledger_requests"], "update ledger_requests set outcome = '{}'"),
    ("a money request moved its own amount", ["money_requests"], "update money_requests set amount = amount + 1"),
    ("settled periods have no gap", ["settlements"], "delete from settlements where period_no = 0"),
    ("a settled fee has a claim of the same amount", ["settlements"], "update settlements set fee = fee + 0.00000001 where period_no = 1"),
    ("a settled fee has a claim of the same amount", ["fee_claims", TRANSFERS], "delete from fee_claims"),
    ("a claim agrees with its transfers", ["fee_claims"], "update fee_claims set collected = collected - 1"),
]  # fmt: skip


def test_correct_books_pass(books: Any) -> None:
    printed, error = output()

    assert error == ""
    assert printed == f"{len(checks.INVARIANTS) + 1} invariants hold.\n"


@pytest.mark.breaks_the_books
@pytest.mark.parametrize(
    ("invariant", "guards", "planted"),
    PLANTED,
    ids=[f"{invariant}: {planted[:40]}" for invariant, _, planted in PLANTED],
)
def test_names_the_broken_invariant(books: Any, invariant: str, guards: list[Any], planted: str) -> None:
    without_guards(*guards)
    as_owner(planted)

    printed, error = output()

    assert f"{invariant}: violated by " in printed
    assert "The ledger is halted" in error


@pytest.mark.breaks_the_books
@pytest.mark.parametrize("name", ["ledger_entries.append_only", "wallets.wallet_balance_is_its_last_entrys"])
def test_a_missing_guard_halts_the_ledger(books: Any, name: str) -> None:
    table, _, guard = name.partition(".")
    is_trigger = f"trigger {name}" in catalogue.wanted()
    as_owner(f"alter table {table} " + (f"disable trigger {guard}" if is_trigger else f"drop constraint {guard}"))

    printed, error = output()

    assert f"{IN_PLACE}: violated by {'trigger' if is_trigger else 'constraint'} {name}. It is " in printed
    assert "The ledger is halted" in error
    assert ledger_halt.halted()


DEPLOYING = {
    "a function that migrate is about to replace": (
        "create or replace function house_shards() returns int language sql immutable as 'select 64'"
    ),
    "an index that is more than wanted": "create index more_idx on wallets (currency)",
}


@pytest.mark.breaks_the_books
@pytest.mark.parametrize("statement", DEPLOYING.values(), ids=DEPLOYING)
def test_a_deployment_is_reported_and_stops_no_money(books: Any, statement: Any) -> None:
    as_owner(statement)

    assert ledger_halt.check() != []
    assert not ledger_halt.halted()


@pytest.mark.breaks_the_books
def test_the_database_of_a_newer_version_stops_no_money(books: Any) -> None:
    as_owner("drop trigger never_deleted on wallets", "update sql_functions set version = '99.0'")
    ledger_halt.check()
    assert not ledger_halt.halted()

    as_owner("update sql_functions set version = '0.0.1'")  # the control
    ledger_halt.check()
    assert ledger_halt.halted()


@pytest.mark.breaks_the_books
def test_a_newer_version_hides_no_trigger_that_is_switched_off(books: Any) -> None:
    as_owner("alter table wallets disable trigger never_deleted", "update sql_functions set version = '99.0'")

    ledger_halt.check()

    assert ledger_halt.halted()


@pytest.mark.breaks_the_books
def test_a_fault_halts_the_ledger_until_it_is_fixed(books: Any, finn: TradingAccount) -> None:
    as_owner("alter table wallets disable trigger user", "update wallets set held = 0 where owner_id is not null")
    output()
    for _ in range(2):
        with pytest.raises(services.LedgerHalted):
            pay_in(finn, "1")
    assert "faults" in output(resume=True)[1]
    assert ledger_halt.halted()

    as_owner(f"update wallets set held = 30 where id = {books.pk}")
    triggers = [subject for subject in catalogue.wanted() if subject.startswith("trigger wallets.")]
    as_owner(*[f"alter table wallets enable always trigger {subject.partition('.')[2]}" for subject in triggers])
    assert "still halted" in output()[1]
    assert output(resume=True) == (f"{len(checks.INVARIANTS) + 1} invariants hold.\nMoney moves again.\n", "")
    before = balance(finn)
    pay_in(finn, "1")
    assert balance(finn) == before + 1


@pytest.mark.breaks_the_books
def test_repeated_checks_halt_once(books: Any) -> None:
    without_guards(WALLETS)
    as_owner("update wallets set held = 0")
    for _ in range(3):
        output()

    assert LedgerHalt.objects.count() == 1


@pytest.mark.breaks_the_books
def test_lists_only_the_first_faults(books: Any) -> None:
    for number in range(FIRST + 5):
        services.deposit(wallet=books, amount=Decimal(1), note="", idempotency_key=f"n{number}")
    without_guards(TRANSFERS)
    as_owner("update ledger_transfers set amount = amount + 1")

    printed, _ = output()

    assert printed.count("a transfer is one debit and one credit of its amount: violated by ") == FIRST
    assert LedgerTransfer.objects.count() > FIRST
