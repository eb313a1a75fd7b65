"""The ledger in the admin: the actions of staff, and what is forbidden to everybody."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import escape
from pytest_django import DjangoAssertNumQueries

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from tests.browsers import of_staff
from tests.people import colleague
from tests.wallets.conftest import Following, set_limits
from wallets import services
from wallets.models import FeeClaim, FeeTerms, LedgerHalt, LedgerTransfer, MoneyRequest, Wallet, WalletHold
from wallets.services import ledger_halt, settlement

PAGES = [
    "wallet", "moneyrequest", "ledgertransfer", "wallethold", "feeterms", "feeagreement", "feeacceptance", "feenotice",
    "ledgerhalt",
]  # fmt: skip
LARGE = Decimal(5000)  # above what one person may move


@pytest.fixture
def mover(cast: dict[str, Any]) -> Any:
    return of_staff("mara", "change_wallet", "view_ledgertransfer")


@pytest.fixture
def decider(cast: dict[str, Any]) -> Any:
    return of_staff("dora", "change_moneyrequest", "view_wallet", "view_ledgertransfer")


@pytest.fixture
def wallet(finn: TradingAccount) -> Wallet:
    """finn's wallet, with a balance of 100."""
    wallet = services.wallet_of(owner=finn.owner, currency="USD")
    services.deposit(wallet=wallet, amount=Decimal(100), note="wire 1", idempotency_key="first")
    return fresh(wallet)


def fresh(row: Any) -> Any:
    return type(row).objects.get(pk=row.pk)


def listed(model: Any) -> Any:
    return reverse(f"admin:wallets_{model}_changelist")


def page(row: Any) -> Any:
    return reverse(f"admin:wallets_{row._meta.model_name}_change", args=[row.pk])


def act(browser: Any, action: Any, *rows: Any, confirmed: bool = True, **fields: Any) -> Any:
    """Submit an action, as the form of its page does."""
    form = {"action": action, "_selected_action": [row.pk for row in rows], **fields}
    if confirmed:
        form = {"key": str(uuid.uuid4()), "confirmed": "1", **form}
    return browser.post(listed(rows[0]._meta.model_name), form, follow=True)


def messages_of(answer: Any) -> list[Any]:
    return [str(message) for message in answer.context["messages"]]


def money_request(wallet: Any, kind: str = "DEPOSIT", amount: Any = LARGE, by: str = "mara") -> Any:
    person = User.objects.filter(username=by).first() or colleague(by)
    return services.request_money(
        wallet=wallet, kind=kind, amount=amount, reason="wire 2", idempotency_key=str(uuid.uuid4()), by=person,
        actor=audit.SYSTEM,
    )  # fmt: skip


# --- read-only pages


def a_row_of_each_model(wallet: Any, agreement: Any) -> list[Any]:
    request = money_request(wallet)
    services.hold(wallet=wallet, amount=Decimal(5), purpose="test", idempotency_key="h")
    ledger_halt.halt(why="a test")
    ledger_halt.resume()
    halt = LedgerHalt.objects.get()
    return [wallet, request, LedgerTransfer.objects.first(), WalletHold.objects.get(), agreement.terms, agreement, halt]


def test_nobody_changes_or_deletes_a_row_of_the_ledger(admin: Client, wallet: Wallet, follows: Following) -> None:
    for row in a_row_of_each_model(wallet, follows.agreement):
        before = type(row).objects.filter(pk=row.pk).values().get()

        assert admin.get(page(row)).status_code == 200
        assert admin.post(page(row), {"balance": "1", "amount": "1"}).status_code == 403
        assert admin.post(page(row).replace("/change/", "/delete/"), {"post": "yes"}).status_code == 403
        assert type(row).objects.filter(pk=row.pk).values().get() == before


@pytest.mark.parametrize("model", [model for model in PAGES if model != "feeterms"])
def test_nobody_adds_a_row_of_the_ledger(admin: Client, model: Any) -> None:
    assert admin.post(reverse(f"admin:wallets_{model}_add"), {"balance": "1"}).status_code == 403


