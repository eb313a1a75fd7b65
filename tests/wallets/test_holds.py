"""Money set aside: it cannot be spent, and is resolved once."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import TradingAccount
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import TransferKind, Wallet, WalletHold
from wallets.services import settlement


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    pay_in(finn, "100")
    return usd(finn)


def hold(wallet: Any, amount: str = "40", key: str = "h", **more: Any) -> Any:
    return services.hold(wallet=wallet, amount=Decimal(amount), purpose=f"p-{key}", idempotency_key=key, **more)


def post(wallet: Any, held: Any, amount: str = "40", key: str = "post") -> Any:
    return services.post(
        wallet=wallet, hold_id=held, amount=Decimal(amount), kind=TransferKind.WITHDRAWAL, note="", idempotency_key=key
    )


def test_what_is_held_cannot_be_spent(wallet: Wallet, finn: TradingAccount) -> None:
    hold(wallet)

    with pytest.raises(services.InsufficientFunds):
        services.debit_wallet(
            wallet=wallet, amount=Decimal(61), kind=TransferKind.WITHDRAWAL, note="", idempotency_key="w"
        )
    assert (balance(finn), usd(finn).available) == (100, 60)


def test_what_is_held_cannot_be_held_again(wallet: Wallet) -> None:
    hold(wallet)

    with pytest.raises(services.InsufficientFunds):
        hold(wallet, "61", "h2")


def test_up_to_takes_what_is_there(wallet: Wallet, finn: TradingAccount) -> None:
    hold(wallet, "500", up_to=True)

    assert usd(finn).held == 100


def test_posting_spends_it_and_the_rest_goes_back(wallet: Wallet, finn: TradingAccount) -> None:
    post(wallet, hold(wallet), "15")

    assert (balance(finn), usd(finn).held) == (85, 0)


def test_more_than_was_held_cannot_be_posted(wallet: Wallet, finn: TradingAccount) -> None:
    held = hold(wallet)

    with pytest.raises(services.AmountInvalid):
        post(wallet, held, "40.00000001")
    assert usd(finn).held == 40


def test_a_hold_is_posted_once(wallet: Wallet, finn: TradingAccount) -> None:
    held = hold(wallet)
    post(wallet, held)

    with pytest.raises(services.HoldResolved):
        post(wallet, held, key="again")
    assert post(wallet, held).replayed
    assert balance(finn) == 60


def test_what_was_given_back_cannot_be_posted(wallet: Wallet) -> None:
    held = hold(wallet)
    services.void(hold_id=held)
    services.void(hold_id=held)

    with pytest.raises(services.HoldResolved):
        post(wallet, held)


def test_what_was_posted_cannot_be_given_back(wallet: Wallet) -> None:
    held = hold(wallet)
    post(wallet, held)

    with pytest.raises(services.HoldResolved):
        services.void(hold_id=held)


def test_a_hold_of_another_wallet_is_not_there(wallet: Wallet, lena: TradingAccount) -> None:
    held = hold(wallet)
    pay_in(lena, "100")

    with pytest.raises(services.HoldNotFound):
        post(usd(lena), held)


def test_the_same_key_is_the_same_hold(wallet: Wallet, finn: TradingAccount) -> None:
    assert hold(wallet) == hold(wallet)
    assert usd(finn).held == 40
    with pytest.raises(services.IdempotencyConflict):
        hold(wallet, "41")


def test_an_overdue_hold_cannot_be_spent_and_goes_back(wallet: Wallet, finn: TradingAccount) -> None:
    now = timezone.now()
    held = hold(wallet, expires_at=now - timedelta(seconds=1))
    with pytest.raises(services.HoldExpired):
        post(wallet, held)

    assert settlement.sweep(now=now)["expired"] == 0 or usd(finn).held == 0
    assert (WalletHold.objects.get().state, usd(finn).held) == ("EXPIRED", 0)


def test_nothing_is_held_of_a_frozen_wallet(wallet: Wallet) -> None:
    services.freeze(wallet=wallet, reason="", actor=services.audit.SYSTEM)

    with pytest.raises(services.WalletFrozen):
        hold(wallet)
