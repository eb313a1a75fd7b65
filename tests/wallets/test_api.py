"""People's wallets over HTTP: their own alone, page by page; money out at most once."""

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
from pytest_django import Settings

from accounts.models import TradingAccount
from tests.signed import HOST
from tests.wallets.conftest import balance, pay_in, usd
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


def test_shows_what_is_there_and_what_is_set_aside(finn: TradingAccount, funded: Person) -> None:
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


def test_a_stranger_sees_his_own(funded: Person, sam: TradingAccount) -> None:
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
            kind=TransferKind.WITHDRAWAL,
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


def test_a_cursor_of_somebody_elses_list_is_refused(finn: TradingAccount, funded: Person, sam: TradingAccount) -> None:
    for amount in ("1", "2"):
        pay_in(finn, amount)
    theirs = funded.get(f"{ME}/entries", limit=1).json()["next"]

    assert Person(sam).get(f"{ME}/entries", cursor=theirs).json()["code"] == "invalid"


def test_a_page_of_entries_costs_the_same_however_long(finn: TradingAccount, funded: Person) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            funded.get(f"{ME}/entries")
        return len(seen)

    few = queries()
    for amount in range(1, 20):
        pay_in(finn, str(amount))

    assert queries() == few


def test_a_month_comes_as_csv(finn: TradingAccount, funded: Person) -> None:
    services.debit_wallet(
        wallet=usd(finn), amount=Decimal(1), kind=TransferKind.WITHDRAWAL, note="=cmd()", idempotency_key="w"
    )
    answer = funded.get(f"{ME}/statement.csv", month=THIS_MONTH)
    rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))

    assert [(row["kind"], row["amount"], row["note"]) for row in rows] == [
        ("DEPOSIT", "100.00000000", ""),
        ("WITHDRAWAL", "-1.00000000", "'=cmd()"),
    ]


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-1", "x", "0000-01", "9999-12"])
def test_what_is_no_month_is_refused(funded: Person, month: str) -> None:
    assert funded.get(f"{ME}/statement.csv", month=month).json()["fields"] == {
        "month": ["must be a month such as 2026-11"]
    }


# --- taking money out


def test_takes_money_out_once_for_each_key(finn: TradingAccount, funded: Person) -> None:
    first = funded.withdraw("k" * 20, amount="40")
    again = funded.withdraw("k" * 20, amount="40")

    assert (first.status_code, first.json()["state"]) == (201, "DONE")
    assert again.json() == first.json()
    assert balance(finn) == 60


def test_other_inputs_under_the_same_key_are_refused(finn: TradingAccount, funded: Person) -> None:
    funded.withdraw("k" * 20, amount="40")

    assert funded.withdraw("k" * 20, amount="41").json()["code"] == "idempotency_conflict"
    assert balance(finn) == 60


def test_more_than_there_is_is_refused_and_stays_so_under_its_key(finn: TradingAccount, funded: Person) -> None:
    refused = funded.withdraw("k" * 20, amount="101")
    pay_in(finn, "50")
    again = funded.withdraw("k" * 20, amount="101")

    assert (refused.status_code, refused.json()["code"]) == (422, "insufficient_funds")
    assert again.json()["code"] == "insufficient_funds"
    assert funded.withdraw(amount="101").json()["state"] == "DONE"


def test_above_the_limit_it_waits_and_is_set_aside(finn: TradingAccount, funded: Person, settings: Settings) -> None:
    settings.SECOND_PERSON_ABOVE = Decimal(50)

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
def test_what_cannot_be_read_moves_nothing(
    finn: TradingAccount, funded: Person, fields: dict[str, Any], code: str
) -> None:
    assert funded.withdraw(**fields).json()["code"] == code
    assert balance(finn) == 100


@pytest.mark.parametrize(("key", "code"), [("", "idempotency_key_missing"), ("short", "request_malformed")])
def test_a_key_has_to_be_there_and_well_formed(funded: Person, key: str, code: str) -> None:
    answer = funded.client.post(
        f"{ME}/withdrawals", {"amount": "1"}, content_type="application/json", HTTP_HOST=HOST,
        **({"HTTP_IDEMPOTENCY_KEY": key} if key else {}),
    )  # fmt: skip

    assert answer.json()["code"] == code


def test_a_page_of_another_site_cannot_take_money_out(finn: TradingAccount, funded: Person) -> None:
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(finn.owner)
    answer = careful.post(
        f"{ME}/withdrawals", {"amount": "1"}, content_type="application/json", HTTP_HOST=HOST,
        HTTP_IDEMPOTENCY_KEY="k" * 20,
    )  # fmt: skip

    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


def from_a_page(finn: TradingAccount, body: Any, as_type: Any) -> Any:
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(finn.owner)
    careful.cookies["csrftoken"] = "c" * 32
    headers = {"HTTP_HOST": HOST, "HTTP_X_CSRFTOKEN": "c" * 32, "HTTP_IDEMPOTENCY_KEY": "k" * 20}
    return careful.generic("POST", f"{ME}/withdrawals", body, content_type=as_type, **headers)


@pytest.mark.parametrize("as_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_the_token_may_come_in_a_header_whatever_the_body_is_called(
    finn: TradingAccount, funded: Person, as_type: str
) -> None:
    assert from_a_page(finn, '{"amount": "1"}', as_type).status_code == 201


@pytest.mark.parametrize(
    ("body", "as_type", "code"),
    [
        ('{"amount": "1"}', "multipart/form-data", "request_malformed"),
        ("x" * 70_000, "application/json", "body_too_large"),
        ("[]", "application/json", "request_malformed"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_so(
    finn: TradingAccount, funded: Person, body: str, as_type: str, code: str
) -> None:
    assert from_a_page(finn, body, as_type).json()["code"] == code
    assert balance(finn) == 100


def test_a_halted_ledger_says_so_and_moves_nothing(finn: TradingAccount, funded: Person) -> None:
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
