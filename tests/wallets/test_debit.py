"""A debit is done once, whole, or refused with a code and kept so."""

from decimal import Decimal

import pytest

from accounts.authentication import IdempotencyConflict
from audit import services as audit
from audit.models import AuditLog
from core.errors import Invalid
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import Kind, LedgerEntry, LedgerTransfer, Wallet


def debit(account, amount="1", key="k", kind=Kind.FEE_PERFORMANCE, note=""):
    wallet = account if isinstance(account, Wallet) else usd(account)
    return services.debit_wallet(wallet=wallet, amount=Decimal(amount), kind=kind, note=note, idempotency_key=key)


def test_a_debit_takes_the_amount_and_says_what_is_left(finn):
    pay_in(finn, "100")

    moved = debit(finn, "30.00000001")

    assert (moved.balance, moved.version, moved.replayed) == (Decimal("69.99999999"), 2, False)
    assert balance(finn) == moved.balance


def test_versions_grow_by_one_and_each_is_an_entry(finn):
    pay_in(finn, "100")

    versions = [debit(finn, key=f"k{number}").version for number in range(3)]

    assert versions == [2, 3, 4]
    entries = LedgerEntry.objects.filter(wallet=usd(finn)).order_by("version")
    assert [entry.version for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.balance_after for entry in entries] == [0, 100, 99, 98, 97]


def test_the_house_has_what_was_taken(finn):
    pay_in(finn, "100")

    moved = debit(finn, "30")

    transfer = LedgerTransfer.objects.get(pk=moved.transfer_id)
    assert (transfer.debit, transfer.credit.kind, transfer.credit.balance) == (usd(finn), Wallet.Kind.FEES, 30)


@pytest.mark.parametrize("amount", ["-1", "0", "0.000000001", "NaN", "sNaN", "Infinity", "1E+12"])
def test_an_amount_that_is_none_is_refused(finn, amount):
    pay_in(finn, "100")

    with pytest.raises(services.AmountInvalid):
        debit(finn, amount)

    assert (balance(finn), usd(finn).version) == (100, 1)


def test_a_float_is_refused(finn):
    with pytest.raises(services.AmountInvalid):
        services.debit_wallet(wallet=usd(finn), amount=1.0, kind=Kind.WITHDRAWAL, note="", idempotency_key="k")


def test_a_wallet_that_is_missing_is_not_found(desk_db):
    with pytest.raises(services.WalletNotFound):
        debit(Wallet(pk=10**9))


@pytest.mark.parametrize("key", ["", "k" * 201, "a\0b"])
def test_a_key_that_is_none_is_refused(finn, key):
    with pytest.raises(Invalid):
        debit(finn, key=key)


@pytest.mark.parametrize("kind", ["ROBBERY", Kind.TRANSFER])
def test_a_kind_that_is_no_debit_is_refused(finn, kind):
    with pytest.raises(Invalid):
        debit(finn, kind=kind)


def test_a_frozen_wallet_gives_nothing_and_still_takes(finn):
    pay_in(finn, "100")
    services.freeze(wallet=usd(finn), reason="r", actor=audit.SYSTEM)

    with pytest.raises(services.WalletFrozen):
        debit(finn)
    pay_in(finn, "5")
    services.unfreeze(wallet=usd(finn), reason="r", actor=audit.SYSTEM)

    assert debit(finn, key="k2").balance == 104


def test_the_same_key_answers_the_same_and_moves_nothing(finn):
    pay_in(finn, "100")
    first = debit(finn, "10")
    debit(finn, "1", key="k2")

    again = debit(finn, "10", note="another note")

    assert again.replayed
    assert (again.transfer_id, again.balance, again.version) == (first.transfer_id, first.balance, first.version)
    assert balance(finn) == 89


@pytest.mark.parametrize("other", [{"amount": "11"}, {"kind": Kind.WITHDRAWAL}])
def test_the_same_key_for_something_else_is_a_conflict(finn, other):
    pay_in(finn, "100")
    debit(finn, "10")

    with pytest.raises(IdempotencyConflict):
        debit(finn, **{"amount": "10", **other})

    assert balance(finn) == 90


def test_a_key_is_a_wallets_own(lena, finn):
    pay_in(lena, "100")
    pay_in(finn, "100")

    assert not debit(lena).replayed
    assert not debit(finn).replayed


def test_what_was_too_much_stays_refused_under_its_key_and_a_new_key_works(finn):
    with pytest.raises(services.InsufficientFunds) as no:
        debit(finn, "10")
    assert not no.value.replayed
    pay_in(finn, "100")

    with pytest.raises(services.InsufficientFunds) as no:
        debit(finn, "10")

    assert no.value.replayed
    assert balance(finn) == 100
    assert debit(finn, "10", key="k2").balance == 90


def test_all_of_it_can_be_taken_and_not_a_hundred_millionth_more(finn):
    pay_in(finn, "100")

    with pytest.raises(services.InsufficientFunds):
        debit(finn, "100.00000001")

    assert debit(finn, "100", key="k2").balance == 0


def test_what_was_done_and_what_was_refused_are_recorded(finn):
    pay_in(finn, "100")
    log = AuditLog.objects.filter(subject=f"wallet:{usd(finn).pk}")
    before = log.count()

    debit(finn, "10")
    debit(finn, "10")
    with pytest.raises(services.InsufficientFunds):
        debit(finn, "91", key="k2")

    assert log.count() == before + 2