@pytest.mark.parametrize("model", PAGES)
def test_no_list_offers_to_delete(admin: Client, wallet: Wallet, model: str) -> None:
    answer = admin.post(listed(model), {"action": "delete_selected", "_selected_action": wallet.pk, "post": "yes"})

    assert answer.status_code == 403 or "delete" not in answer.content.decode()
    assert Wallet.objects.filter(pk=wallet.pk).exists()


@pytest.mark.parametrize("model", PAGES)
def test_staff_without_the_view_permission_see_nothing(cast: dict[str, Any], model: str) -> None:
    assert of_staff("nora").get(listed(model)).status_code == 403


@pytest.mark.parametrize("action", ["deposit", "withdraw", "adjust", "freeze", "unfreeze"])
def test_a_viewer_is_offered_no_action_and_a_forged_one_is_refused(
    cast: dict[str, Any], wallet: Wallet, action: str
) -> None:
    viewer = of_staff("vera", "view_wallet", "change_moneyrequest")

    shown = viewer.get(page(wallet)).content.decode() + viewer.get(listed("wallet")).content.decode()
    forged = act(viewer, action, wallet, amount="5", reason="forged")

    assert 'name="action"' not in shown
    assert forged.status_code == 403
    assert (fresh(wallet).balance, fresh(wallet).frozen_at) == (100, None)


def test_staff_without_the_permission_cannot_approve(mover: Any, wallet: Wallet) -> None:
    request = money_request(wallet, by="nils")

    assert act(mover, "approve", request).status_code == 403
    assert act(mover, "reject", request, reason="no").status_code == 403
    assert fresh(request).state == "PENDING"


def test_staff_who_may_only_decide_cannot_reverse(decider: Any, wallet: Wallet) -> None:
    assert act(decider, "reverse", LedgerTransfer.objects.get(), reason="no").status_code == 403
    assert LedgerTransfer.objects.count() == 1


# --- actions on a wallet


def test_a_deposit_asks_for_confirmation_with_a_new_key(admin: Client, wallet: Wallet) -> None:
    first, second = (act(admin, "deposit", wallet, confirmed=False).content.decode() for _ in range(2))

    keys = [re.search(r'name="key" value="([^"]{36})"', html)[1] for html in (first, second)]
    assert keys[0] != keys[1]
    assert "Above 1000 USD a second person has to approve it" in first
    assert fresh(wallet).balance == 100


def test_a_deposit_records_its_reference_and_the_staff_member(mover: Any, wallet: Wallet) -> None:
    answer = act(mover, "deposit", wallet, amount="12.5", reason="SEPA 4711")

    assert messages_of(answer) == ["Deposit of 12.50 USD, finn: done."]
    assert answer.redirect_chain[-1][0] == page(wallet)
    assert fresh(wallet).balance == Decimal("112.5")
    assert LedgerTransfer.objects.get(note="SEPA 4711").kind == "DEPOSIT"
    assert AuditLog.objects.get(action="money.requested").actor == str(User.objects.get(username="mara").pk)


def test_a_double_click_moves_money_once(mover: Any, wallet: Wallet) -> None:
    form = {"key": str(uuid.uuid4()), "amount": "10", "reason": "twice"}

    answers = [messages_of(act(mover, "withdraw", wallet, **form)) for _ in range(2)]

    assert answers[0] == answers[1] == ["Withdrawal of 10.00 USD, finn: done."]
    assert fresh(wallet).balance == 90


