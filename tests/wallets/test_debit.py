"""debit_wallet, deposit, transfer and reverse: each refusal has its code; a key is bound to one request for ever."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from accounts.models import TradingAccount
from audit import services as audit
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


def test_debits_the_amount_and_increments_the_version(wallet: Wallet) -> None:
    result = debit(wallet)

    wallet.refresh_from_db()
    assert (wallet.balance, wallet.version) == (90, 2) == (result.balance, result.version)
    assert not result.replayed


def test_a_repeat_with_the_same_key_gets_the_first_outcome_for_ever(wallet: Wallet, finn: TradingAccount) -> None:
    first = debit(wallet)
    pay_in(finn, "500")
    repeat = debit(wallet)

    assert (repeat.transfer_id, repeat.balance, repeat.replayed) == (first.transfer_id, 90, True)
    assert balance(finn) == 590


@pytest.mark.parametrize("other", [{"amount": "11"}, {"kind": TransferKind.WITHDRAWAL}])
def test_refuses_the_same_key_for_another_request(wallet: Wallet, finn: TradingAccount, other: dict[str, Any]) -> None:
    debit(wallet)

    with pytest.raises(services.IdempotencyConflict):
        debit(wallet, **other)
    assert balance(finn) == 90


def test_refuses_a_debit_under_the_key_of_a_deposit(wallet: Wallet) -> None:
    services.deposit(wallet=wallet, amount=Decimal(10), note="", idempotency_key="k")

    with pytest.raises(services.IdempotencyConflict):
        debit(wallet)


def test_each_wallet_has_its_own_keys(wallet: Wallet, lena: TradingAccount) -> None:
    pay_in(lena, "50")
    debit(wallet)

    assert not debit(usd(lena)).replayed


@pytest.mark.parametrize("amount", ["0", "-50", "0.000000001", "NaN", "Infinity", "1e13", "-0.00000001"])
def test_refuses_an_invalid_amount(wallet: Wallet, finn: TradingAccount, amount: str) -> None:
    """A negative debit would be a credit."""
    for verb in (debit, lambda wallet, amount: services.deposit(
        wallet=wallet, amount=Decimal(amount), note="", idempotency_key="d")):  # fmt: skip
        with pytest.raises(services.AmountInvalid):
            verb(wallet, amount)
    assert balance(finn) == 100


def test_refuses_a_float(wallet: Wallet) -> None:
    with pytest.raises(services.AmountInvalid, match="never a float"):
        services.debit_wallet(wallet=wallet, amount=0.1, kind=TransferKind.ADJUSTMENT, note="", idempotency_key="k")


def test_a_refusal_for_insufficient_funds_stays_under_its_key(wallet: Wallet, finn: TradingAccount) -> None:
    with pytest.raises(services.InsufficientFunds) as caught:
        debit(wallet, "100.00000001")
    pay_in(finn, "500")
    with pytest.raises(services.InsufficientFunds):
        debit(wallet, "100.00000001")

    assert caught.value.extra == {"available": "100.00000000", "currency": "USD"}
    assert debit(wallet, "100.00000001", key="another").balance == Decimal("499.99999999")


def test_the_balance_can_be_spent_to_the_last_unit(wallet: Wallet, finn: TradingAccount) -> None:
    debit(wallet, "99.99999999", "a")
    debit(wallet, "0.00000001", "b")

    assert balance(finn) == 0


def test_refuses_a_wallet_that_does_not_exist(cast: dict[str, Any]) -> None:
    with pytest.raises(services.WalletNotFound):
        debit(Wallet(pk=999_999))


def test_refuses_an_unknown_kind(wallet: Wallet) -> None:
    with pytest.raises(services.Invalid):
        debit(wallet, kind="GIFT")


def test_a_deposit_can_be_debited_again(wallet: Wallet, finn: TradingAccount) -> None:
    debit(wallet, "100", kind=TransferKind.DEPOSIT)

    assert balance(finn) == 0
    assert Wallet.objects.get(kind=Wallet.Kind.CASH_IN).balance == 0


def test_a_frozen_wallet_refuses_debits_and_accepts_credits(wallet: Wallet, finn: TradingAccount) -> None:
    services.freeze(wallet=wallet, reason="dispute", actor=audit.SYSTEM)
    with pytest.raises(services.WalletFrozen):
        debit(wallet)
    pay_in(finn, "5")
    services.unfreeze(wallet=wallet, reason="settled", actor=audit.SYSTEM)

    assert debit(wallet, key="later").balance == 95


def test_each_transfer_and_refusal_leaves_an_audit_row(wallet: Wallet) -> None:
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


def test_a_wallet_locked_by_another_transaction_is_busy_at_once(wallet: Wallet) -> None:
    """NOWAIT: a waiting request would delay all requests behind it."""
    from tests.races.test_wallet_races import all_at_once

    with transaction.atomic():
        Wallet.objects.lock().get(pk=wallet.pk)
        outcomes = all_at_once(lambda: debit(wallet))

    assert outcomes == {"wallet_busy": 1}
    assert not debit(wallet).replayed  # no outcome was stored under the key


def test_inside_a_transaction_a_debit_is_rolled_back_with_it(wallet: Wallet, finn: TradingAccount) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        debit(wallet)
        raise RuntimeError

    assert balance(finn) == 100
    assert not debit(wallet).replayed


def test_a_transfer_moves_money_between_two_wallets(wallet: Wallet, lena: TradingAccount, finn: TradingAccount) -> None:
    services.transfer(source=wallet, target=usd(lena), amount=Decimal(30), note="", idempotency_key="t")

    assert (balance(finn), balance(lena)) == (70, 30)


def test_refuses_a_transfer_between_currencies(wallet: Wallet, lena: TradingAccount) -> None:
    euro = services.wallet_of(owner=lena.owner, currency="EUR")

    with pytest.raises(services.CurrencyMismatch):
        services.transfer(source=wallet, target=euro, amount=Decimal(30), note="", idempotency_key="t")


def test_refuses_a_transfer_to_the_same_wallet(wallet: Wallet) -> None:
    with pytest.raises(services.AmountInvalid):
        services.transfer(source=wallet, target=wallet, amount=Decimal(30), note="", idempotency_key="t")


def test_a_transfer_is_reversed_once(wallet: Wallet, finn: TradingAccount) -> None:
    result = debit(wallet)
    services.reverse(transfer_id=result.transfer_id, note="a mistake", idempotency_key="r")

    with pytest.raises(services.ReversedAlready):
        services.reverse(transfer_id=result.transfer_id, note="again", idempotency_key="r2")
    assert balance(finn) == 100


def test_refuses_to_reverse_a_reversal(wallet: Wallet) -> None:
    reversal_id = services.reverse(transfer_id=debit(wallet).transfer_id, note="", idempotency_key="r")

    with pytest.raises(services.ReversedAlready):
        services.reverse(transfer_id=reversal_id, note="", idempotency_key="r2")


def test_refuses_to_reverse_money_that_is_spent(finn: TradingAccount, lena: TradingAccount) -> None:
    pay_in(finn, "100")
    result = services.transfer(source=usd(finn), target=usd(lena), amount=Decimal(30), note="", idempotency_key="t")
    debit(usd(lena), "10")

    with pytest.raises(services.InsufficientFunds):
        services.reverse(transfer_id=result.transfer_id, note="", idempotency_key="r")


def test_one_person_cannot_reverse_a_large_transfer(finn: TradingAccount) -> None:
    pay_in(finn, "5000")
    result = debit(usd(finn), "1000.00000001")

    with pytest.raises(services.SecondPersonNeeded):
        services.reverse(transfer_id=result.transfer_id, note="", idempotency_key="r")


def test_house_fees_are_spread_over_many_rows(lena: TradingAccount, finn: TradingAccount, sam: TradingAccount) -> None:
    for account in (lena, finn, sam):
        pay_in(account, "10")
        debit(usd(account), "1")

    assert Wallet.objects.filter(kind=Wallet.Kind.FEES).count() == 3
    assert LedgerEntry.objects.filter(wallet__kind=Wallet.Kind.FEES, version__gt=0).count() == 3
