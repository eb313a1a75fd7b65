"""What one person moves alone: amounts and sums, decided by the database for every caller."""

from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction
from pytest_django import Settings

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from config import checks
from core.errors import DomainError
from tests.people import colleague
from tests.wallets.conftest import Later, balance, following, fund, set_limits, usd
from trades.models import TradeHistory
from trades.services import staff as staff_verbs
from wallets import limits, services
from wallets.models import FeeClaim, FeeRefund, LedgerTransfer, MoneyRequest, Wallet
from wallets.services import second_person, settlement


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    fund(usd(finn), "10000")
    set_limits("100", "1,5,10")
    return usd(finn)


@pytest.fixture
def teller(cast: dict[str, Any]) -> User:
    return colleague("teller")


def person(by: User) -> audit.Actor:
    return audit.Actor(audit.AuditLog.Actor.STAFF if by.is_staff else audit.AuditLog.Actor.USER, str(by.pk))


def ask(wallet: Wallet, by: User, kind: str = "DEPOSIT", amount: str = "40") -> MoneyRequest:
    key = f"{kind} {MoneyRequest.objects.count()}"
    return services.request_money(
        wallet=wallet, kind=kind, amount=Decimal(amount), reason="", idempotency_key=key, by=by, actor=person(by)
    )


def states(requests: list[MoneyRequest]) -> list[str]:
    return [request.state for request in requests]


# --- sums


@pytest.mark.parametrize("kind", ["DEPOSIT", "WITHDRAWAL", "ADJUSTMENT"])
def test_a_movement_that_is_split_needs_a_second_person(wallet: Wallet, teller: User, kind: str) -> None:
    requests = [ask(wallet, teller, kind) for _ in range(4)]

    assert states(requests) == ["DONE", "DONE", "PENDING", "PENDING"]
    assert requests[2].second_reason == "in 24 hours 120.00 of 100.00 USD by this customer"


def test_deposits_withdrawals_and_adjustments_are_one_sum(wallet: Wallet, teller: User, finn: TradingAccount) -> None:
    requests = [ask(wallet, teller), ask(wallet, finn.owner, "WITHDRAWAL"), ask(wallet, teller, "ADJUSTMENT", "-40")]

    assert states(requests) == ["DONE", "DONE", "PENDING"]


def test_a_teller_who_spreads_deposits_over_customers_needs_a_second_person(
    wallet: Wallet, lena: TradingAccount, sam: TradingAccount, teller: User
) -> None:
    requests = [ask(of, teller) for of in (wallet, usd(lena), usd(sam))]

    assert states(requests) == ["DONE", "DONE", "PENDING"]
    assert requests[2].second_reason == "in 24 hours 120.00 of 100.00 USD by this teller"


def test_several_tellers_are_one_customers_sum(wallet: Wallet, staff: User, teller: User) -> None:
    third = colleague("third")

    assert states([ask(wallet, by) for by in (staff, teller, third)]) == ["DONE", "DONE", "PENDING"]


def test_currencies_are_added_at_the_rate_of_their_limits(wallet: Wallet, finn: TradingAccount, teller: User) -> None:
    set_limits("100,JPY=10000", "1,5,10")
    yen = services.wallet_of(owner=finn.owner, currency="JPY")

    assert ask(wallet, teller, amount="60").state == "DONE"
    assert ask(yen, teller, amount="4000").state == "DONE"
    full = ask(yen, teller, amount="0.00000001")
    assert full.second_reason == "in 24 hours 10,000.01 of 10,000.00 JPY by this customer"


def test_what_was_rejected_or_waits_does_not_count(wallet: Wallet, teller: User, staff: User) -> None:
    for _ in range(3):
        services.reject(request=ask(wallet, teller, amount="101"), by=staff, reason="", actor=person(staff))
    ask(wallet, teller, "WITHDRAWAL", "500")

    assert ask(wallet, teller, amount="100").state == "DONE"


def test_what_a_second_person_approved_does_not_count(wallet: Wallet, teller: User, staff: User) -> None:
    services.approve(request=ask(wallet, teller, amount="500"), by=staff, actor=person(staff))

    assert ask(wallet, teller, amount="100").state == "DONE"


