"""The wallet API: people see only their own wallets, and a withdrawal happens at most once."""

import csv
import io
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import TradingAccount
from tests.signed import HOST
from tests.wallets.conftest import balance, pay_in, set_limits, usd
from wallets import services
from wallets.models import MoneyRequest, TransferKind
from wallets.services import ledger_halt

ME = "/api/v2/wallets/me"
THIS_MONTH = f"{timezone.now():%Y-%m}"


class Person:
    def __init__(self, account: Any) -> None:
        self.client = Client()
        self.client.force_login(account.owner)

    def get(self, path: Any = ME, **query: Any) -> Any:
        return self.client.get(path, query, HTTP_HOST=HOST)

    def withdraw(self, key: Any = None, **fields: Any) -> Any:
        headers = {"HTTP_IDEMPOTENCY_KEY": key or uuid.uuid4().hex, "HTTP_HOST": HOST}
        return self.client.post(f"{ME}/withdrawals", fields, content_type="application/json", **headers)


@pytest.fixture
def funded(finn: TradingAccount) -> Person:
    pay_in(finn, "100")
    return Person(finn)


def test_shows_the_balance_and_the_amount_on_hold(finn: TradingAccount, funded: Person) -> None:
    services.hold(wallet=usd(finn), amount=Decimal("12.5"), purpose="p", idempotency_key="h")

    assert funded.get().json() == {
        "currency": "USD",
        "balance": "100.00000000",
        "held": "12.50000000",
        "available": "87.50000000",
        "version": 1,
        "frozen": False,
        "currencies": ["USD"],
    }


def test_a_stranger_sees_only_their_own_wallet(funded: Person, sam: TradingAccount) -> None:
    assert Person(sam).get().json()["balance"] == "0.00000000"
    assert Person(sam).get(f"{ME}/entries").json()["data"] == []


def test_another_currency_is_another_wallet(finn: TradingAccount, funded: Person) -> None:
    services.wallet_of(owner=finn.owner, currency="EUR")

    assert funded.get(currency="EUR").json()["balance"] == "0.00000000"
    assert funded.get(currency="GBP").json()["code"] == "wallet_not_found"


def test_entries_come_page_by_page_newest_first(finn: TradingAccount, funded: Person) -> None:
    for number in range(1, 8):
        services.debit_wallet(
            wallet=usd(finn),
            amount=Decimal(number),
            kind=TransferKind.ADJUSTMENT,
            note=f"no. {number}",
            idempotency_key=str(number),
        )

    seen, cursor = [], None
    while True:
        page = funded.get(f"{ME}/entries", limit=3, **({"cursor": cursor} if cursor else {})).json()
        seen += page["data"]
        cursor = page["next"]
        assert page["has_more"] is (cursor is not None)
        if cursor is None:
            break

    assert [row["version"] for row in seen] == list(range(8, 0, -1))
    assert (seen[0]["amount"], seen[0]["balance_after"], seen[0]["note"]) == ("-7.00000000", "72.00000000", "no. 7")


def test_refuses_a_cursor_of_another_persons_list(finn: TradingAccount, funded: Person, sam: TradingAccount) -> None:
    for amount in ("1", "2"):
        pay_in(finn, amount)
    cursor_of_finn = funded.get(f"{ME}/entries", limit=1).json()["next"]

    assert Person(sam).get(f"{ME}/entries", cursor=cursor_of_finn).json()["code"] == "invalid"


def test_a_page_of_entries_needs_the_same_queries_at_any_length(finn: TradingAccount, funded: Person) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            funded.get(f"{ME}/entries")
        return len(captured)

    few = queries()
    for amount in range(1, 20):
        pay_in(finn, str(amount))

    assert queries() == few


def test_a_statement_is_downloaded_as_csv(finn: TradingAccount, funded: Person) -> None:
    services.debit_wallet(
        wallet=usd(finn), amount=Decimal(1), kind=TransferKind.ADJUSTMENT, note="=cmd()", idempotency_key="w"
    )
    answer = funded.get(f"{ME}/statement.csv", month=THIS_MONTH)
    rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))

    assert [(row["kind"], row["amount"], row["note"]) for row in rows] == [
        ("DEPOSIT", "100.00000000", ""),
        ("ADJUSTMENT", "-1.00000000", "'=cmd()"),
    ]


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-1", "x", "0000-01", "9999-12"])
def test_refuses_an_invalid_month(funded: Person, month: str) -> None:
    assert funded.get(f"{ME}/statement.csv", month=month).json()["fields"] == {
        "month": ["must be a month such as 2026-11"]
    }


# --- withdrawals


def test_withdraws_once_for_each_key(finn: TradingAccount, funded: Person) -> None:
    first = funded.withdraw("k" * 20, amount="40")
    repeat = funded.withdraw("k" * 20, amount="40")

    assert (first.status_code, first.json()["state"]) == (201, "DONE")
    assert repeat.json() == first.json()
    assert balance(finn) == 60


