"""A close is overdue until the copier's own close arrives."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections

from accounts.models import TradingAccount
from audit.models import AuditLog
from tests.signed import Bot, opening
from trades.models import OverdueClose, TradeHistory
from trades.services import overdue_closes

ACTIVE = "/api/v2/trades/active"


@pytest.fixture
def copied(lena_bot: Bot, finn_bot: Bot) -> Any:
    """The id of lena's open trade, of which finn holds a copy."""
    ref = lena_bot.send("POST", fields=opening("1")).json()["trade"]["trade_id"]
    copy = {**opening("501", volume="0.05"), "strategy": "lena-eurusd", "trade_ref": ref}
    assert finn_bot.send("POST", fields=copy).status_code == 201
    return ref


def close(bot: Any, ticket: Any) -> None:
    answer = bot.send("DELETE", f"{ACTIVE}/{ticket}", query="close_price=1.11&profit=5&reason=TP")
    assert answer.status_code == 200, answer.content


def aged(**age: Any) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute("update close_debts set since = since - %s::interval", [timedelta(**age)])


def test_no_close_is_overdue_while_the_providers_trade_is_open(copied: Any) -> None:
    assert overdue_closes.update() == 0
    assert not OverdueClose.objects.exists()


def test_a_close_is_overdue_from_the_close_of_the_providers_trade(
    lena_bot: Bot, copied: Any, finn: TradingAccount
) -> None:
    close(lena_bot, "1")

    assert overdue_closes.update() == 1

    overdue_close = OverdueClose.objects.get()
    assert (overdue_close.account_id, str(overdue_close.volume), str(overdue_close.master_trade)) == (
        finn.pk,
        "0.05000000",
        copied,
    )
    assert overdue_close.since == TradeHistory.objects.get().closed_at
    assert (overdue_close.level, overdue_close.closed_at) == (0, None)


def test_only_the_copys_own_close_ends_an_overdue_close(lena_bot: Bot, finn_bot: Bot, copied: Any) -> None:
    close(lena_bot, "1")
    overdue_closes.update()
    close(finn_bot, "501")

    assert overdue_closes.update() == 0

    assert OverdueClose.objects.get().closed_at == TradeHistory.objects.get(ticket_id="501").closed_at


def test_a_copy_that_closed_first_is_never_overdue(lena_bot: Bot, finn_bot: Bot, copied: Any) -> None:
    close(finn_bot, "501")
    close(lena_bot, "1")

    assert overdue_closes.update() == 0
    assert not OverdueClose.objects.exists()


@pytest.mark.parametrize(
    ("age", "level"),
    [({"seconds": 20}, 0), ({"seconds": 31}, 1), ({"minutes": 6}, 2), ({"hours": 2}, 3)],
    ids=str,
)
def test_an_old_overdue_close_is_escalated_once_for_each_level(
    lena_bot: Bot, copied: Any, age: dict[str, Any], level: int
) -> None:
    close(lena_bot, "1")
    overdue_closes.update()
    aged(**age)

    overdue_closes.update()
    overdue_closes.update()

    assert OverdueClose.objects.get().level == level
    audit_rows = AuditLog.objects.filter(action="debt.escalated")
    assert [fact.detail["level"] for fact in audit_rows] == [level][: bool(level)]


def test_frequent_updates_record_every_level(lena_bot: Bot, copied: Any) -> None:
    close(lena_bot, "1")
    for age in ({}, {"seconds": 31}, {"minutes": 5}, {"hours": 1}):
        overdue_closes.update()
        aged(**age)
        overdue_closes.update()

    audit_rows = AuditLog.objects.filter(action="debt.escalated").order_by("id")
    assert [fact.detail["level"] for fact in audit_rows] == [1, 2, 3]


def test_a_partial_close_makes_no_overdue_close(lena_bot: Bot, copied: Any) -> None:
    lena_bot.send("POST", f"{ACTIVE}/1/reduce", {"deal_id": "1", "volume": "0.05", "close_price": "1", "profit": "1"})

    assert overdue_closes.update() == 0


@pytest.mark.parametrize("statement", ["delete from close_debts", "update close_debts set since = now()"])
def test_the_application_cannot_rejuvenate_or_delete_an_overdue_close(
    lena_bot: Bot, copied: Any, statement: str
) -> None:
    close(lena_bot, "1")
    overdue_closes.update()

    with connection.cursor() as cursor, pytest.raises(DatabaseError):
        cursor.execute(statement)
