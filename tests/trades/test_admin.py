"""Trades in the admin: what staff may do, and what nobody may."""

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import TradingAccount, User
from audit.models import AuditLog
from market.models import Candle
from tests.signed import Bot, opening
from trades import services
from trades.models import ActiveTrade, CopyOrder, TradeHistory

READ_ONLY = ["trades_activetrade", "trades_tradehistory", "trades_copyorder", "audit_auditlog"]
ORDER = {
    "strategy": "lena-eurusd", "seq": "1", "master_ticket": "2", "status": "failed", "requested_price": "1.1",
    "volume": "0.1",
}  # fmt: skip
ACTIVE, CLOSED = "admin:trades_activetrade_changelist", "admin:trades_tradehistory_changelist"


def open_trade(account: Any, ticket: str = "1", **more: Any) -> Any:
    fields = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal("0.1"), "open_price": Decimal("1.105"), **more}
    with transaction.atomic():
        return services.open_trade(account=account, ticket_id=ticket, **fields)["trade"]["trade_id"]


def close_trade(account: Any, ticket: str = "1", profit: str = "5", **more: Any) -> TradeHistory:
    open_trade(account, ticket, **more)
    with transaction.atomic():
        services.close_trade(
            account=account, ticket_id=ticket, close_price=Decimal("1.11"), profit=Decimal(profit), reason="TP"
        )
    return TradeHistory.objects.get(account=account, ticket_id=ticket)


def force_close(browser: Any, *trade_ids: Any, **more: Any) -> Any:
    form = {
        "action": "force_close", "_selected_action": trade_ids, "confirmed": "1", "note": "the provider's bot is gone",
        "form-TOTAL_FORMS": len(trade_ids), "form-INITIAL_FORMS": len(trade_ids),
    }  # fmt: skip
    for number, trade_id in enumerate(trade_ids):
        form |= {f"form-{number}-trade_id": trade_id, f"form-{number}-close_price": f"1.1{number}"}
    return browser.post(reverse(ACTIVE), {**form, **more}, follow=True)


@pytest.fixture
def market(cast: dict[str, Any]) -> None:
    """EURUSD stands at 1.1."""
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    prices = dict.fromkeys(("open", "high", "low", "close"), Decimal("1.1"))
    Candle.objects.create(instrument_id="EURUSD", minutes=60, opened_at=hour, volume=1, **prices)


def exported(answer: Any) -> list[Any]:
    return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))


# --- nobody edits


@pytest.mark.parametrize("model", READ_ONLY)
@pytest.mark.parametrize("page", ["add", "change", "delete"])
def test_a_superuser_cannot_add_change_or_delete(
    admin: Client, lena: TradingAccount, finn_bot: Bot, model: str, page: str
) -> None:
    closed = close_trade(lena)
    is_open = open_trade(lena, "2")
    finn_bot.send("POST", "/api/v2/trades/orders", fields=ORDER)
    rows = (is_open, closed.pk, CopyOrder.objects.get().pk, AuditLog.objects.first().pk)
    pk = dict(zip(READ_ONLY, rows, strict=True))[model]
    url = reverse(f"admin:{model}_{page}", args=[] if page == "add" else [pk])

    assert admin.post(url, {"post": "yes", "symbol": "XAUUSD"}).status_code == 403
    assert [TradeHistory.objects.get().symbol, ActiveTrade.objects.get().symbol] == ["EURUSD", "EURUSD"]


@pytest.mark.parametrize("model", READ_ONLY)
def test_no_list_offers_to_delete(admin: Client, lena: TradingAccount, model: str) -> None:
    close_trade(lena)
    listed = reverse(f"admin:{model}_changelist")

    admin.post(listed, {"action": "delete_selected", "_selected_action": TradeHistory.objects.get().pk, "post": "yes"})

    assert "delete_selected" not in admin.get(listed).content.decode()
    assert TradeHistory.objects.count() == 1


@pytest.mark.parametrize("model", READ_ONLY)
def test_staff_without_the_view_permission_sees_nothing(
    clerk: Callable[..., Any], lena: TradingAccount, model: str
) -> None:
    assert clerk().get(reverse(f"admin:{model}_changelist")).status_code == 403


def test_export_needs_the_view_permission_too(clerk: Callable[..., Any], lena: TradingAccount) -> None:
    assert clerk("view_activetrade").get(reverse("admin:trades_tradehistory_export")).status_code == 403
    assert not AuditLog.objects.filter(action="history.exported").exists()


# --- force close