@pytest.mark.parametrize(("action", "amount"), [("deposit", "10"), ("deposit", "70"), ("withdraw", "70")])
def test_a_double_click_at_the_same_time_moves_money_once(
    staff: User, wallet: Wallet, action: str, amount: str
) -> None:
    set_limits("50")
    form = {"key": str(uuid.uuid4()), "amount": amount, "reason": "twice"}

    def click() -> Any:
        browser = Client()
        browser.force_login(staff)
        try:
            return messages_of(act(browser, action, wallet, **form))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as clicks:
        answers = [click.result() for click in [clicks.submit(click) for _ in range(2)]]

    assert all(answer == answers[0] and "(" not in answer[0] for answer in answers)
    assert MoneyRequest.objects.count() == 1
    assert fresh(wallet).balance == (110 if amount == "10" else 100)
    assert fresh(wallet).held == (70 if action == "withdraw" else 0)


@pytest.mark.parametrize(("amount", "balance"), [("12.5", "112.5"), ("-12.5", "87.5"), ("−12.5", "87.5")])
def test_an_adjustment_credits_or_debits(mover: Any, wallet: Wallet, amount: str, balance: str) -> None:
    act(mover, "adjust", wallet, amount=amount, reason="goodwill")

    assert fresh(wallet).balance == Decimal(balance)


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("deposit", {"amount": "-1", "reason": "x"}),
        ("deposit", {"amount": "1e-9", "reason": "x"}),
        ("deposit", {"amount": "1", "reason": " "}),
        ("withdraw", {"amount": "0", "reason": "x"}),
        ("adjust", {"amount": "0", "reason": "x"}),
        ("adjust", {"amount": "NaN", "reason": "x"}),
        ("freeze", {"reason": ""}),
    ],
)
def test_an_invalid_form_is_shown_again(mover: Any, wallet: Wallet, action: str, fields: dict[str, Any]) -> None:
    answer = act(mover, action, wallet, **fields)

    assert answer.content.decode().count('class="errorlist"') == 1
    assert (fresh(wallet).balance, fresh(wallet).frozen_at) == (100, None)


def test_a_refusal_shows_its_code_and_the_form_can_be_sent_again(mover: Any, wallet: Wallet) -> None:
    answer = act(mover, "withdraw", wallet, key=(key := str(uuid.uuid4())), amount="500", reason="all of it")

    assert messages_of(answer) == ["The wallet's available balance is lower than this amount. (insufficient_funds)"]
    form = answer.context["form"]
    assert form["key"].value() != key
    again = act(mover, "withdraw", wallet, key=form["key"].value(), amount="50", reason=form["reason"].value())
    assert messages_of(again) == ["Withdrawal of 50.00 USD, finn: done."]


def test_a_halted_ledger_moves_nothing_and_the_key_stays_valid(mover: Any, wallet: Wallet) -> None:
    ledger_halt.halt(why="a balance is not its entries")
    form = {"key": str(uuid.uuid4()), "amount": "5", "reason": "wire 3"}

    answer = act(mover, "deposit", wallet, **form)

    assert messages_of(answer)[0].endswith("(ledger_halted)")
    assert answer.context["form"]["key"].value() == form["key"]
    assert fresh(wallet).balance == 100


def test_staff_cannot_move_money_in_their_own_wallet(mover: Any, cast: dict[str, Any]) -> None:
    own = services.wallet_of(owner=User.objects.get(username="mara"), currency="USD")

    assert messages_of(act(mover, "deposit", own, amount="5", reason="for me"))[0].endswith("(second_person_needed)")
    assert fresh(own).balance == 0


def test_an_action_needs_exactly_one_persons_wallet(mover: Any, wallet: Wallet, sam: TradingAccount) -> None:
    sams = services.wallet_of(owner=sam.owner, currency="USD")

    assert messages_of(act(mover, "deposit", wallet, sams, amount="5", reason="x")) == [
        "Choose one wallet, not several."
    ]
    house = act(mover, "deposit", Wallet.objects.filter(owner=None).first(), amount="5", reason="x")
    assert messages_of(house) == ["Choose a person's wallet: house accounts move only with them."]
    assert fresh(wallet).balance == 100


