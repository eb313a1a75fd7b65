"""A copier's execution report: stored as reported, compared with the requested price, and without effect on trades."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Strategy
from tests.answers import refusal
from tests.conftest import key_of
from tests.signed import Bot, opening
from tests.transactions import committed
from trades import services
from trades.models import ActiveTrade, CopyOrder

ORDERS = "/api/v2/trades/orders"
EXECUTED: dict[str, Any] = {
    "strategy": "lena-eurusd", "seq": "1", "master_ticket": "1", "status": "executed", "requested_price": "1.10500000",
    "executed_price": "1.10503000", "volume": "0.05", "latency_ms": 84,
}  # fmt: skip


@pytest.fixture
def copier(lena_bot: Bot, finn_bot: Bot) -> Bot:
    """Finn's bot, with lena's BUY 1 and SELL 2 of EURUSD open."""
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("POST", fields=opening("2", type="SELL", sl="1.12", tp="1.10"))
    return finn_bot


def report(bot: Any, **more: Any) -> Any:
    fields = {name: value for name, value in {**EXECUTED, **more}.items() if value is not None}
    return bot.send("POST", ORDERS, fields)


@pytest.mark.parametrize(
    ("ticket", "executed", "points", "bps"),
    [
        ("1", "1.10503000", "3.00000000", "0.27149321"),  # a buy that paid more
        ("1", "1.10497000", "-3.00000000", "-0.27149321"),  # a buy that paid less
        ("2", "1.10503000", "-3.00000000", "-0.27149321"),  # a sell that got more
        ("2", "1.10500000", "0.00000000", "0.00000000"),
    ],
)
def test_slippage_is_positive_for_a_worse_price_on_both_sides(
    copier: Bot, ticket: str, executed: str, points: str, bps: str
) -> None:
    answer = report(copier, master_ticket=ticket, executed_price=executed)

    assert answer.status_code == 201
    assert (answer.json()["slippage_points"], answer.json()["slippage_bps"]) == (points, bps)
    order = CopyOrder.objects.get()
    assert (order.slippage_points, order.slippage_bps) == (Decimal(points), Decimal(bps))


def test_a_report_is_stored_as_sent_and_audited(copier: Bot, finn: TradingAccount, lena: TradingAccount) -> None:
    answer = report(copier)

    order = CopyOrder.objects.get()
    assert answer.json()["order_id"] == str(order.pk)
    assert (order.account, order.strategy.account, order.seq, order.master_ticket) == (finn, lena, 1, "1")
    assert (order.symbol, order.type, order.status, order.latency_ms) == ("EURUSD", "BUY", "executed", 84)
    audit_row = AuditLog.objects.get(action="order.reported")
    assert (audit_row.actor, audit_row.subject) == (copier.key, f"order:{order.pk}")


@pytest.mark.parametrize("status", ["pending", "failed", "cancelled"])
def test_an_order_that_was_not_executed_has_no_slippage(copier: Bot, status: str) -> None:
    answer = report(copier, status=status, executed_price=None, latency_ms=None, failed_reason="no money")

    assert answer.status_code == 201
    assert answer.json().get("slippage_points") is None
    assert CopyOrder.objects.get().failed_reason == "no money"


def test_a_report_about_a_closed_or_unknown_trade_is_accepted_as_late(copier: Bot, lena_bot: Bot) -> None:
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.11&profit=5")

    closed, unknown = report(copier), report(copier, master_ticket="99")

    assert (closed.status_code, closed.json()["status"]) == (202, "reported_late")
    assert closed.json()["slippage_points"] == "3.00000000"
    assert unknown.status_code == 202
    assert unknown.json().get("slippage_points") is None
    assert CopyOrder.objects.count() == 2


def test_a_report_changes_no_trade_and_no_number(copier: Bot, lena: TradingAccount, finn: TradingAccount) -> None:
    before = list(ActiveTrade.objects.order_by("pk").values())

    report(copier)
    report(copier, status="failed", executed_price=None)

    assert list(ActiveTrade.objects.order_by("pk").values()) == before
    assert Strategy.objects.get(account=lena).last_seq == 2
    finn.refresh_from_db()
    assert finn.copy_seq == 0


def test_a_repeated_report_is_stored_once(copier: Bot) -> None:
    first = copier.send("POST", ORDERS, EXECUTED, effect="order-00000000001")
    again = copier.send("POST", ORDERS, EXECUTED, effect="order-00000000001")

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert CopyOrder.objects.count() == 1


def test_refuses_a_report_for_a_strategy_that_is_not_followed(copier: Bot, cast: dict[str, Any]) -> None:
    assert refusal(report(copier, strategy="sam-xauusd")) == (404, "not_found")
    assert refusal(report(Bot(key_of(cast, "sam", "copier")))) == (404, "not_found")
    assert not CopyOrder.objects.exists()


def test_a_providers_key_cannot_report_orders(copier: Bot, lena_bot: Bot) -> None:
    assert refusal(report(lena_bot)) == (403, "scope_denied")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "done"),
        ("executed_price", None),
        ("requested_price", "cheap"),
        ("volume", "-1"),
        ("seq", "0"),
        ("master_ticket", "x"),
        ("latency_ms", -1),
        ("failed_reason", "x" * 257),
        ("profit", "1"),
    ],
)
def test_names_the_field_that_cannot_be_read(copier: Bot, field: str, value: str | int | None) -> None:
    answer = report(copier, **{field: value})

    assert refusal(answer) == (422, "invalid")
    assert list(answer.json()["fields"]) == [field]
    assert not CopyOrder.objects.exists()


def test_a_reversed_copys_order_has_the_copys_own_side(copier: Bot) -> None:
    answer = report(copier, type="SELL", executed_price="1.10497000")

    assert answer.json()["slippage_points"] == "3.00000000"  # a sell that got less
    assert CopyOrder.objects.get().type == "SELL"


def test_a_providers_own_copies_are_not_shown_to_followers(lena: TradingAccount, sam_bot: Bot, copier: Bot) -> None:
    """Lena follows sam with the account that publishes her strategy."""
    committed(strategies.subscribe, account=lena, strategy=Strategy.objects.get(name="sam-xauusd"), actor=audit.SYSTEM)
    sam_bot.send("POST", fields=opening("7", symbol="XAUUSD"))
    with transaction.atomic():
        outcome = services.open_trade(
            account=lena, ticket_id="777", symbol="XAUUSD", type="BUY", volume=Decimal("0.1"),
            open_price=Decimal(2000), copies=("sam-xauusd", "7"),
        )  # fmt: skip
    ref = outcome["trade"]["trade_id"]

    named = report(copier, master_ticket=None, trade_ref=ref)
    skipped = copier.send(
        "POST", "/api/v2/copier/skips", {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "missed"}
    )
    copied = copier.send("POST", fields={**opening("501"), "strategy": "lena-eurusd", "trade_ref": ref})
    assert [refusal(answer) for answer in (named, skipped, copied)] == [(404, "trade_unknown")] * 3
    by_ticket = report(copier, master_ticket="777")
    assert (by_ticket.status_code, by_ticket.json()["slippage_points"]) == (202, None)
