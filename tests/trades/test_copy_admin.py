"""Staff's view of copying: copiers, overdue closes, trades not copied, orders. Nothing can be edited."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import TradingAccount
from tests.answers import text
from tests.browsers import of_staff
from tests.signed import Bot, opening
from trades.models import Copier, CopyOrder, CopySkip, OverdueClose
from trades.services import overdue_closes

ACTIVE, HEARTBEAT, SKIPS, ORDERS = (
    "/api/v2/trades/active", "/api/v2/copier/beat", "/api/v2/copier/skips", "/api/v2/trades/orders",
)  # fmt: skip
MODELS = ["copier", "overdueclose", "copyskip", "copyorder"]


def listed(model: Any) -> Any:
    return reverse(f"admin:trades_{model}_changelist")


def rows(answer: Any) -> list[Any]:
    """The table's rows, as their cells' texts."""
    assert answer.status_code == 200
    table = re.search(r'id="result_list".*?</table>', answer.content.decode(), re.DOTALL)
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", table[0].split("<tbody>")[1], re.DOTALL)
    ]


def opened(bot: Any, ticket: str = "1", **more: Any) -> Any:
    return bot.send("POST", fields=opening(ticket, **more)).json()["trade"]["trade_id"]


def close(bot: Any, ticket: Any) -> None:
    assert bot.send("DELETE", f"{ACTIVE}/{ticket}", query="close_price=1.11&profit=5&reason=TP").status_code == 200


def heartbeat(bot: Any, **more: Any) -> None:
    report = {
        "strategy": "lena-eurusd",
        "seq": "0",
        "standing": "LIVE",
        "generation": 1,
        "digest": "0" * 64,
        "copies": [],
    }
    fields = {"instance": "one-" * 4, "fence": None, "subscriptions": [report | more.pop("says", {})], **more}
    assert bot.send("POST", HEARTBEAT, fields).status_code == 200


def ordered(bot: Any, ref: Any, **more: Any) -> None:
    ms = int(ref[:8] + ref[9:13], 16)
    order = {
        "strategy": "lena-eurusd", "seq": "1", "trade_ref": ref, "status": "executed", "requested_price": "1.105",
        "executed_price": "1.10503", "volume": "0.1", "heard_ms": str(ms + 60), "sent_ms": str(ms + 67),
        "filled_ms": str(ms + 157), **more,
    }  # fmt: skip
    assert bot.send("POST", ORDERS, order).status_code in (201, 202)  # 202: its master is out already


@pytest.fixture
def one_row_each(lena_bot: Bot, finn_bot: Bot) -> Any:
    """An overdue close, a reason, an order and a heartbeat of finn's: one row in each list. Returns the trade's id."""
    ref = opened(lena_bot)
    finn_bot.send("POST", fields={**opening("501", volume="0.04"), "strategy": "lena-eurusd", "trade_ref": ref})
    close(lena_bot, "1")
    overdue_closes.update()
    other = opened(lena_bot, "2")
    finn_bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": other, "reason": "slippage", "detail": "8"})
    ordered(finn_bot, ref)
    heartbeat(finn_bot)
    return ref


# --- nobody edits


@pytest.mark.parametrize("page", ["add", "change", "delete"])
@pytest.mark.parametrize("model", MODELS)
def test_a_superuser_cannot_add_change_or_delete(admin: Client, one_row_each: Any, model: str, page: str) -> None:
    model_class: Any = {"copier": Copier, "overdueclose": OverdueClose, "copyskip": CopySkip, "copyorder": CopyOrder}[
        model
    ]
    args = [] if page == "add" else [model_class.objects.get().pk]

    assert admin.post(reverse(f"admin:trades_{model}_{page}", args=args), {"post": "yes"}).status_code == 403
    assert model_class.objects.count() == 1


@pytest.mark.parametrize("model", MODELS)
def test_each_list_needs_its_own_view_permission(one_row_each: Any, model: str) -> None:
    assert of_staff("vera", f"view_{model}").get(listed(model)).status_code == 200
    assert of_staff("otto", "view_tradehistory").get(listed(model)).status_code == 403


@pytest.mark.parametrize("model", MODELS)
def test_each_row_has_a_page(admin: Client, one_row_each: Any, model: str) -> None:
    model_class: Any = {"copier": Copier, "overdueclose": OverdueClose, "copyskip": CopySkip, "copyorder": CopyOrder}[
        model
    ]

    assert "finn-mt5" in text(admin.get(reverse(f"admin:trades_{model}_change", args=[model_class.objects.get().pk])))


@pytest.mark.parametrize("model", MODELS)
def test_the_queries_of_a_list_do_not_depend_on_the_number_of_rows(
    admin: Client, lena_bot: Bot, finn_bot: Bot, sam_copier: Bot, one_row_each: Any, model: str
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert admin.get(listed(model)).status_code == 200
        return len(seen)

    few = queries()
    for ticket in range(3, 8):
        ref = opened(lena_bot, ticket)
        finn_bot.send("POST", fields={**opening(500 + ticket), "strategy": "lena-eurusd", "trade_ref": ref})
        close(lena_bot, ticket)
        ordered(finn_bot, ref)
        finn_bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "missed"})
    sam_copier.send("POST", HEARTBEAT, {"instance": "two-" * 4, "subscriptions": []})
    overdue_closes.update()

    assert queries() == few <= 16


# --- copiers


def test_shows_who_is_online_and_how_the_copies_are_out_of_sync(admin: Client, lena_bot: Bot, finn_bot: Bot) -> None:
    opened(lena_bot)
    heartbeat(finn_bot, says={"seq": "1"})

    ((account, state, _, sync, fence, _),) = rows(admin.get(listed("copier")))

    assert (account, state, fence) == ("finn-mt5", "online", "1")
    assert sync == "out of sync lena-eurusd: 1 missing"


def test_a_copier_that_gave_up_its_lease_is_listed_as_offline(admin: Client, finn_bot: Bot, sam_copier: Bot) -> None:
    heartbeat(finn_bot, ends=True)
    sam_copier.send("POST", HEARTBEAT, {"instance": "two-" * 4, "subscriptions": []})

    def accounts(state: Any) -> list[Any]:
        return [row[0] for row in rows(admin.get(listed("copier"), {"state": state}))]

    assert (accounts("online"), accounts("offline")) == (["sam-mt5"], ["finn-mt5"])


def test_shows_a_copier_that_halted_itself(admin: Client, finn_bot: Bot) -> None:
    heartbeat(finn_bot, says={"standing": "HALT"})

    assert "halted lena-eurusd" in text(admin.get(listed("copier")))


# --- overdue closes


def aged(**age: Any) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute("update close_debts set since = since - %s::interval", [timedelta(**age)])


@pytest.mark.parametrize(
    ("age", "state"),
    [
        ({}, "overdue"),
        ({"seconds": 40}, "overdue over 30 s"),
        ({"minutes": 6}, "overdue over 5 min"),
        ({"hours": 3}, "overdue over 1 h"),
    ],
    ids=str,
)
def test_an_overdue_close_shows_its_age_and_escalation(
    admin: Client, one_row_each: Any, age: dict[str, Any], state: str
) -> None:
    aged(**age)
    overdue_closes.update()

    ((_, chip, length, account, strategy, symbol, lots, closed_at),) = rows(admin.get(listed("overdueclose")))

    assert (chip, account, strategy, symbol, lots, closed_at) == (
        state,
        "finn-mt5",
        "lena-eurusd",
        "EURUSD",
        "0.04",
        "–",
    )
    whole = str(timedelta(**age))
    assert length.split(":")[0] == whole.split(":")[0]


def test_a_late_close_keeps_its_age_and_comes_last(
    admin: Client, lena_bot: Bot, finn_bot: Bot, one_row_each: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(finn_bot, "501")
    ref = opened(lena_bot, "3")
    finn_bot.send("POST", fields={**opening("503"), "strategy": "lena-eurusd", "trade_ref": ref})
    close(lena_bot, "3")
    overdue_closes.update()

    states = [row[1] for row in rows(admin.get(listed("overdueclose")))]

    assert states == ["overdue", "closed"]
    now = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + timedelta(hours=1))
    ((_, state, age, *_),) = rows(admin.get(listed("overdueclose"), {"state": "closed"}))
    assert (state, age.split(":")[:2]) == ("closed", ["0", "00"])


# --- trades not copied


def test_the_reason_of_a_trade_not_copied_is_in_words(admin: Client, one_row_each: Any) -> None:
    ((_, account, strategy, reason, detail, _),) = rows(admin.get(listed("copyskip")))

    assert (account, strategy, detail) == ("finn-mt5", "lena-eurusd", "8")
    assert reason == "the price had moved further than the settings allow"


def test_a_reason_is_found_by_the_id_of_the_trade(admin: Client, one_row_each: Any) -> None:
    skip = CopySkip.objects.get()

    assert len(rows(admin.get(listed("copyskip"), {"q": str(skip.master_trade)}))) == 1
    assert "0 trades not copied" in text(admin.get(listed("copyskip"), {"q": str(one_row_each)}))


# --- orders


def test_latency_is_split_into_desk_copier_and_broker(admin: Client, one_row_each: Any) -> None:
    (row,) = rows(admin.get(listed("copyorder")))

    assert row[4:9] == ["0.27", "67", "60", "7", "90"]


def test_the_summary_covers_the_filtered_orders(
    admin: Client, lena_bot: Bot, finn_bot: Bot, cast: dict[str, Any]
) -> None:
    refs = [opened(lena_bot, ticket) for ticket in (1, 2, 3)]
    for ref, latency, price in zip(refs, (10, 20, 400), ("1.105", "1.1051", "1.1061"), strict=True):
        ordered(finn_bot, ref, latency_ms=latency, executed_price=price)

    page = text(admin.get(listed("copyorder")))
    assert "Executed orders 3" in page
    assert "Latency, median 20 ms" in page and "Latency, p95 362 ms" in page
    assert "Slippage, median 0.90 bps" in page

    filtered = text(admin.get(listed("copyorder"), {"q": "1"}))
    assert "Executed orders 1" in filtered and "Latency, median 10 ms" in filtered


def test_there_is_no_summary_without_executed_orders(admin: Client, cast: dict[str, Any]) -> None:
    assert "Latency, median" not in text(admin.get(listed("copyorder")))


# --- accounts


def test_an_account_shows_the_equity_that_its_bot_reported(admin: Client, finn: TradingAccount, finn_bot: Bot) -> None:
    finn_bot.send("POST", "/api/v2/account", {"balance": "1000.5", "equity": "998.25"})
    page = reverse("admin:accounts_tradingaccount_change", args=[finn.pk])

    shown = text(admin.get(page))
    assert "1,000.50" in shown and "998.25" in shown

    admin.post(page, {"name": finn.name, "currency": "USD", "balance": "1", "equity": "1"})
    finn.refresh_from_db()
    assert (str(finn.balance), str(finn.equity)) == ("1000.50000000", "998.25000000")