def test_a_reversal_counts_and_frees_nothing(wallet: Wallet, teller: User, finn: TradingAccount) -> None:
    done = ask(wallet, teller, "WITHDRAWAL", "40")
    services.reverse(transfer_id=done.transfer_id, note="", idempotency_key="r", actor=person(teller))

    assert ask(wallet, teller, "WITHDRAWAL", "40").state == "PENDING"


def test_a_reversal_above_the_sum_is_refused(wallet: Wallet, teller: User) -> None:
    done = ask(wallet, teller, "DEPOSIT", "60")

    with pytest.raises(services.SecondPersonNeeded, match=r"120.00 of 100.00 USD by this customer. Request an adj"):
        services.reverse(transfer_id=done.transfer_id, note="", idempotency_key="r", actor=person(teller))


def test_the_sums_of_a_day_and_of_30_days_roll(wallet: Wallet, teller: User, finn: TradingAccount) -> None:
    later, outcomes = Later(), []
    for _ in range(6):
        outcomes.append(ask(wallet, finn.owner, "WITHDRAWAL", "100"))
        later.hours(25)

    assert states(outcomes) == ["DONE"] * 5 + ["PENDING"]
    assert outcomes[5].second_reason == "in 30 days 600.00 of 500.00 USD by this customer"
    later.hours(25 * 24)
    assert ask(wallet, finn.owner, "WITHDRAWAL", "100").state == "DONE"


def test_a_teller_has_a_sum_of_30_days(wallet: Wallet, teller: User) -> None:
    later, outcomes = Later(), []
    for number in range(11):
        customer = User.objects.create(username=f"customer-{number}")
        outcomes.append(ask(services.wallet_of(owner=customer, currency="USD"), teller, amount="100"))
        later.hours(25)

    assert states(outcomes) == ["DONE"] * 10 + ["PENDING"]
    assert outcomes[10].second_reason == "in 30 days 1,100.00 of 1,000.00 USD by this teller"


# --- callers that go around the verbs


def refusal(do: Any) -> str:
    try:
        do()
    except DatabaseError as error:
        return str(getattr(error.__cause__, "sqlstate", error))
    except DomainError as error:
        return error.code
    return "accepted"


def test_money_moved_without_a_request_is_within_the_same_sums(wallet: Wallet, finn: TradingAccount) -> None:
    def deposit(amount: str, key: str) -> Any:
        return lambda: services.deposit(wallet=wallet, amount=Decimal(amount), note="", idempotency_key=key)

    assert [refusal(deposit(*args)) for args in (("101", "a"), ("60", "b"), ("60", "c"), ("40", "d"))] == [
        "second_person_needed", "accepted", "second_person_needed", "accepted",
    ]  # fmt: skip
    assert balance(finn) == 10100


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("credit", "ADJUSTMENT"), ("credit", "REVERSAL"), ("debit_wallet", "ADJUSTMENT"), ("debit_wallet", "REVERSAL")],
)
def test_no_kind_of_movement_is_a_way_around(wallet: Wallet, finn: TradingAccount, verb: str, kind: str) -> None:
    move = getattr(services, verb)
    args = {"wallet": wallet, "amount": Decimal(101), "kind": kind, "note": "", "idempotency_key": "k"}

    assert refusal(lambda: move(**args)) == "second_person_needed"
    assert balance(finn) == 10000


def test_a_refund_needs_a_settlement_that_gave_it(wallet: Wallet) -> None:
    args = {
        "scope": "refund:1/1", "key": "k", "kind": "REVERSAL", "amount": "5000", "credit": wallet.pk,
        "debit_house": "ADJUSTMENTS",
    }  # fmt: skip
    assert refusal(lambda: services.call_ledger("ledger_move", audit.SYSTEM, args)) == "CD003"


SIDES = {
    "an accrual to a person": {"kind": "ACCRUAL", "debit_house": "ADJUSTMENTS", "credit": "<w>"},
    "a fee to a person": {"kind": "FEE_PERFORMANCE", "debit_house": "CASH_IN", "credit": "<w>"},
    "a fee that is paid out": {"kind": "FEE_SUBSCRIPTION", "debit": "<w>", "credit_house": "CASH_OUT"},
    "a deposit in a claim's name": {"kind": "DEPOSIT", "debit_house": "CASH_IN", "credit": "<w>", "claim": "<c>"},
    "an adjustment in a claim's name": {
        "kind": "ADJUSTMENT", "debit_house": "ADJUSTMENTS", "credit": "<w>", "claim": "<c>",
    },
    "a withdrawal in a claim's name": {
        "kind": "WITHDRAWAL", "debit": "<w>", "credit_house": "CASH_OUT", "claim": "<c>",
    },
    "an accrual of a claim to a person": {"kind": "ACCRUAL", "debit_house": "CASH_IN", "credit": "<w>", "claim": "<c>"},
}  # fmt: skip


