"""What is held cannot be spent otherwise; it is posted, voided or expires, once."""

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from accounts.authentication import IdempotencyConflict
from audit import services as audit
from audit.models import AuditLog
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import Kind, WalletHold


@pytest.fixture
def rich(finn):
    pay_in(finn, "100")
    return finn


def hold(account, amount="40", key="h", purpose="p", **more):
    return services.hold(
        wallet=usd(account), amount=Decimal(amount), purpose=purpose, idempotency_key=key, **more
    )  # fmt: skip


def post(account, held, amount="40", key="post"):
    return services.post(
        wallet=usd(account), hold_id=held, amount=Decimal(amount), kind=Kind.WITHDRAWAL, note="", idempotency_key=key
    )


def debit(account, amount, key="d"):
    return services.debit_wallet(
        wallet=usd(account), amount=Decimal(amount), kind=Kind.WITHDRAWAL, note="", idempotency_key=key
    )


def test_what_is_held_stays_and_cannot_be_spent(rich):
    hold(rich)

    wallet = usd(rich)
    assert (wallet.balance, wallet.held, wallet.available, wallet.version) == (100, 40, 60, 1)
    with pytest.raises(services.InsufficientFunds):
        debit(rich, "61")
    assert debit(rich, "60", key="d2").balance == 40


def test_more_than_there_is_is_not_held(rich):
    hold(rich, "70")

    with pytest.raises(services.InsufficientFunds):
        hold(rich, "31", key="h2", purpose="q")

    assert usd(rich).held == 70


def test_up_to_holds_what_there_is(rich):
    hold(rich, "500", up_to=True)

    assert usd(rich).held == 100


@pytest.mark.parametrize("amount", ["0", "-1", "0.000000001", "NaN"])
def test_an_amount_that_is_none_is_not_held(rich, amount):
    with pytest.raises(services.AmountInvalid):
        hold(rich, amount)


def test_a_frozen_wallet_holds_nothing_more(rich):
    services.freeze(wallet=usd(rich), reason="r", actor=audit.SYSTEM)

    with pytest.raises(services.WalletFrozen):
        hold(rich)


def test_the_same_key_is_the_same_hold_and_for_something_else_a_conflict(rich):
    assert hold(rich) == hold(rich)
    with pytest.raises(IdempotencyConflict):
        hold(rich, "41")

    assert usd(rich).held == 40


def test_a_posted_hold_spends_what_was_asked_and_frees_the_rest(rich):
    held = hold(rich)

    moved = post(rich, held, "30")

    assert (moved.balance, moved.version, usd(rich).held) == (70, 2, 0)
    found = WalletHold.objects.get(pk=held)
    assert (found.state, found.posted, found.transfer_id) == ("POSTED", 30, moved.transfer_id)


def test_a_post_again_is_the_same_under_its_key_and_refused_under_another(rich):
    held = hold(rich)
    post(rich, held)

    assert post(rich, held).replayed
    with pytest.raises(services.HoldResolved):
        post(rich, held, key="post2")

    assert balance(rich) == 60


def test_no_more_is_posted_than_is_held(rich):
    held = hold(rich)

    with pytest.raises(services.AmountInvalid):
        post(rich, held, "40.00000001")

    assert usd(rich).held == 40


def test_a_void_frees_it_and_again_is_no_error(rich):
    held = hold(rich)

    services.void(hold_id=held)
    services.void(hold_id=held)

    assert (usd(rich).available, usd(rich).version) == (100, 1)
    with pytest.raises(services.HoldResolved):
        post(rich, held)


def test_what_was_posted_cannot_be_voided(rich):
    held = hold(rich)
    post(rich, held)

    with pytest.raises(services.HoldResolved):
        services.void(hold_id=held)

    assert balance(rich) == 60


def test_an_overdue_hold_cannot_be_spent_and_its_money_is_free_once_it_expired(rich):
    held = hold(rich, expires_at=timezone.now() - timedelta(seconds=1))

    with pytest.raises(services.HoldExpired):
        post(rich, held)
    assert usd(rich).held == 40
    services.expire(hold_id=held)

    assert usd(rich).available == 100
    with pytest.raises(services.HoldExpired):
        post(rich, held, key="post2")


def test_a_hold_that_is_not_there_is_not_found(rich, lena):
    with pytest.raises(services.HoldNotFound):
        services.void(hold_id=uuid.uuid4())
    with pytest.raises(services.HoldNotFound):
        post(lena, hold(rich))


def test_each_step_of_a_hold_is_recorded(rich):
    services.void(hold_id=hold(rich))
    post(rich, hold(rich, key="h2"))

    actions = AuditLog.objects.filter(subject=f"wallet:{usd(rich).pk}").order_by("id").values_list("action", flat=True)
    assert list(actions) == ["money.moved", "money.held", "money.released", "money.held", "money.moved"]