def test_a_frozen_wallet_refuses_withdrawals_until_it_is_unfrozen(mover: Any, wallet: Wallet) -> None:
    act(mover, "freeze", wallet, reason="documents have expired")
    withdrawal = act(mover, "withdraw", wallet, amount="5", reason="x")
    html = mover.get(page(wallet)).content.decode()
    act(mover, "unfreeze", wallet, reason="they came")

    assert messages_of(withdrawal)[0].endswith("(wallet_frozen)")
    assert "documents have expired" in html
    assert 'value="unfreeze"' in html
    assert 'value="freeze"' not in html
    assert fresh(wallet).frozen_at is None


# --- decisions of a second person


def test_above_the_limit_a_second_person_decides(mover: Any, decider: Any, wallet: Wallet) -> None:
    answer = act(mover, "deposit", wallet, amount=LARGE, reason="wire 9")

    assert messages_of(answer) == ["Deposit of 5,000.00 USD, finn: awaiting approval."]
    request = MoneyRequest.objects.get()
    assert "wire 9" in act(decider, "approve", request, confirmed=False).content.decode()
    assert fresh(wallet).balance == 100
    assert messages_of(act(decider, "approve", request)) == ["Deposit of 5,000.00 USD, finn: done."]
    assert fresh(wallet).balance == 5100


def test_the_requester_cannot_approve(cast: dict[str, Any], wallet: Wallet) -> None:
    both = of_staff("mara", "change_wallet", "change_moneyrequest")
    act(both, "deposit", wallet, amount=LARGE, reason="wire 9")

    (message,) = messages_of(act(both, "approve", MoneyRequest.objects.get()))

    assert message.startswith("Deposit of 5,000.00 USD, finn: A colleague has to decide this")
    assert message.endswith("(second_person_needed)")
    assert fresh(wallet).balance == 100


def test_a_rejection_needs_a_reason_and_releases_the_hold(decider: Any, wallet: Wallet) -> None:
    set_limits("50")
    request = money_request(wallet, "WITHDRAWAL", Decimal(60))
    assert fresh(wallet).held == 60

    without_reason = act(decider, "reject", request, reason="")
    assert fresh(request).state == "PENDING"
    act(decider, "reject", request, reason="no such account")

    assert without_reason.content.decode().count('class="errorlist"') == 1
    assert (fresh(request).state, fresh(wallet).held) == ("REJECTED", 0)
    assert AuditLog.objects.get(action="money.rejected").detail["why"] == "no such account"


def test_a_refused_approval_can_be_repeated_later(mover: Any, decider: Any, wallet: Wallet) -> None:
    set_limits("50")
    request = money_request(wallet, "WITHDRAWAL", Decimal(60), by="nils")
    act(mover, "freeze", wallet, reason="x")

    refused = messages_of(act(decider, "approve", request))
    act(mover, "unfreeze", wallet, reason="y")

    assert refused[0].endswith("(wallet_frozen)")
    assert messages_of(act(decider, "approve", request)) == ["Withdrawal of 60.00 USD, finn: done."]
    assert (fresh(wallet).balance, fresh(wallet).held) == (40, 0)


def test_several_decisions_are_each_answered(decider: Any, wallet: Wallet) -> None:
    decided, pending = money_request(wallet), money_request(wallet, amount=LARGE + 1)
    act(decider, "approve", decided)

    answers = messages_of(act(decider, "approve", decided, pending))

    assert answers[0].endswith("(request_decided)")
    assert answers[1] == "Deposit of 5,001.00 USD, finn: done."


def test_pending_requests_are_listed_first(admin: Client, wallet: Wallet) -> None:
    pending = money_request(wallet)
    money_request(wallet, amount=Decimal(1))

    rows = admin.get(listed("moneyrequest")).context["cl"].result_list

    assert [row == pending for row in rows] == [True, False]


# --- transfers


