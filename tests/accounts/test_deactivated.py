"""A deactivated person's bots open and read nothing from the next request on; their closes and reports pass."""

from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from accounts.models import TradingAccount, User
from audit.models import AuditLog
from tests.answers import refusal
from tests.signed import Bot, opening

ACTIVE = "/api/v2/trades/active"
INACTIVE = (403, "owner_inactive")


def deactivate(account: TradingAccount) -> None:
    User.objects.filter(pk=account.owner_id).update(is_active=False)


@pytest.fixture
def lena_left(lena: TradingAccount, lena_bot: Bot) -> Bot:
    """Lena's bot, with two open trades, after she was deactivated."""
    for ticket in ("1", "2"):
        assert lena_bot.send("POST", fields=opening(ticket, volume="0.2")).status_code == 201
    deactivate(lena)
    return lena_bot


@pytest.mark.parametrize("path", [ACTIVE, "/api/v2/actives", "/signals"])
def test_reads_are_refused(path: str, lena_left: Bot) -> None:
    answer = lena_left.send("GET", path)

    assert refusal(answer) == INACTIVE
    assert "trades" not in answer.json()
    assert "EURUSD" not in answer.content.decode()


@pytest.mark.parametrize("path", [ACTIVE, "/api/v2/actives", "/signal/broadcast"])
def test_opens_are_refused(path: str, lena_left: Bot) -> None:
    assert refusal(lena_left.send("POST", path, opening("3"))) == INACTIVE
    assert AuditLog.objects.filter(action="trade.opened").count() == 2


def test_changes_of_stops_and_account_reports_are_refused(lena_left: Bot) -> None:
    assert refusal(lena_left.send("PATCH", f"{ACTIVE}/1", {"sl": "1.09"})) == INACTIVE
    assert refusal(lena_left.send("POST", "/api/v2/account", {"balance": "1", "equity": "1"})) == INACTIVE


def test_closes_and_reductions_pass(lena_left: Bot) -> None:
    part = {"deal_id": "d-1", "volume": "0.1", "close_price": "1.1", "profit": "1"}
    assert lena_left.send("POST", f"{ACTIVE}/1/reduce", part).status_code == 200
    assert lena_left.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=5").status_code == 200
    close = {"ticket_id": "2", "close_price": "1.1", "profit": "5"}
    assert lena_left.send("POST", "/api/v2/signal/close", close).json()["status"] == "CLOSED"
    assert AuditLog.objects.filter(action="trade.closed").count() == 2


def test_in_a_batch_the_closes_pass_and_the_opens_do_not(lena_left: Bot) -> None:
    close = {"ticket_id": "1", "close_price": "1", "profit": "1"}
    operations = [
        {"action": "open", "idempotency_key": "open-000000000000003", **opening("3")},
        {"action": "close", "idempotency_key": "close-00000000000001", **close},
    ]

    results = lena_left.send("POST", f"{ACTIVE}/batch", {"operations": operations}).json()["results"]

    assert [result["status"] for result in results] == [403, 200]
    assert results[0]["problem"]["code"] == "owner_inactive"


def test_a_copiers_reports_pass_and_its_copies_close(finn: TradingAccount, finn_bot: Bot, lena_bot: Bot) -> None:
    assert lena_bot.send("POST", fields=opening("1")).status_code == 201
    copy = {"master_ticket": "1", "strategy": "lena-eurusd"}
    assert finn_bot.send("POST", fields=opening("91", **copy)).status_code == 201
    deactivate(finn)
    order: dict[str, Any] = {
        "strategy": "lena-eurusd", "seq": "1", "master_ticket": "1", "status": "executed", "type": "BUY",
        "requested_price": "1.105", "executed_price": "1.105", "volume": "0.1",
    }  # fmt: skip

    assert refusal(finn_bot.send("POST", fields=opening("92", **copy))) == INACTIVE
    beat = {"instance": "a-copier-of-finn", "subscriptions": []}
    assert refusal(finn_bot.send("POST", "/api/v2/copier/beat", beat)) == INACTIVE
    assert finn_bot.send("POST", "/api/v2/trades/orders", order).status_code == 201
    assert finn_bot.send("DELETE", f"{ACTIVE}/91", query="close_price=1.1&profit=5").status_code == 200


def test_a_reactivated_persons_bot_goes_on(lena: TradingAccount, lena_left: Bot) -> None:
    refused = lena_left.request("POST", fields=opening("3"))
    assert refusal(refused.send()) == INACTIVE
    User.objects.filter(pk=lena.owner_id).update(is_active=True)

    assert lena_left.send("POST", fields=opening("3"), effect=refused.effect).status_code == 201
    assert lena_left.send("GET").json()["count"] == 3


def test_the_refusal_is_audited_with_key_and_address(lena_left: Bot) -> None:
    lena_left.send("GET")
    lena_left.send("POST", fields=opening("3"))

    rows = AuditLog.objects.filter(code="owner_inactive")
    assert [(row.actor, row.ip, row.detail["method"]) for row in rows.order_by("id")] == [
        (lena_left.key, "127.0.0.1", "GET"),
        (lena_left.key, "127.0.0.1", "POST"),
    ]


def test_the_check_costs_no_query_of_its_own(lena_bot: Bot) -> None:
    lena_bot.send("GET")
    with CaptureQueriesContext(connections["bot"]) as bots, CaptureQueriesContext(connections["default"]) as people:
        assert lena_bot.send("POST", fields=opening("1")).status_code == 201

    assert len(people) == 0
    assert len(bots) <= 1