@pytest.mark.parametrize("move", SIDES.values(), ids=SIDES)
def test_neither_a_kind_of_settlements_nor_a_claim_is_a_way_around(
    lena: TradingAccount, finn: TradingAccount, move: dict[str, str]
) -> None:
    follows = following(lena, finn)
    fund(usd(finn), "500")
    follows.realise("1", "1000")
    follows.settle()
    ids = {"<w>": usd(finn).pk, "<c>": FeeClaim.objects.get(agreement=follows.agreement).pk}
    set_limits("100", "1,5,10")
    args = {"scope": "s", "key": "k", "amount": "400", **{name: ids.get(value, value) for name, value in move.items()}}
    before = balance(finn)

    assert refusal(lambda: services.call_ledger("ledger_move", audit.SYSTEM, args)) == "CD003"
    assert balance(finn) == before


@pytest.mark.parametrize("to", ["its payee again", "somebody else", "its payee, of a refund that was invented"])
def test_a_refund_is_given_back_once_and_to_its_payee(
    lena: TradingAccount, finn: TradingAccount, sam: TradingAccount, staff: User, teller: User, to: str
) -> None:
    refund = LedgerTransfer.objects.get(pk=refunded(lena, finn, by=staff, second=teller))
    wallet, scope, given = usd(sam) if to == "somebody else" else usd(finn), refund.scope, FeeRefund.objects.get()
    invented = FeeRefund(
        agreement=given.agreement, period_no=1, payee=given.payee, payer=given.payer, amount=5000, provider_share=0
    )
    before = wallet.balance

    def give() -> None:
        args = {"scope": scope, "key": "again", "kind": "REVERSAL", "amount": "150", "debit_house": "ADJUSTMENTS"}
        with transaction.atomic():
            if "invented" in to:
                invented.save()
                args["scope"] = f"refund:{given.agreement_id}/1"
            services.call_ledger("ledger_move", audit.SYSTEM, {**args, "credit": wallet.pk})

    assert refusal(give) == "CD003"
    assert Wallet.objects.get(pk=wallet.pk).balance == before


def test_a_refund_of_a_fee_taken_back_by_hand_is_a_movement(
    lena: TradingAccount, finn: TradingAccount, staff: User, teller: User
) -> None:
    refund = refunded(lena, finn, by=staff, second=teller)
    set_limits("100", "1,5,10")

    with pytest.raises(services.SecondPersonNeeded):
        services.reverse(transfer_id=refund, note="", idempotency_key="r", actor=person(teller))


def refunded(lena: TradingAccount, finn: TradingAccount, *, by: User, second: User) -> Any:
    """The transfer of a refund of 180 to finn, whose profit was a typo."""
    follows = following(lena, finn)
    fund(usd(finn), "500")
    follows.realise("1", "1000")
    settlement.collect(
        claim_id=FeeClaim.objects.get(agreement=follows.agreement, period_no=follows.settle().period_no).pk
    )
    row = TradeHistory.objects.get(ticket_id="91")
    request = staff_verbs.request_correction(
        trade_id=row.pk, close_price=row.close_price, profit=Decimal(100), reason="", by=by, actor=audit.SYSTEM
    )
    staff_verbs.approve(request=request, by=second, actor=audit.SYSTEM)
    follows.settle(2)
    return LedgerTransfer.objects.get(scope__startswith="refund:", credit=usd(finn)).pk


def test_a_request_written_directly_says_itself_that_it_needs_two(wallet: Wallet, teller: User) -> None:
    request = MoneyRequest.objects.create(
        wallet=wallet, kind="DEPOSIT", amount=Decimal(500), reason="", idempotency_key="k", requested_by=teller,
        needs_second=False,
    )  # fmt: skip
    request.refresh_from_db()

    assert (request.needs_second, request.second_reason) == (True, "500.00 of 100.00 USD at once")
    with pytest.raises(services.SecondPersonNeeded):
        services.approve(request=request, by=teller, actor=person(teller))