def test_a_transfer_is_reversed_once_and_both_link_to_each_other(mover: Any, admin: Client, wallet: Wallet) -> None:
    first = LedgerTransfer.objects.get()

    answers = [messages_of(act(mover, "reverse", first, reason="wrong person")) for _ in range(2)]

    assert answers[0] == ["Reversed: deposit of 100 USD."]
    assert answers[1][0].endswith("(reversed_already)")
    reversal = LedgerTransfer.objects.get(reverses=first)
    assert page(reversal) in admin.get(page(first)).content.decode()
    assert page(first) in admin.get(page(reversal)).content.decode()
    assert 'value="reverse"' not in admin.get(page(first)).content.decode()
    assert fresh(wallet).balance == 0


def test_a_double_click_reverses_once_and_confirms_twice(mover: Any, wallet: Wallet) -> None:
    first, key = LedgerTransfer.objects.get(), str(uuid.uuid4())

    answers = [messages_of(act(mover, "reverse", first, key=key, reason="wrong person")) for _ in range(2)]

    assert answers[0] == answers[1] == ["Reversed: deposit of 100 USD."]
    assert LedgerTransfer.objects.count() == 2


def test_a_reversal_is_no_way_around_the_second_person(mover: Any, wallet: Wallet) -> None:
    set_limits("50")
    first = LedgerTransfer.objects.get()

    (message,) = messages_of(act(mover, "reverse", first, reason="alone"))

    assert message == (
        "A second person has to approve this: 100.00 of 50.00 USD at once. Request an adjustment instead. "
        "(second_person_needed)"
    )
    assert fresh(wallet).balance == 100


def test_a_transfer_shows_both_its_sides(admin: Client, wallet: Wallet) -> None:
    html = admin.get(page(LedgerTransfer.objects.get())).content.decode()

    assert "+100.00" in html
    assert "−100.00" in html
    assert page(wallet) in html


@pytest.mark.parametrize("sought", ["wire 1", "finn", "id"])
def test_transfers_are_found_by_note_owner_and_id(
    admin: Client, wallet: Wallet, sam: TradingAccount, sought: str
) -> None:
    sams = services.wallet_of(owner=sam.owner, currency="USD")
    services.deposit(wallet=sams, amount=Decimal(1), note="other", idempotency_key="o")
    expected = LedgerTransfer.objects.get(note="wire 1")

    (result,) = (
        admin.get(listed("ledgertransfer"), {"q": expected.pk if sought == "id" else sought}).context["cl"].result_list
    )

    assert result == expected


# --- pages


def test_wallets_are_found_by_owner_and_filtered(mover: Any, wallet: Wallet, sam: TradingAccount) -> None:
    sams = services.wallet_of(owner=sam.owner, currency="EUR")
    act(mover, "freeze", sams, reason="x")
    url = listed("wallet")

    def listing(**query: Any) -> Any:
        return set(mover.get(url, query).context["cl"].result_list)

    assert listing(q="finn") == {wallet}
    assert listing(frozen="yes") == {sams}
    assert listing(q="sam", kind="PERSON", currency="EUR") == {sams}
    assert wallet in listing(frozen="no")


def test_a_wallets_page_pages_back_through_its_entries(admin: Client, wallet: Wallet) -> None:
    for number in range(60):
        services.deposit(wallet=wallet, amount=Decimal(1), note=f"wire {number}", idempotency_key=f"d{number}")

    first = admin.get(page(wallet)).context
    second = admin.get(page(wallet), {"before": first["older"]}).context
    nonsense = [admin.get(page(wallet), {"before": text}).status_code for text in ("x", "-1", "9" * 5000)]

    assert [entry.version for entry in first["entries"] + second["entries"]] == list(range(61, -1, -1))
    assert second["older"] is None
    assert nonsense == [200] * 3


def test_a_wallets_page_links_pending_requests_and_holds(admin: Client, wallet: Wallet) -> None:
    set_limits("50")
    request = money_request(wallet, "WITHDRAWAL", Decimal(60))

    html = admin.get(page(wallet)).content.decode()

    assert page(request) in html
    assert page(fresh(request).hold) in html


