"""Money that waits for a second person."""

from decimal import Decimal
from typing import Any

import pytest
from pytest_django import Settings

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import MoneyRequest, Wallet

WHO = audit.SYSTEM


@pytest.fixture(autouse=True)
def _limit(settings: Settings) -> None:
    settings.SECOND_PERSON_ABOVE = Decimal(50)


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    pay_in(finn, "100")
    return usd(finn)


@pytest.fixture
def other(cast: dict[str, Any]) -> User:
    return User.objects.create(username="other", is_staff=True)


def ask(wallet: Any, by: Any, kind: str = "DEPOSIT", amount: str = "60", key: str = "k") -> Any:
    return services.request_money(
        wallet=wallet, kind=kind, amount=Decimal(amount), reason="why", idempotency_key=key, by=by, actor=WHO
    )


@pytest.mark.parametrize(
    ("kind", "amount", "left"),
    [("DEPOSIT", "50", 150), ("WITHDRAWAL", "50", 50), ("ADJUSTMENT", "50", 150), ("ADJUSTMENT", "-50", 50)],
)
def test_up_to_the_limit_it_is_done_at_once(
    wallet: Wallet, finn: TradingAccount, staff: User, kind: str, amount: str, left: int
) -> None:
    assert ask(wallet, staff, kind, amount).state == "DONE"
    assert balance(finn) == left


@pytest.mark.parametrize(
    ("kind", "amount", "left"),
    [("DEPOSIT", "51", 151), ("WITHDRAWAL", "51", 49), ("ADJUSTMENT", "51", 151), ("ADJUSTMENT", "-51", 49)],
)
def test_above_it_a_second_person_decides(
    wallet: Wallet, finn: TradingAccount, staff: User, other: User, kind: str, amount: str, left: int
) -> None:
    asked = ask(wallet, staff, kind, amount)
    assert (asked.state, balance(finn)) == ("PENDING", 100)

    with pytest.raises(services.SecondPersonNeeded):
        services.approve(request=asked, by=staff, actor=WHO)
    services.approve(request=asked, by=other, actor=WHO)

    assert balance(finn) == left
    assert MoneyRequest.objects.get().decided_by == other


def test_a_withdrawal_that_waits_is_held(wallet: Wallet, finn: TradingAccount) -> None:
    ask(wallet, finn.owner, "WITHDRAWAL")

    assert usd(finn).held == 60
    with pytest.raises(services.InsufficientFunds):
        ask(wallet, finn.owner, "WITHDRAWAL", "41", "k2")


def test_what_is_rejected_is_free_again(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    asked = ask(wallet, finn.owner, "WITHDRAWAL")
    services.reject(request=asked, by=staff, reason="no", actor=WHO)

    assert (usd(finn).held, balance(finn), MoneyRequest.objects.get().state) == (0, 100, "REJECTED")


@pytest.mark.parametrize("first", ["approve", "reject"])
def test_it_is_decided_once(wallet: Wallet, finn: TradingAccount, staff: User, first: str) -> None:
    asked = ask(wallet, finn.owner, "WITHDRAWAL")
    verbs = {
        "approve": lambda: services.approve(request=asked, by=staff, actor=WHO),
        "reject": lambda: services.reject(request=asked, by=staff, reason="", actor=WHO),
    }
    verbs[first]()

    for again in verbs.values():
        with pytest.raises(services.RequestDecided):
            again()


def test_nobody_decides_on_their_own_wallet(staff: User, other: User) -> None:
    mine = services.wallet_of(owner=staff, currency="USD")
    asked = ask(mine, other)

    with pytest.raises(services.SecondPersonNeeded):
        services.approve(request=asked, by=staff, actor=WHO)


@pytest.mark.parametrize(("kind", "amount"), [("DEPOSIT", "1"), ("ADJUSTMENT", "1"), ("ADJUSTMENT", "-1")])
def test_nobody_brings_money_into_their_own_wallet_alone(staff: User, kind: str, amount: str) -> None:
    mine = services.wallet_of(owner=staff, currency="USD")

    assert ask(mine, staff, kind, amount).state == "PENDING"


@pytest.mark.parametrize("amount", ["0", "-1", "0.000000001"])
def test_what_is_no_amount_is_refused(wallet: Wallet, staff: User, amount: str) -> None:
    for kind in ("DEPOSIT", "WITHDRAWAL"):
        with pytest.raises(services.AmountInvalid):
            ask(wallet, staff, kind, amount)
    assert not MoneyRequest.objects.exists()


def test_the_same_key_is_the_same_request(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    assert ask(wallet, staff) == ask(wallet, staff)
    with pytest.raises(services.IdempotencyConflict):
        ask(wallet, staff, amount="61")
    assert MoneyRequest.objects.count() == 1


def test_what_cannot_be_paid_is_no_request(wallet: Wallet, finn: TradingAccount) -> None:
    for _ in range(2):
        with pytest.raises(services.InsufficientFunds):
            ask(wallet, finn.owner, "WITHDRAWAL", "101")

    assert not MoneyRequest.objects.exists()


def test_an_approval_that_was_refused_can_be_given_later(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    asked = ask(wallet, finn.owner, "WITHDRAWAL")
    services.freeze(wallet=wallet, reason="", actor=WHO)
    with pytest.raises(services.WalletFrozen):
        services.approve(request=asked, by=staff, actor=WHO)
    services.unfreeze(wallet=wallet, reason="", actor=WHO)

    assert services.approve(request=asked, by=staff, actor=WHO).state == "DONE"


def test_each_step_leaves_a_fact(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    services.approve(request=ask(wallet, finn.owner, "WITHDRAWAL"), by=staff, actor=WHO)

    told = AuditLog.objects.filter(subject=f"wallet:{wallet.pk}", action__in=["money.requested", "money.approved"])
    assert list(told.order_by("id").values_list("action", "detail__amount")) == [
        ("money.requested", "60.00000000"),
        ("money.approved", "60.00000000"),
    ]
