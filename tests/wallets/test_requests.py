"""Requests for money, and the second person who decides on those above the limit."""

from decimal import Decimal
from typing import Any

import pytest

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from tests.people import colleague
from tests.wallets.conftest import balance, pay_in, set_limits, usd
from wallets import services
from wallets.models import MoneyRequest, Wallet

ACTOR = audit.SYSTEM


@pytest.fixture(autouse=True)
def _limit(wallet: Wallet) -> None:
    set_limits("50")


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    pay_in(finn, "100")
    return usd(finn)


@pytest.fixture
def other(cast: dict[str, Any]) -> User:
    return colleague("other")


def request(wallet: Any, by: Any, kind: str = "DEPOSIT", amount: str = "60", key: str = "k") -> Any:
    return services.request_money(
        wallet=wallet, kind=kind, amount=Decimal(amount), reason="why", idempotency_key=key, by=by, actor=ACTOR
    )


@pytest.mark.parametrize(
    ("kind", "amount", "left"),
    [("DEPOSIT", "50", 150), ("WITHDRAWAL", "50", 50), ("ADJUSTMENT", "50", 150), ("ADJUSTMENT", "-50", 50)],
)
def test_a_request_up_to_the_limit_is_done_at_once(
    wallet: Wallet, finn: TradingAccount, staff: User, kind: str, amount: str, left: int
) -> None:
    assert request(wallet, staff, kind, amount).state == "DONE"
    assert balance(finn) == left


@pytest.mark.parametrize(
    ("kind", "amount", "left"),
    [("DEPOSIT", "51", 151), ("WITHDRAWAL", "51", 49), ("ADJUSTMENT", "51", 151), ("ADJUSTMENT", "-51", 49)],
)
def test_a_request_above_the_limit_needs_a_second_person(
    wallet: Wallet, finn: TradingAccount, staff: User, other: User, kind: str, amount: str, left: int
) -> None:
    pending = request(wallet, staff, kind, amount)
    assert (pending.state, balance(finn)) == ("PENDING", 100)

    with pytest.raises(services.SecondPersonNeeded):
        services.approve(request=pending, by=staff, actor=ACTOR)
    services.approve(request=pending, by=other, actor=ACTOR)

    assert balance(finn) == left
    assert MoneyRequest.objects.get().decided_by == other


def test_a_pending_withdrawal_holds_its_amount(wallet: Wallet, finn: TradingAccount) -> None:
    request(wallet, finn.owner, "WITHDRAWAL")

    assert usd(finn).held == 60
    with pytest.raises(services.InsufficientFunds):
        request(wallet, finn.owner, "WITHDRAWAL", "41", "k2")


def test_a_rejection_releases_the_hold(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    pending = request(wallet, finn.owner, "WITHDRAWAL")
    services.reject(request=pending, by=staff, reason="no", actor=ACTOR)

    assert (usd(finn).held, balance(finn), MoneyRequest.objects.get().state) == (0, 100, "REJECTED")


@pytest.mark.parametrize("first", ["approve", "reject"])
def test_a_request_is_decided_once(wallet: Wallet, finn: TradingAccount, staff: User, first: str) -> None:
    pending = request(wallet, finn.owner, "WITHDRAWAL")
    verbs = {
        "approve": lambda: services.approve(request=pending, by=staff, actor=ACTOR),
        "reject": lambda: services.reject(request=pending, by=staff, reason="", actor=ACTOR),
    }
    verbs[first]()

    for decide_again in verbs.values():
        with pytest.raises(services.RequestDecided):
            decide_again()


def test_nobody_decides_on_their_own_wallet(staff: User, other: User) -> None:
    own_wallet = services.wallet_of(owner=staff, currency="USD")
    pending = request(own_wallet, other)

    with pytest.raises(services.SecondPersonNeeded):
        services.approve(request=pending, by=staff, actor=ACTOR)


@pytest.mark.parametrize(("kind", "amount"), [("DEPOSIT", "1"), ("ADJUSTMENT", "1"), ("ADJUSTMENT", "-1")])
def test_staff_cannot_credit_their_own_wallet_alone(staff: User, kind: str, amount: str) -> None:
    own_wallet = services.wallet_of(owner=staff, currency="USD")

    assert request(own_wallet, staff, kind, amount).state == "PENDING"


@pytest.mark.parametrize("amount", ["0", "-1", "0.000000001"])
def test_refuses_an_invalid_amount(wallet: Wallet, staff: User, amount: str) -> None:
    for kind in ("DEPOSIT", "WITHDRAWAL"):
        with pytest.raises(services.AmountInvalid):
            request(wallet, staff, kind, amount)
    assert not MoneyRequest.objects.exists()


def test_the_same_key_is_the_same_request(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    assert request(wallet, staff) == request(wallet, staff)
    with pytest.raises(services.IdempotencyConflict):
        request(wallet, staff, amount="61")
    assert MoneyRequest.objects.count() == 1


def test_a_withdrawal_above_the_balance_leaves_no_request(wallet: Wallet, finn: TradingAccount) -> None:
    for _ in range(2):
        with pytest.raises(services.InsufficientFunds):
            request(wallet, finn.owner, "WITHDRAWAL", "101")

    assert not MoneyRequest.objects.exists()


def test_a_refused_approval_can_be_repeated_later(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    pending = request(wallet, finn.owner, "WITHDRAWAL")
    services.freeze(wallet=wallet, reason="", actor=ACTOR)
    with pytest.raises(services.WalletFrozen):
        services.approve(request=pending, by=staff, actor=ACTOR)
    services.unfreeze(wallet=wallet, reason="", actor=ACTOR)

    assert services.approve(request=pending, by=staff, actor=ACTOR).state == "DONE"


def test_each_step_leaves_an_audit_row(wallet: Wallet, finn: TradingAccount, staff: User) -> None:
    services.approve(request=request(wallet, finn.owner, "WITHDRAWAL"), by=staff, actor=ACTOR)

    rows = AuditLog.objects.filter(subject=f"wallet:{wallet.pk}", action__in=["money.requested", "money.approved"])
    assert list(rows.order_by("id").values_list("action", "detail__amount")) == [
        ("money.requested", "60.00000000"),
        ("money.approved", "60.00000000"),
    ]