def test_an_agreements_page_shows_settlements_and_collections(
    admin: Client, wallet: Wallet, follows: Following
) -> None:
    follows.realise("1", "1000")
    follows.settle()
    settlement.collect(claim_id=FeeClaim.objects.get().pk)

    html = admin.get(page(follows.agreement)).content.decode()
    (row,) = admin.get(listed("feeagreement")).context["cl"].result_list

    for text in ("2000 bps", "1,000.00", "200.00", "100.00", '<span class="chip wait">owed</span>'):
        assert text in html
    assert row.latest_high_water_mark == 1000


def test_a_postponed_agreement_shows_the_reason(admin: Client, follows: Following) -> None:
    follows.copy("1")
    follows.settle()

    postponed = fresh(follows.agreement).postponed

    assert postponed
    for url in (page(follows.agreement), listed("feeagreement") + "?postponed=yes"):
        assert escape(postponed) in admin.get(url).content.decode()
    assert not admin.get(listed("feeagreement"), {"postponed": "no"}).context["cl"].result_list


def test_a_fee_transfer_links_its_agreement_and_cannot_be_reversed(
    admin: Client, wallet: Wallet, follows: Following
) -> None:
    follows.realise("1", "1000")
    follows.settle()
    settlement.collect(claim_id=FeeClaim.objects.get().pk)
    fee = LedgerTransfer.objects.get(kind="FEE_PERFORMANCE")

    html = admin.get(page(fee)).content.decode()

    assert page(follows.agreement) in html
    assert 'value="reverse"' not in html
    assert messages_of(act(admin, "reverse", fee, reason="x"))[0].endswith("(reversed_already)")


def test_terms_are_added_within_bounds_and_audited(admin: Client, lena: TradingAccount) -> None:
    add, terms = reverse("admin:wallets_feeterms_add"), {"strategy": lena.strategy.pk, "subscription_fee": "9.9"}

    refused = admin.post(add, {**terms, "performance_bps": "5001", "platform_bps": "10001"})
    admin.post(add, {**terms, "performance_bps": "1500", "platform_bps": "2500"})

    assert refused.content.decode().count('class="errorlist"') == 2
    terms_row = FeeTerms.objects.get()
    assert (terms_row.performance_bps, terms_row.subscription_fee) == (1500, Decimal("9.9"))
    assert AuditLog.objects.get(action="fee_terms.added").subject == f"fee_terms:{terms_row.pk}"


@pytest.mark.parametrize("model", [*PAGES, "wallet_page", "step", "index"])
def test_while_the_ledger_is_halted_every_page_says_why(admin: Client, wallet: Wallet, model: Any) -> None:
    pages = {
        "wallet_page": lambda: admin.get(page(wallet)),
        "step": lambda: act(admin, "deposit", wallet, confirmed=False),
        "index": lambda: admin.get(reverse("admin:app_list", args=["wallets"])),
    }
    show = pages.get(model, lambda: admin.get(listed(model)))
    assert 'class="halt"' not in show().content.decode()

    ledger_halt.halt(why="no wallet is overdrawn: <7>")

    html = show().content.decode()
    assert 'class="halt"' in html
    assert "no wallet is overdrawn: &lt;7&gt;" in html


@pytest.mark.parametrize("model", ["wallet", "moneyrequest", "ledgertransfer", "wallethold"])
def test_a_list_needs_the_same_queries_for_many_rows_as_for_two(
    admin: Client, cast: dict[str, Any], model: str, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    def add_rows(numbers: Any) -> None:
        for number in numbers:
            person = User.objects.create_user(f"u{number}", password=None)
            wallet = services.wallet_of(owner=person, currency="USD")
            money_request(wallet, amount=Decimal(10))
            services.hold(wallet=wallet, amount=Decimal(1), purpose="x", idempotency_key="h")

    add_rows(range(2))
    with CaptureQueriesContext(connection) as of_two:
        admin.get(listed(model))
    add_rows(range(2, 9))

    with django_assert_num_queries(len(of_two)):
        assert admin.get(listed(model)).status_code == 200
    assert len(of_two) <= 17
