"""Two hundred concurrent withdrawals from one wallet, over HTTP."""

import json
import threading
import uuid
from collections import Counter
from http.client import HTTPConnection
from typing import Any

from django.test import Client

from accounts.models import TradingAccount
from tests.conftest import Serving
from tests.wallets.conftest import balance, pay_in
from wallets.models import LedgerTransfer, MoneyRequest

ATTEMPTS, FUNDS = 200, 150
TOKEN = "c" * 32


def cookies_of(account: Any) -> str:
    person = Client()
    person.force_login(account.owner)
    return f"sessionid={person.cookies['sessionid'].value}; csrftoken={TOKEN}"


def withdraw(port: Any, cookies: Any, key: Any, outcomes: Any) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Cookie": cookies, "X-CSRFToken": TOKEN, "Content-Type": "application/json", "Idempotency-Key": key}
    connection.request("POST", "/api/v2/wallets/me/withdrawals", json.dumps({"amount": "1"}), headers)
    answer = connection.getresponse()
    outcomes[json.loads(answer.read()).get("code", answer.status)] += 1
    connection.close()


def at_once(port: Any, account: Any, keys: Any) -> Any:
    outcomes, cookies = Counter(), cookies_of(account)
    threads = [threading.Thread(target=withdraw, args=(port, cookies, key, outcomes)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_two_hundred_withdrawals_are_all_accounted_for(web: Serving, finn: TradingAccount) -> None:
    pay_in(finn, str(FUNDS))

    outcomes = at_once(web.port, finn, [uuid.uuid4().hex for _ in range(ATTEMPTS)])

    assert set(outcomes) <= {201, "insufficient_funds", "wallet_busy", "concurrent_modification"}
    assert sum(outcomes.values()) == ATTEMPTS
    assert outcomes[201] == LedgerTransfer.objects.filter(kind="WITHDRAWAL").count()
    assert balance(finn) == FUNDS - outcomes[201]
    assert outcomes[201] > 10


def test_one_withdrawal_sent_many_times_is_done_once(web: Serving, finn: TradingAccount) -> None:
    pay_in(finn, "100")

    outcomes = at_once(web.port, finn, ["k" * 32] * 50)

    assert set(outcomes) <= {201, "wallet_busy", "concurrent_modification"}
    assert (MoneyRequest.objects.count(), balance(finn)) == (1, 99)
