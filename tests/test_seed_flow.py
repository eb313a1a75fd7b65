"""The example of the first documents, word for word, and the closed trade's place in history."""

from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from django.test import Client

from accounts.models import TradingAccount
from tests.signed import HOST, Bot

BROADCAST: dict[str, Any] = {
    "ticket_id": 99999,
    "master_ticket": 99999,
    "symbol": "EURUSD",
    "type": "BUY",
    "volume": 0.1,
    "open_price": 1.105,
    "sl": 1.1,
    "tp": 1.12,
}
CLOSE: dict[str, Any] = {"ticket_id": 99999, "close_price": 1.11, "profit": 50.0, "reason": "TP_HIT"}


def unsigned(method: Any, path: Any, fields: Any = None) -> Any:
    return Client().generic(method, path, b"{}" if fields else b"", content_type="application/json", HTTP_HOST=HOST)


def history_of(user: Any) -> Any:
    person = Client()
    person.force_login(user)
    return person.get("/api/v2/trades/history", HTTP_HOST=HOST).json()["data"]


def test_the_example_of_the_first_documents(lena_bot: Bot, lena: TradingAccount) -> None:
    # 1. Broadcasting Signal to Active V2
    answer = lena_bot.send("POST", "/api/v2/actives", BROADCAST)
    assert (answer.status_code, answer.content) == (200, b'{"status":"broadcasted","ticket":99999}')

    # 2. Verifying in Active Trades
    answer = lena_bot.send("GET", "/api/v2/actives")
    assert answer.status_code == 200
    (listed,) = answer.json()
    assert (listed["ticket_id"], listed["status"]) == (99999, "OPEN")
    assert answer.content.startswith(b"[{")

    # 3. Closing (Atomic Move V2)
    answer = lena_bot.send("POST", "/api/v2/signal/close", CLOSE)
    assert (answer.status_code, answer.content) == (200, b'{"status":"CLOSED","ticket":99999}')

    # 4. Verifying Gone from Active
    answer = lena_bot.send("GET", "/api/v2/actives")
    assert (answer.status_code, answer.content) == (200, b"[]")

    # Not part of the example: the trade is in history.
    (closed,) = history_of(lena.owner)
    assert (closed["ticket_id"], closed["profit"], closed["reason"]) == ("99999", "50.00000000", "TP")
    assert (closed["open_price"], closed["close_price"]) == ("1.10500000", "1.11000000")


def test_unsigned_requests_are_blocked(lena_bot: Bot, lena: TradingAccount) -> None:
    for method, path, fields in (
        ("POST", "/api/v2/actives", BROADCAST),
        ("GET", "/api/v2/actives", None),
        ("POST", "/api/v2/signal/close", CLOSE),
        ("POST", "/signal/broadcast", BROADCAST),
        ("GET", "/signals", None),
        ("POST", "/signal/close", CLOSE),
    ):
        answer = unsigned(method, path, fields)

        assert (answer.status_code, answer.json()["code"]) == (400, "request_malformed")
    assert lena_bot.send("GET", "/api/v2/actives").json() == []


def test_the_zombie_of_the_first_documents_is_refused(lena_bot: Bot, lena: TradingAccount) -> None:
    lena_bot.send("POST", "/api/v2/actives", BROADCAST)
    lena_bot.send("POST", "/api/v2/signal/close", CLOSE)

    for path in ("/api/v2/actives", "/signal/broadcast", "/api/v2/trades/active"):
        fields = {**BROADCAST, "ticket_id": "99999"}
        again = lena_bot.send("POST", path, fields)
        assert (again.status_code, again.json()["code"]) == (409, "trade_closed")
    assert lena_bot.send("GET", "/api/v2/actives").json() == []
    assert len(history_of(lena.owner)) == 1


def test_a_second_close_says_that_the_trade_is_closed(lena_bot: Bot) -> None:
    lena_bot.send("POST", "/api/v2/actives", BROADCAST)
    lena_bot.send("POST", "/api/v2/signal/close", CLOSE)

    again = lena_bot.send("POST", "/api/v2/signal/close", CLOSE)

    assert (again.status_code, again.json()) == (200, {"status": "CLOSED", "ticket": 99999, "already": True})


@pytest.mark.parametrize("names", [{"ticket": 5, "price": 1.1}, {"ticket_id": "5", "open_price": "1.1"}])
def test_field_names_of_the_first_version_are_accepted(names: dict[str, Any], lena_bot: Bot) -> None:
    fields = {"symbol": "EURUSD", "direction": "BUY", "volume": 0.1, "source": "mt5", **names}

    assert lena_bot.send("POST", "/signal/broadcast", fields).json() == {"status": "broadcasted", "ticket": 5}
    (listed,) = lena_bot.send("GET", "/signals").json()
    assert (listed["ticket_id"], listed["open_price"], listed["volume"]) == (5, "1.10000000", "0.10000000")
    close = {"price": 1.2, "profit": 1, "ticket": 5, "reason": "SL_HIT"}
    assert lena_bot.send("POST", "/signal/close", close).json() == {"status": "CLOSED", "ticket": 5}


def test_the_first_version_announces_its_end(lena_bot: Bot) -> None:
    answers = [
        lena_bot.send("POST", "/signal/broadcast", BROADCAST),
        lena_bot.send("GET", "/signals"),
        lena_bot.send("POST", "/signal/close", CLOSE),
        lena_bot.send("POST", "/signal/close", {}),
        unsigned("GET", "/signals"),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 400]
    for answer in answers:
        assert answer["Deprecation"].startswith("@")
        assert int(answer["Deprecation"][1:]) < parsedate_to_datetime(answer["Sunset"]).timestamp()
        assert answer["Link"] == '</api/docs/>; rel="deprecation"'
    assert "Sunset" not in lena_bot.send("GET", "/api/v2/actives")


def test_the_versions_share_their_tables(lena_bot: Bot) -> None:
    lena_bot.send("POST", "/signal/broadcast", BROADCAST)

    assert lena_bot.send("GET").json()["trades"][0]["ticket_id"] == "99999"
    assert lena_bot.send("GET", "/api/v2/actives").json() == lena_bot.send("GET", "/signals").json()
    closed = lena_bot.send("DELETE", "/api/v2/trades/active/99999", query="close_price=1.11&profit=50&reason=TP")
    assert closed.json()["status"] == "CLOSED"
    assert lena_bot.send("GET", "/signals").json() == []