@pytest.mark.usefixtures("market")
def test_force_close_moves_the_trade_and_keeps_the_reason(admin: Client, lena: TradingAccount, staff: User) -> None:
    trade_id = open_trade(lena)

    answer = force_close(admin, trade_id)

    assert "Ticket 1 is closed. At 1.10000 the profit is -50.00." in answer.content.decode()
    closed = TradeHistory.objects.get(trade_id=trade_id)
    assert (closed.reason, closed.profit, closed.close_price) == ("STAFF", -50, Decimal("1.1"))
    fact = AuditLog.objects.get(action="trade.closed")
    assert (fact.actor_kind, fact.actor) == ("staff", str(staff.pk))
    assert fact.detail["note"] == "the provider's bot is gone"


@pytest.mark.usefixtures("market")
def test_force_close_asks_for_price_and_reason_first(admin: Client, lena: TradingAccount) -> None:
    trade_id = open_trade(lena)

    page = admin.post(reverse(ACTIVE), {"action": "force_close", "_selected_action": trade_id})
    invalid = force_close(admin, trade_id, note=" ", **{"form-0-close_price": "one"})

    assert 'value="Close the trade"' in page.content.decode()
    assert invalid.content.decode().count('class="errorlist"') == 2
    assert ActiveTrade.objects.filter(trade_id=trade_id).exists()


@pytest.mark.usefixtures("market")
def test_force_close_takes_several_each_at_its_own_price(
    admin: Client, lena: TradingAccount, sam: TradingAccount
) -> None:
    hers, his = open_trade(lena), open_trade(sam)

    force_close(admin, hers, his)

    prices = dict(TradeHistory.objects.values_list("account__name", "close_price"))
    assert prices == {"lena-mt5": Decimal("1.1"), "sam-mt5": Decimal("1.11")}


@pytest.mark.usefixtures("market")
def test_a_trade_closed_meanwhile_is_refused_and_the_other_is_closed(admin: Client, lena: TradingAccount) -> None:
    gone, other = close_trade(lena, "1").pk, open_trade(lena, "2")

    answer = force_close(admin, gone, other)

    messages = [str(message) for message in answer.context["messages"]]
    assert messages[0].startswith(f"Trade {gone}: ")
    assert messages[0].endswith("(trade_closed)")
    assert messages[1].startswith("Ticket 2 is closed.")
    assert TradeHistory.objects.get(pk=other).close_price == Decimal("1.11")


@pytest.mark.usefixtures("market")
def test_an_invalid_form_keeps_each_price_beside_its_trade(admin: Client, lena: TradingAccount) -> None:
    gone, other = close_trade(lena, "1").pk, open_trade(lena, "2", symbol="GBPUSD")

    rows = dict(force_close(admin, gone, other, note="").context["rows"]).values()

    assert [row and row.symbol for row in rows] == [None, "GBPUSD"]


@pytest.mark.usefixtures("market")
def test_force_close_needs_the_change_permission(clerk: Callable[..., Any], lena: TradingAccount) -> None:
    trade_id = open_trade(lena)
    viewer = clerk("view_activetrade")

    force_close(viewer, trade_id)

    assert "force_close" not in viewer.get(reverse(ACTIVE)).content.decode()
    assert ActiveTrade.objects.filter(trade_id=trade_id).exists()


@pytest.mark.usefixtures("market")
def test_staff_with_the_change_permission_may_force_a_close(clerk: Callable[..., Any], lena: TradingAccount) -> None:
    force_close(clerk("view_activetrade", "change_activetrade"), open_trade(lena))

    assert TradeHistory.objects.get().reason == "STAFF"


# --- history


def test_history_is_exported_as_filtered(admin: Client, lena: TradingAccount) -> None:
    close_trade(lena, "1")
    close_trade(lena, "2", symbol="GBPUSD")

    rows = exported(admin.get(reverse("admin:trades_tradehistory_export"), {"symbol": "GBPUSD"}))

    assert [row["ticket_id"] for row in rows] == ["2"]


@pytest.mark.parametrize("symbol", ["@SUM", "+EUR", "-EUR"])
def test_exported_cells_are_never_formulas_and_losses_stay_numbers(
    admin: Client, lena: TradingAccount, symbol: str
) -> None:
    close_trade(lena, profit="-5", symbol=symbol)

    (row,) = exported(admin.get(reverse("admin:trades_tradehistory_export")))

    assert row["symbol"] == f"'{symbol}"
    assert row["profit"] == "-5.00000000"


