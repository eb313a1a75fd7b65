"""debit_wallet, deposit, transfer, reverse: each refusal with its code, each key for ever."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from accounts.models import TradingAccount
from audit.models import AuditLog
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import LedgerEntry, TransferKind, Wallet


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    pay_in(finn, "100")
    return usd(finn)


def debit(wallet: Any, amount: str = "10", key: str = "k", kind: Any = TransferKind.FEE_PERFORMANCE) -> Any:
    return services.debit_wallet(wallet=wallet, amount=Decimal(amount), kind=kind, note="a note", idempotency_key=key)


def test_takes_what_it_says_and_grows_the_version_by_one(wallet: Wallet) -> None:
    moved = debit(wallet)

    wallet.refresh_from_db()
    assert (wallet.balance, wallet.version) == (90, 2) == (moved.balance, moved.version)
    assert not moved.replayed


def test_the_same_key_answers_the_same_for_ever(wallet: Wallet, finn: TradingAccount) -> None:
    first = debit(wallet)
    pay_in(finn, "500")
    again = debit(wallet)

    assert (again.transfer_id, again.balance, again.replayed) == (first.transfer_id, 90, True)
    assert balance(finn) == 590


@pytest.mark.parametrize("other", [{"amount": "11"}, {"kind": TransferKind.WITHDRAWAL}])
def test_the_same_key_for_something_else_is_refused(
    wallet: Wallet, finn: TradingAccount, other: dict[str, Any]
) -> None:
    debit(wallet)

    with pytest.raises(services.IdempotencyConflict):
        debit(wallet, **other)
    assert balance(finn) == 90


def test_a_deposits_key_is_no_debits(wallet: Wallet) -> None:
    services.deposit(wallet=wallet, amount=Decimal(10), note="", idempotency_key="k")

    with pytest.raises(services.IdempotencyConflict):
        debit(wallet)


def test_another_wallet_has_keys_of_its_own(wallet: Wallet, lena: TradingAccount) -> None:
    pay_in(lena, "50")
    debit(wallet)

    assert not debit(usd(lena)).replayed


@pytest.mark.parametrize("amount", ["0", "-50", "0.000000001", "NaN", "Infinity", "1e13", "-0.00000001"])
def test_what_is_no_amount_is_refused(wallet: Wallet, finn: TradingAccount, amount: str) -> None:
    """A negative debit would be a credit."""
    for verb in (debit, lambda wallet, amount: services.deposit(
        wallet=wallet, amount=Decimal(amount), note="", idempotency_key="d")):  # fmt: skip
        with pytest.raises(services.AmountInvalid):
            verb(wallet, amount)
    assert balance(finn) == 100


def test_a_float_is_refused(wallet: Wallet) -> None:
    with pytest.raises(services.AmountInvalid, match="never a float"):
        services.debit_wallet(wallet=wallet, amount=0.1, kind=TransferKind.WITHDRAWAL, note="", idempotency_key="k")


def test_more_than_there_is_is_refused_for_ever_under_its_key(wallet: Wallet, finn: TradingAccount) -> None:
    with pytest.raises(services.InsufficientFunds) as no:
        debit(wallet, "100.00000001")
    pay_in(finn, "500")
    with pytest.raises(services.InsufficientFunds):
        debit(wallet, "100.00000001")

    assert no.value.extra == {"available": "100.00000000", "currency": "USD"}
    assert debit(wallet, "100.00000001", key="another").balance == Decimal("499.99999999")


def test_to_the_last_unit(wallet: Wallet, finn: TradingAccount) -> None:
    debit(wallet, "99.99999999", "a")
    debit(wallet, "0.00000001", "b")

    assert balance(finn) == 0


def test_a_wallet_that_is_not_there_is_told_so(cast: dict[str, Any]) -> None:
    with pytest.raises(services.WalletNotFound):
        debit(Wallet(pk=999_999))


def test_a_kind_that_is_no_debits_is_refused(wallet: Wallet) -> None:
    with pytest.raises(services.Invalid):
        debit(wallet, kind="GIFT")


def test_a_deposit_can_be_taken_back(wallet: Wallet, finn: TradingAccount) -> None:
    debit(wallet, "100", kind=TransferKind.DEPOSIT)

    assert balance(finn) == 0
    assert Wallet.objects.get(kind=Wallet.Kind.CASH_IN).balance == 0


def test_nothing_goes_out_of_a_frozen_wallet_and_all_comes_in(wallet: Wallet, finn: TradingAccount) -> None:
    services.freeze(wallet=wallet, reason="dispute", actor=services.audit.SYSTEM)
    with pytest.raises(services.WalletFrozen):
        debit(wallet)
    pay_in(finn, "5")
    services.unfreeze(wallet=wallet, reason="settled", actor=services.audit.SYSTEM)

    assert debit(wallet, key="later").balance == 95


def test_each_movement_leaves_a_fact(wallet: Wallet) -> None:
    debit(wallet)
    with pytest.raises(services.InsufficientFunds):
        debit(wallet, "1000", "too much")

    moved = AuditLog.objects.filter(subject=f"wallet:{wallet.pk}", action="money.moved").latest("id")
    refused = AuditLog.objects.get(action="money.refused")
    assert (moved.detail["amount"], moved.detail["kind"], moved.detail["note"]) == (
        "10.00000000",
        "FEE_PERFORMANCE",
        "a note",
    )
    assert (refused.code, refused.subject) == ("insufficient_funds", f"wallet:{wallet.pk}")


def test_a_wallet_that_another_holds_is_busy_at_once(wallet: Wallet) -> None:
    """NOWAIT: whoever waits in a line holds up everybody behind."""
    from tests.races.test_wallet_races import all_at_once

    with transaction.atomic():
        Wallet.objects.lock().get(pk=wallet.pk)
        told = all_at_once(lambda: debit(wallet))

    assert told == {"wallet_busy": 1}
    assert not debit(wallet).replayed  # nothing was kept under the key


def test_within_a_transaction_it_is_part_of_it(wallet: Wallet, finn: TradingAccount) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        debit(wallet)
        raise RuntimeError

    assert balance(finn) == 100
    assert not debit(wallet).replayed


def test_a_transfer_moves_from_one_to_the_other(wallet: Wallet, lena: TradingAccount, finn: TradingAccount) -> None:
    services.transfer(source=wallet, target=usd(lena), amount=Decimal(30), note="", idempotency_key="t")

    assert (balance(finn), balance(lena)) == (70, 30)


def test_currencies_do_not_mix(wallet: Wallet, lena: TradingAccount) -> None:
    euro = services.wallet_of(owner=lena.owner, currency="EUR")

    with pytest.raises(services.CurrencyMismatch):
        services.transfer(source=wallet, target=euro, amount=Decimal(30), note="", idempotency_key="t")


def test_a_transfer_to_oneself_is_none(wallet: Wallet) -> None:
    with pytest.raises(services.AmountInvalid):
        services.transfer(source=wallet, target=wallet, amount=Decimal(30), note="", idempotency_key="t")


def test_a_transfer_is_undone_once(wallet: Wallet, finn: TradingAccount) -> None:
    moved = debit(wallet)
    services.reverse(transfer_id=moved.transfer_id, note="a mistake", idempotency_key="r")

    with pytest.raises(services.ReversedAlready):
        services.reverse(transfer_id=moved.transfer_id, note="again", idempotency_key="r2")
    assert balance(finn) == 100


def test_a_reversal_is_not_undone(wallet: Wallet) -> None:
    undone = services.reverse(transfer_id=debit(wallet).transfer_id, note="", idempotency_key="r")

    with pytest.raises(services.ReversedAlready):
        services.reverse(transfer_id=undone, note="", idempotency_key="r2")


def test_what_was_spent_since_cannot_be_taken_back(finn: TradingAccount, lena: TradingAccount) -> None:
    pay_in(finn, "100")
    moved = services.transfer(source=usd(finn), target=usd(lena), amount=Decimal(30), note="", idempotency_key="t")
    debit(usd(lena), "10")

    with pytest.raises(services.InsufficientFunds):
        services.reverse(transfer_id=moved.transfer_id, note="", idempotency_key="r")


def test_a_large_transfer_is_not_undone_by_one(finn: TradingAccount) -> None:
    pay_in(finn, "5000")
    moved = debit(usd(finn), "1000.00000001")

    with pytest.raises(services.SecondPersonNeeded):
        services.reverse(transfer_id=moved.transfer_id, note="", idempotency_key="r")


def test_the_house_keeps_its_fees_in_many_rows(lena: TradingAccount, finn: TradingAccount, sam: TradingAccount) -> None:
    for account in (lena, finn, sam):
        pay_in(account, "10")
        debit(usd(account), "1")

    assert Wallet.objects.filter(kind=Wallet.Kind.FEES).count() == 3
    assert LedgerEntry.objects.filter(wallet__kind=Wallet.Kind.FEES, version__gt=0).count() == 3
