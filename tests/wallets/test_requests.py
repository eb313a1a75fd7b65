"""Above the limit a second person decides, and never the wallet's owner."""

from decimal import Decimal

import pytest

from accounts.authentication import IdempotencyConflict
from accounts.models import User
from audit import services as audit
from audit.models import AuditLog
from tests.wallets.conftest import balance, pay_in, usd
from wallets import services
from wallets.models import MoneyRequest


@pytest.fixture(autouse=True)
def limit(settings):
    settings.SECOND_PERSON_ABOVE = Decimal(50)


@pytest.fixture
def other(staff):
    return User.objects.create(username="other", is_staff=True)


def ask(account, by, amount="100", kind="WITHDRAWAL", key="r"):
    return services.request_money(
        wallet=usd(account), kind=kind, amount=Decimal(amount), reason="why", idempotency_key=key, by=by,
        actor=audit.SYSTEM,
    )  # fmt: skip


def approve(request, by):
    return services.approve(request=request, by=by, actor=audit.SYSTEM)


def reject(request, by):
    return services.reject(request=request, by=by, reason="no", actor=audit.SYSTEM)


def test_up_to_the_limit_it_is_done_at_once(finn, staff):
    asked = ask(finn, staff, "50", "DEPOSIT")

    assert (asked.state, asked.decided_by, asked.needs_second) == ("DONE", staff, False)
    assert balance(finn) == 50


@pytest.mark.parametrize(
    ("kind", "amount", "after"), [("DEPOSIT", "50.00000001", "150.00000001"), ("ADJUSTMENT", "-60", "40")]
)
def test_above_the_limit_it_waits_for_a_second_person(finn, staff, other, kind, amount, after):
    pay_in(finn, "100")
    asked = ask(finn, staff, amount, kind)
    assert (asked.state, balance(finn)) == ("PENDING", 100)

    with pytest.raises(services.SecondPersonNeeded):
        approve(asked, staff)
    assert balance(finn) == 100

    assert approve(asked, other).state == "DONE"
    assert balance(finn) == Decimal(after)


def test_the_owner_of_a_wallet_cannot_approve_their_own(finn, staff):
    asked = ask(finn, staff, "100", "DEPOSIT")

    with pytest.raises(services.SecondPersonNeeded):
        approve(asked, finn.owner)

    assert balance(finn) == 0


def test_what_one_would_bring_into_ones_own_wallet_waits_however_small(finn):
    assert ask(finn, finn.owner, "1", "DEPOSIT").needs_second


def test_a_withdrawal_that_waits_is_held_and_paid_when_approved(finn, staff):
    pay_in(finn, "120")
    asked = ask(finn, finn.owner)
    assert (usd(finn).balance, usd(finn).held) == (120, 100)

    approve(asked, staff)

    assert (usd(finn).balance, usd(finn).held) == (20, 0)


def test_a_rejected_withdrawal_frees_what_was_held(finn, staff):
    pay_in(finn, "120")

    rejected = reject(ask(finn, finn.owner), staff)

    assert (rejected.state, rejected.transfer, rejected.hold.state) == ("REJECTED", None, "VOIDED")
    assert (usd(finn).available, usd(finn).version) == (120, 1)


@pytest.mark.parametrize("first", [approve, reject])
@pytest.mark.parametrize("second", [approve, reject])
def test_a_request_is_decided_once(finn, staff, other, first, second):
    pay_in(finn, "120")
    asked = ask(finn, finn.owner)
    first(asked, staff)
    after = balance(finn)

    with pytest.raises(services.RequestDecided):
        second(asked, other)

    assert balance(finn) == after


def test_more_than_there_is_is_refused_for_ever_under_its_key(finn):
    for _ in range(2):
        with pytest.raises(services.InsufficientFunds):
            ask(finn, finn.owner)
        pay_in(finn, "200")

    assert MoneyRequest.objects.count() == 0
    assert ask(finn, finn.owner, key="r2").state == "PENDING"


def test_the_same_key_is_the_same_request_and_for_something_else_a_conflict(finn, staff):
    pay_in(finn, "300")
    assert ask(finn, finn.owner) == ask(finn, finn.owner)

    for other in ({"amount": "101"}, {"kind": "ADJUSTMENT"}, {"by": staff}):
        with pytest.raises(IdempotencyConflict):
            ask(finn, **{"by": finn.owner, **other})

    assert (MoneyRequest.objects.count(), usd(finn).held) == (1, 100)


def test_what_is_refused_when_approved_can_be_approved_later(finn, staff):
    pay_in(finn, "120")
    asked = ask(finn, finn.owner)
    services.freeze(wallet=usd(finn), reason="r", actor=audit.SYSTEM)
    with pytest.raises(services.WalletFrozen):
        approve(asked, staff)
    services.unfreeze(wallet=usd(finn), reason="r", actor=audit.SYSTEM)

    assert approve(asked, staff).state == "DONE"


@pytest.mark.parametrize("amount", ["0", "-1", "0.000000001", "NaN"])
def test_an_amount_that_is_none_is_refused(finn, amount):
    with pytest.raises(services.AmountInvalid):
        ask(finn, finn.owner, amount)


def test_who_asked_and_how_it_ended_is_recorded(finn, staff):
    pay_in(finn, "300")
    approve(ask(finn, finn.owner), staff)
    reject(ask(finn, finn.owner, key="r2"), staff)

    actions = AuditLog.objects.filter(detail__has_key="request").order_by("id").values_list("action", flat=True)
    assert list(actions) == ["money.requested", "money.approved", "money.requested", "money.rejected"]
