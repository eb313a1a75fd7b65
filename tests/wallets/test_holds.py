"""Holds: the money cannot be spent otherwise, and a hold is resolved once."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import TransferKind, Wallet, WalletHold
from wallets.services import settlement


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    pay_in(finn, "100")
    return usd(finn)


def hold(wallet: Any, amount: str = "40", key: str = "h", **options: Any) -> Any:
    return services.hold(wallet=wallet, amount=Decimal(amount), purpose=f"p-{key}", idempotency_key=key, **options)


def post(wallet: Any, hold_id: Any, amount: str = "40", key: str = "post") -> Any:
    return services.post(
        wallet=wallet,
        hold_id=hold_id,
        amount=Decimal(amount),
        kind=TransferKind.ADJUSTMENT,
        note="",
        idempotency_key=key,
    )


def test_held_money_cannot_be_spent(wallet: Wallet, finn: TradingAccount) -> None:
    hold(wallet)

    with pytest.raises(services.InsufficientFunds):
        services.debit_wallet(
            wallet=wallet, amount=Decimal(61), kind=TransferKind.ADJUSTMENT, note="", idempotency_key="w"
        )
    assert (balance(finn), usd(finn).available) == (100, 60)


def test_held_money_cannot_be_held_again(wallet: Wallet) -> None:
    hold(wallet)

    with pytest.raises(services.InsufficientFunds):
        hold(wallet, "61", "h2")


def test_up_to_holds_at_most_what_is_available(wallet: Wallet, finn: TradingAccount) -> None:
    hold(wallet, "500", up_to=True)

    assert usd(finn).held == 100


def test_posting_spends_a_part_and_releases_the_rest(wallet: Wallet, finn: TradingAccount) -> None:
    post(wallet, hold(wallet), "15")

    assert (balance(finn), usd(finn).held) == (85, 0)


def test_refuses_to_post_more_than_the_hold(wallet: Wallet, finn: TradingAccount) -> None:
    hold_id = hold(wallet)

    with pytest.raises(services.AmountInvalid):
        post(wallet, hold_id, "40.00000001")
    assert usd(finn).held == 40


def test_a_hold_is_posted_once(wallet: Wallet, finn: TradingAccount) -> None:
    hold_id = hold(wallet)
    post(wallet, hold_id)

    with pytest.raises(services.HoldResolved):
        post(wallet, hold_id, key="again")
    assert post(wallet, hold_id).replayed
    assert balance(finn) == 60


def test_a_released_hold_cannot_be_posted(wallet: Wallet) -> None:
    hold_id = hold(wallet)
    services.void(hold_id=hold_id)
    services.void(hold_id=hold_id)

    with pytest.raises(services.HoldResolved):
        post(wallet, hold_id)


def test_a_posted_hold_cannot_be_released(wallet: Wallet) -> None:
    hold_id = hold(wallet)
    post(wallet, hold_id)

    with pytest.raises(services.HoldResolved):
        services.void(hold_id=hold_id)


def test_a_hold_of_another_wallet_is_not_found(wallet: Wallet, lena: TradingAccount) -> None:
    hold_id = hold(wallet)
    pay_in(lena, "100")

    with pytest.raises(services.HoldNotFound):
        post(usd(lena), hold_id)


def test_the_same_key_is_the_same_hold(wallet: Wallet, finn: TradingAccount) -> None:
    assert hold(wallet) == hold(wallet)
    assert usd(finn).held == 40
    with pytest.raises(services.IdempotencyConflict):
        hold(wallet, "41")


def test_an_expired_hold_cannot_be_spent_and_is_released(wallet: Wallet, finn: TradingAccount) -> None:
    now = timezone.now()
    hold_id = hold(wallet, expires_at=now - timedelta(seconds=1))
    with pytest.raises(services.HoldExpired):
        post(wallet, hold_id)

    assert settlement.sweep(now=now)["expired"] == 0 or usd(finn).held == 0
    assert (WalletHold.objects.get().state, usd(finn).held) == ("EXPIRED", 0)


def test_refuses_a_hold_on_a_frozen_wallet(wallet: Wallet) -> None:
    services.freeze(wallet=wallet, reason="", actor=audit.SYSTEM)

    with pytest.raises(services.WalletFrozen):
        hold(wallet)