def test_a_small_request_that_waited_is_within_the_sums_when_it_is_done(
    wallet: Wallet, teller: User, finn: TradingAccount
) -> None:
    waiting = MoneyRequest.objects.create(
        wallet=wallet, kind="DEPOSIT", amount=Decimal(60), reason="", idempotency_key="k", requested_by=teller,
        needs_second=False,
    )  # fmt: skip
    ask(wallet, teller, amount="60")

    with pytest.raises(services.SecondPersonNeeded):
        services.approve(request=waiting, by=teller, actor=person(teller))
    assert balance(finn) == 10060


def test_only_active_staff_are_a_second_person(
    wallet: Wallet, teller: User, lena: TradingAccount, finn: TradingAccount
) -> None:
    gone = User.objects.create(username="gone", is_staff=True, is_active=False)
    request = ask(wallet, teller, amount="500")

    for by in (lena.owner, finn.owner, gone, teller):
        with pytest.raises(services.SecondPersonNeeded):
            services.approve(request=request, by=by, actor=person(by))
    assert balance(finn) == 10000


def test_the_application_cannot_raise_its_limits(wallet: Wallet) -> None:
    for statement in (
        "update money_settings set value = 1e9",
        "delete from money_settings",
        "delete from money_movers",
    ):
        with connections["default"].cursor() as cursor:
            assert refusal(lambda: cursor.execute(statement)) == "42501"  # noqa: B023


def test_without_limits_in_the_database_every_movement_needs_two(wallet: Wallet, teller: User) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute("delete from money_settings")

    assert ask(wallet, teller, amount="0.00000001").state == "PENDING"


# --- settings


@pytest.mark.parametrize(
    ("above", "sums", "says"),
    [
        ("", "", "the limit for all other currencies is missing"),
        ("EUR=900", "", "the limit for all other currencies is missing"),
        ("much", "", "'much' is no amount"),
        ("0", "", "0 is not above zero"),
        ("-5", "", "-5 is not above zero"),
        ("NaN", "", "'NaN' is no amount"),
        ("1000,eur=5", "", "'eur' is no currency"),
        ("1000", "1,5", "three multiples"),
        ("1000", "0.5,5,10", "a day's sum is at least 1"),
        ("1000", "6,5,10", "not below it"),
    ],
)
def test_a_malformed_limit_stops_the_start(desk_db: str, settings: Settings, above: str, sums: str, says: str) -> None:
    settings.SECOND_PERSON_ABOVE, settings.SECOND_PERSON_SUMS = above, sums

    (error,) = checks.limits_make_sense(None)
    assert (error.id, says in error.msg) == ("copydesk.E007", True), error.msg
    with pytest.raises(SystemExit, match=r"copydesk\.E007"):
        checks.refuse_unsafe()


def test_limits_have_defaults_that_bound_a_month() -> None:
    assert limits.parse("1000, EUR=900").rows() == {
        ("above", ""): 1000, ("above", "EUR"): 900, ("day", ""): 1, ("thirty_days", ""): 5,
        ("staff_thirty_days", ""): 10, ("destination_cooling_h", ""): 0, ("credentials_cooling_h", ""): 0,
    }  # fmt: skip


def test_a_cooling_time_is_bounded(settings: Settings) -> None:
    settings.DESTINATION_COOLING_H = 9999

    assert "a cooling time is 0 to 720 hours" in checks.limits_make_sense(None)[0].msg


def test_limits_that_were_only_set_are_reported_until_migrate_writes_them(desk_db: str, settings: Settings) -> None:
    assert checks.limits_are_in_force(None, ["default"]) == []
    settings.SECOND_PERSON_ABOVE = "700"

    assert [error.id for error in checks.limits_are_in_force(None, ["default"])] == ["copydesk.E014"]
    for _ in range(2):
        call_command("migrate", verbosity=0)
    assert checks.limits_are_in_force(None, ["default"]) == []
    assert second_person.above("USD") == 700
    changes = AuditLog.objects.filter(action="limits.changed").order_by("-id")
    assert [row.detail["after"]["above"] for row in changes] == ["700", "1000"]