def test_refuses_another_amount_under_the_same_key(finn: TradingAccount, funded: Person) -> None:
    funded.withdraw("k" * 20, amount="40")

    assert funded.withdraw("k" * 20, amount="41").json()["code"] == "idempotency_conflict"
    assert balance(finn) == 60


def test_a_withdrawal_above_the_balance_is_refused_for_ever_under_its_key(finn: TradingAccount, funded: Person) -> None:
    refused = funded.withdraw("k" * 20, amount="101")
    pay_in(finn, "50")
    repeat = funded.withdraw("k" * 20, amount="101")

    assert (refused.status_code, refused.json()["code"]) == (422, "insufficient_funds")
    assert repeat.json()["code"] == "insufficient_funds"
    assert funded.withdraw(amount="101").json()["state"] == "DONE"


def test_a_withdrawal_above_the_limit_is_pending_and_on_hold(finn: TradingAccount, funded: Person) -> None:
    set_limits("50")

    assert funded.withdraw(amount="60").json()["state"] == "PENDING"
    assert (usd(finn).held, balance(finn)) == (60, 100)
    assert funded.withdraw(amount="41").json()["code"] == "insufficient_funds"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "invalid"),
        ({"amount": "0"}, "invalid"),
        ({"amount": "-5"}, "invalid"),
        ({"amount": "0.000000001"}, "invalid"),
        ({"amount": "NaN"}, "invalid"),
        ({"amount": "1", "to": "me"}, "invalid"),
        ({"amount": "1", "currency": "usd"}, "invalid"),
        ({"amount": "1", "currency": "EUR"}, "wallet_not_found"),
        ({"amount": "1", "note": "x" * 201}, "invalid"),
    ],
)
def test_an_invalid_withdrawal_moves_no_money(
    finn: TradingAccount, funded: Person, fields: dict[str, Any], code: str
) -> None:
    assert funded.withdraw(**fields).json()["code"] == code
    assert balance(finn) == 100


@pytest.mark.parametrize(("key", "code"), [("", "idempotency_key_missing"), ("short", "request_malformed")])
def test_refuses_a_missing_or_malformed_key(funded: Person, key: str, code: str) -> None:
    answer = funded.client.post(
        f"{ME}/withdrawals", {"amount": "1"}, content_type="application/json", HTTP_HOST=HOST,
        **({"HTTP_IDEMPOTENCY_KEY": key} if key else {}),
    )  # fmt: skip

    assert answer.json()["code"] == code


def test_a_page_of_another_site_cannot_withdraw(finn: TradingAccount, funded: Person) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(finn.owner)
    answer = browser.post(
        f"{ME}/withdrawals", {"amount": "1"}, content_type="application/json", HTTP_HOST=HOST,
        HTTP_IDEMPOTENCY_KEY="k" * 20,
    )  # fmt: skip

    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


def from_a_page(finn: TradingAccount, body: Any, content_type: Any) -> Any:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(finn.owner)
    browser.cookies["csrftoken"] = "c" * 32
    headers = {"HTTP_HOST": HOST, "HTTP_X_CSRFTOKEN": "c" * 32, "HTTP_IDEMPOTENCY_KEY": "k" * 20}
    return browser.generic("POST", f"{ME}/withdrawals", body, content_type=content_type, **headers)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_accepts_the_csrf_token_in_a_header_for_any_content_type(
    finn: TradingAccount, funded: Person, content_type: str
) -> None:
    assert from_a_page(finn, '{"amount": "1"}', content_type).status_code == 201


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        ('{"amount": "1"}', "multipart/form-data", "request_malformed"),
        ("x" * 70_000, "application/json", "body_too_large"),
        ("[]", "application/json", "request_malformed"),
    ],
)
def test_refuses_an_unreadable_body_with_its_code(
    finn: TradingAccount, funded: Person, body: str, content_type: str, code: str
) -> None:
    assert from_a_page(finn, body, content_type).json()["code"] == code
    assert balance(finn) == 100


def test_a_halted_ledger_refuses_withdrawals(finn: TradingAccount, funded: Person) -> None:
    ledger_halt.halt(why="a test")

    assert (funded.withdraw(amount="1").status_code, funded.withdraw(amount="1").json()["code"]) == (
        503,
        "ledger_halted",
    )
    ready = Client().get("/readyz", HTTP_HOST=HOST)
    assert (ready.status_code, ready.json()["status"], ready.json()["ledger"]) == (200, "degraded", "halted: a test")

    ledger_halt.resume()
    assert funded.withdraw(amount="1").status_code == 201
    assert MoneyRequest.objects.count() == 1