def test_an_unknown_filter_is_a_bad_request(admin: Client, lena: TradingAccount) -> None:
    answer = admin.get(reverse("admin:trades_tradehistory_export"), {"nonsense": "1"})

    assert answer.status_code == 400


def test_viewing_the_history_is_recorded_with_its_filters(admin: Client, lena: TradingAccount, staff: User) -> None:
    closed = close_trade(lena)

    admin.get(reverse(CLOSED), {"reason__exact": "TP"})
    admin.get(reverse("admin:trades_tradehistory_change", args=[closed.pk]))
    admin.get(reverse("admin:trades_tradehistory_export"))

    of_history = AuditLog.objects.filter(actor=str(staff.pk), action__startswith="history.")
    facts = list(of_history.order_by("id").values_list("action", "subject", "detail"))
    assert facts == [
        ("history.viewed", "", {"filters": "reason__exact=TP"}),
        ("history.viewed", f"trade:{closed.pk}", {}),
        ("history.exported", "", {"filters": ""}),
    ]


# --- pages


@pytest.mark.parametrize("sought", ["1", "GBPUSD", "lena", "id"])
@pytest.mark.parametrize("page", [ACTIVE, CLOSED])
def test_trades_are_found_by_ticket_symbol_account_and_id(
    admin: Client, lena: TradingAccount, sam: TradingAccount, page: Any, sought: str
) -> None:
    make = open_trade if page == ACTIVE else close_trade
    trade = make(lena, "1", symbol="GBPUSD")
    make(sam, "2")
    wanted = getattr(trade, "pk", trade) if sought == "id" else sought

    (row,) = admin.get(reverse(page), {"q": wanted}).context["cl"].result_list

    assert row.ticket_id == "1"


@pytest.mark.usefixtures("market")
def test_the_page_of_a_trade_shows_its_audit_log(admin: Client, lena: TradingAccount) -> None:
    trade_id = open_trade(lena)
    with transaction.atomic():
        services.reduce_trade(
            account=lena, ticket_id="1", deal_id="d-77", volume=Decimal("0.04"), close_price=Decimal("1.2"),
            profit=Decimal("12.5"),
        )  # fmt: skip
    force_close(admin, trade_id)

    page = admin.get(reverse("admin:trades_tradehistory_change", args=[trade_id])).content.decode()

    facts = ["trade.opened", "trade.reduced", "trade.closed"]
    assert [fact for fact in facts if f">{fact}</a>" in page] == facts
    assert "by staff desk" in page
    assert "the provider&#x27;s bot is gone" in page
    assert "d-77" in page
    assert "+12.50" in page


@pytest.mark.parametrize("model", ["trades_activetrade", "trades_tradehistory"])
def test_an_unknown_id_redirects_to_the_index(admin: Client, cast: dict[str, Any], model: str) -> None:
    for nothing in ("nonsense", "01a1fb95-33a0-752c-8343-2269e594f9df"):
        answer = admin.get(reverse(f"admin:{model}_change", args=[nothing]))

        assert (answer.status_code, answer["Location"]) == (302, "/admin/")


@pytest.mark.parametrize("page", ["trades_activetrade", "trades_tradehistory", "audit_auditlog", "accounts_botkey"])
def test_the_queries_of_a_list_do_not_depend_on_the_number_of_rows(
    admin: Client,
    lena: TradingAccount,
    sam: TradingAccount,
    page: str,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    def some(numbers: Any) -> None:
        for number in numbers:
            close_trade(lena, f"1{number}")
            open_trade(sam, f"2{number}")

    listed = reverse(f"admin:{page}_changelist")
    some(range(2))
    with CaptureQueriesContext(connection) as of_two:
        admin.get(listed)
    cost = len(of_two)
    some(range(2, 9))

    with django_assert_num_queries(cost):
        assert admin.get(listed).status_code == 200
    assert cost <= 16


def test_a_frozen_strategy_refuses_opens_and_takes_closes(admin: Client, lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    form = {"action": "freeze", "_selected_action": lena.strategy.pk, "confirmed": "1", "reason": "under review"}

    admin.post(reverse("admin:strategies_strategy_changelist"), form)

    assert lena_bot.send("POST", fields=opening("2")).json()["code"] == "strategy_close_only"
    closing = {"ticket_id": "1", "close_price": "1.1", "profit": "0"}
    assert lena_bot.send("POST", "/api/v2/signal/close", closing).status_code == 200
    assert AuditLog.objects.get(action="strategy.frozen").detail == {"reason": "under review"}
