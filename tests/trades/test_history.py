"""People read their own closed trades: filtered, by page or as CSV."""

import base64
import csv
import io
import json
import uuid
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import TradingAccount
from core import responses
from tests.signed import HOST, Bot, opening
from trades import history
from trades.models import TradeHistory

PATH = "/api/v2/trades/history"


class Reader:
    """A person who is signed in."""

    def __init__(self, user: Any) -> None:
        self.client = Client()
        self.client.force_login(user)

    def get(self, path: Any = PATH, **query: Any) -> Any:
        return self.client.get(path, query, HTTP_HOST=HOST)

    def page(self, **query: Any) -> Any:
        answer = self.get(**query)
        assert answer.status_code == 200, answer.content
        return answer.json()

    def tickets(self, **query: Any) -> list[Any]:
        return [row["ticket_id"] for row in self.page(**query)["data"]]

    def pages(self, limit: Any, between: Callable[..., Any] = lambda: None, **query: Any) -> Any:
        """Every ticket, page by page; `between` runs before each page but the first."""
        tickets, cursor = [], None
        while True:
            page = self.page(limit=limit, **query, **({"cursor": cursor} if cursor else {}))
            tickets += [row["ticket_id"] for row in page["data"]]
            assert page["has_more"] is (page["next"] is not None)
            assert len(page["data"]) == limit or not page["has_more"]
            if not page["has_more"]:
                return tickets
            assert page["next"] != cursor
            assert len(tickets) < 1000
            cursor = page["next"]
            between()

    def csv(self, **query: Any) -> list[Any]:
        answer = self.get(f"{PATH}.csv", **query)
        assert answer.status_code == 200
        assert answer.streaming
        return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))


@pytest.fixture
def reader(lena: TradingAccount) -> Reader:
    return Reader(lena.owner)


def closed(bot: Any, *tickets: Any, reason: str = "TP", profit: str = "1.50", **more: Any) -> None:
    """Open and close these in one transaction, so that all have the very same closed_at."""
    operations = []
    for ticket in tickets:
        fields = opening(ticket, **more)
        operations.append({"idempotency_key": f"o-{uuid.uuid4().hex}", "action": "open", **fields})
        operations.append(
            {"idempotency_key": f"c-{uuid.uuid4().hex}", "action": "close", "ticket_id": str(ticket),
             "close_price": "1.11", "profit": profit, "reason": reason}
        )  # fmt: skip
    results = bot.send("POST", "/api/v2/trades/active/batch", {"operations": operations}).json()["results"]
    assert {result["status"] for result in results} == {200, 201}, results


def faults(answer: Any) -> list[Any]:
    body = answer.json()
    assert (answer.status_code, body["code"], answer["Content-Type"]) == (422, "invalid", "application/problem+json")
    return list(body["fields"])


# --- a row


def test_a_closed_trade_is_shown_exactly(lena_bot: Bot, reader: Reader) -> None:
    lena_bot.send("POST", fields=opening("1", volume="0.30000000"))
    lena_bot.send(
        "POST",
        "/api/v2/trades/active/1/reduce",
        {"deal_id": "d1", "volume": "0.1", "close_price": "1.106", "profit": "20.00000001"},
    )
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.107&profit=-5.5&reason=SL_HIT")

    (row,) = reader.page()["data"]

    assert row == {
        "trade_id": row["trade_id"],
        "account": "lena-mt5",
        "strategy": "lena-eurusd",
        "role": "master",
        "ticket_id": "1",
        "master_ticket": "1",
        "symbol": "EURUSD",
        "type": "BUY",
        "volume": "0.30000000",
        "open_price": "1.10500000",
        "close_price": "1.10700000",
        "sl": "1.10000000",
        "tp": "1.12000000",
        "profit": "14.50000001",
        "corrected_close_price": None,
        "corrected_profit": None,
        "reason": "SL",
        "opened_at": row["opened_at"],
        "closed_at": row["closed_at"],
    }
    assert row["closed_at"].endswith("Z")


def test_a_copy_belongs_to_its_owner(lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, reader: Reader) -> None:
    lena_bot.send("POST", fields=opening("1"))
    finn_bot.send("POST", fields=opening("7", strategy="lena-eurusd", master_ticket="1"))
    finn_bot.send("DELETE", "/api/v2/trades/active/7", query="close_price=1.1&profit=1")

    (row,) = Reader(finn.owner).page()["data"]

    assert (row["role"], row["ticket_id"], row["master_ticket"], row["strategy"]) == ("copy", "7", "1", "lena-eurusd")
    assert reader.page()["data"] == []


def test_a_tombstone_is_not_listed(lena_bot: Bot, reader: Reader) -> None:
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=1")

    assert TradeHistory.objects.count() == 1
    assert reader.page()["data"] == reader.csv() == []


def test_an_open_trade_is_not_listed(lena_bot: Bot, reader: Reader) -> None:
    lena_bot.send("POST", fields=opening("1"))

    assert reader.page() == {"data": [], "next": None, "has_more": False}


def test_no_filter_shows_rows_of_strangers(
    lena_bot: Bot, sam_bot: Bot, lena: TradingAccount, sam: TradingAccount
) -> None:
    closed(lena_bot, 1)
    closed(sam_bot, 2, symbol="XAUUSD")

    for own, ticket, stranger in (
        (Reader(lena.owner), "1", {"account": "sam-mt5", "strategy": "sam-xauusd", "symbol": "XAUUSD"}),
        (Reader(sam.owner), "2", {"account": "lena-mt5", "strategy": "lena-eurusd", "symbol": "EURUSD"}),
    ):
        assert own.tickets() == [ticket]
        assert [row["ticket_id"] for row in own.csv()] == [ticket]
        for name, value in stranger.items():
            assert own.tickets(**{name: value}) == own.csv(**{name: value}) == []


def test_a_strangers_cursor_shows_nothing_of_his(
    lena_bot: Bot, sam_bot: Bot, lena: TradingAccount, sam: TradingAccount
) -> None:
    closed(lena_bot, 1, 2, 3)
    closed(sam_bot, 7, 8, 9)
    cursor = Reader(lena.owner).page(limit=1)["next"]

    assert set(Reader(sam.owner).tickets(cursor=cursor)) <= {"7", "8", "9"}


# --- filters


@pytest.fixture
def various(lena_bot: Bot) -> dict[Any, Any]:
    closed(lena_bot, 1, reason="TP")
    closed(lena_bot, 2, symbol="GBPUSD", reason="SL")
    closed(lena_bot, 3, type="SELL", sl="1.12", tp="1.10", reason="MANUAL")
    return {row.ticket_id: row for row in TradeHistory.objects.all()}


def test_filters_by_every_field(various: dict[Any, Any], reader: Reader) -> None:
    for query, tickets in (
        ({}, ["3", "2", "1"]),
        ({"symbol": "GBPUSD"}, ["2"]),
        ({"symbol": "gbpusd"}, []),
        ({"account": "lena-mt5"}, ["3", "2", "1"]),
        ({"account": "nobody"}, []),
        ({"strategy": "lena-eurusd", "type": "BUY"}, ["2", "1"]),
        ({"type": "SELL"}, ["3"]),
        ({"reason": "TP"}, ["1"]),
        ({"reason": "MANUAL", "type": "BUY"}, []),
        ({"symbol": ""}, ["3", "2", "1"]),
        ({"symbol": "' or 1=1 --"}, []),
    ):
        assert reader.tickets(**query) == tickets, query
        assert [row["ticket_id"] for row in reader.csv(**query)] == tickets, query


def test_a_time_filter_includes_its_start_and_excludes_its_end(various: dict[Any, Any], reader: Reader) -> None:
    second = various["2"].closed_at

    for written in (second.isoformat(), second.astimezone(UTC).isoformat().replace("+00:00", "Z")):
        assert reader.tickets(closed_after=written) == ["3", "2"]
        assert reader.tickets(closed_before=written) == ["1"]
    assert reader.tickets(closed_after=second.isoformat(), closed_before=(second + timedelta(microseconds=1))) == ["2"]
    assert reader.tickets(closed_before=(timezone.now() + timedelta(days=1)).isoformat()) == ["3", "2", "1"]


BAD = [
    ("type", "HOLD"), ("type", "buy"), ("reason", "BECAUSE"), ("reason", "TP_HIT"), ("closed_after", "yesterday"),
    ("closed_before", "2026-13-01T00:00:00Z"), ("closed_after", "9" * 400), ("symbol", "a\0b"), ("account", "\0"),
    ("limit", "0"), ("limit", "501"), ("limit", "-1"), ("limit", "1.5"), ("limit", "ten"), ("limit", ""),
    ("limit", "٣"), ("limit", "9" * 5000), ("limit", "1 "), ("cursor", "nonsense"), ("cursor", "é"), ("cursor", "===="),
    ("cursor", "\0"), ("offset", "10"), ("page", "2"), ("account_id", "1"), ("profit", "1"), ("ordering", "profit"),
    ("account__owner", "1"),
]  # fmt: skip


def test_names_a_malformed_filter(reader: Reader) -> None:
    for name, value in BAD:
        assert faults(reader.get(**{name: value})) == [name], (name, value)
        if name not in ("limit", "cursor"):
            assert faults(reader.get(f"{PATH}.csv", **{name: value})) == [name], (name, value)


def cursor_of(text: Any) -> Any:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_refuses_a_forged_cursor(various: dict[Any, Any], reader: Reader) -> None:
    row, at = uuid.uuid4(), "2026-01-05T10:00:00+00:00"
    for forged in (f"{at}|{row}x", f"{at}|", at, f"|{row}", f"2026-01-05T10:00:00|{row}", "|", f"{at}|1 or 1=1",
                   f"{at}|{row}|{row}"):  # fmt: skip
        assert faults(reader.get(cursor=cursor_of(forged))) == ["cursor"], forged
    for edge in (f"0001-01-01T00:00:00+23:59|{row}", f"9999-12-31T23:59:59-23:59|{row}"):
        assert reader.get(cursor=cursor_of(edge)).status_code in (200, 422), edge


# --- pages


def test_pages_lose_and_repeat_no_row_even_with_equal_times(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, *range(1, 31))
    closed(lena_bot, *range(31, 36))
    assert len({row.closed_at for row in TradeHistory.objects.all()}) == 2
    whole = reader.tickets(limit=500)
    assert sorted(whole, key=int) == [str(ticket) for ticket in range(1, 36)]

    for limit in (1, 7, 30, 34, 35, 36):
        assert reader.pages(limit) == whole, limit


def test_pages_lose_and_repeat_no_row_while_trades_close(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, *range(1, 21))
    whole, new = reader.tickets(limit=500), iter(range(100, 200))

    paged = reader.pages(3, between=lambda: closed(lena_bot, next(new), next(new)))

    assert paged == whole
    assert len(reader.tickets(limit=500)) > len(whole)


def test_a_cursor_keeps_its_filters(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, 1, 2, 3)
    closed(lena_bot, 4, 5, 6, symbol="GBPUSD")

    assert sorted(reader.pages(1, symbol="EURUSD")) == ["1", "2", "3"]


def test_a_page_has_fifty_rows_unless_asked_and_five_hundred_at_most(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, *range(1, 61))

    assert (len(reader.tickets()), len(reader.tickets(limit=500))) == (50, 60)


def test_the_number_of_queries_does_not_depend_on_the_page_size(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, *range(1, 61))
    cursor = reader.page(limit=5)["next"]

    for query in ({"limit": 1}, {"limit": 500}, {"limit": 5, "cursor": cursor, "symbol": "EURUSD"}):
        with CaptureQueriesContext(connections["default"]) as queries:
            reader.page(**query)
        assert len(queries) == 3, [query["sql"] for query in queries]  # session, user, rows


def test_a_page_is_read_in_index_order(lena: TradingAccount, lena_bot: Bot) -> None:
    """No sort, so that the last page costs what the first does."""
    closed(lena_bot, 1)
    with connections["owner"].cursor() as cursor:
        cursor.execute("set enable_seqscan = off; set enable_sort = off")
        query = history.own(lena.owner).filter(account=lena).query
        text, params = query.sql_with_params()
        cursor.execute(f"explain (format json) {text} limit 50", params)
        plan = json.dumps(cursor.fetchone()[0])
        cursor.execute("reset all")

    assert "history_account_closed_idx" in plan
    assert '"Node Type": "Sort"' not in plan


# --- CSV


def test_the_csv_has_what_the_pages_have(various: dict[Any, Any], reader: Reader) -> None:
    rows = reader.csv()

    assert tuple(rows[0]) == history.COLUMNS
    for line, row in zip(rows, reader.page()["data"], strict=True):
        assert line == {name: "" if row[name] is None else row[name] for name in line}


def test_the_csv_is_a_download_that_is_never_cached(various: dict[Any, Any], reader: Reader) -> None:
    answer = reader.get(f"{PATH}.csv")
    b"".join(answer.streaming_content)

    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == 'attachment; filename="history.csv"'
    assert answer["Cache-Control"] == "no-store"
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_an_export_leaves_a_row_in_the_audit_log(various: dict[Any, Any], reader: Reader, lena: TradingAccount) -> None:
    from audit.models import AuditLog

    reader.csv()

    row = AuditLog.objects.get(action="history.exported")
    assert (row.actor_kind, row.actor) == ("user", str(lena.owner.pk))


def test_a_long_history_is_streamed_in_chunks(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, *range(1, 101))

    answer = reader.get(f"{PATH}.csv")

    pieces = list(answer.streaming_content)
    assert len(pieces) == 101
    with CaptureQueriesContext(connections["default"]) as queries:
        reader.csv()
    assert len(queries) <= 6


def test_a_symbol_that_a_spreadsheet_would_run_is_defused(lena_bot: Bot, reader: Reader) -> None:
    symbols = ["@SUM", "+1-1", "-2+3", "-cmd", "+", "-", "@"]
    for ticket, symbol in enumerate(symbols, 1):
        closed(lena_bot, ticket, symbol=symbol)

    assert sorted(row["symbol"] for row in reader.csv()) == sorted(f"'{symbol}" for symbol in symbols)
    assert sorted(row["symbol"] for row in reader.page()["data"]) == sorted(symbols)


def test_a_loss_stays_a_number(lena_bot: Bot, reader: Reader) -> None:
    closed(lena_bot, 1, profit="-12.5")

    assert [row["profit"] for row in reader.csv()] == ["-12.50000000"]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("=HYPERLINK(0)", "'=HYPERLINK(0)"), ("@SUM(A1)", "'@SUM(A1)"), ("+1", "'+1"),
        ("\t=1", "'\t=1"), ("\r=1", "'\r=1"), ("-1", "-1"), ("-1.50000000", "-1.50000000"), ("-1.2.3", "'-1.2.3"),
        ("-", "'-"), ("-.", "'-."), ("-1+cmd", "'-1+cmd"), ("1", "1"), ("EURUSD", "EURUSD"), ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_a_cell_is_defused_unless_it_is_an_amount(value: str | None, cell: str) -> None:
    assert responses.defused(value) == cell


def test_accepts_times_far_in_the_future_or_past(reader: Reader) -> None:
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00",
                   "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00+23:59"):  # fmt: skip
        for name in ("closed_after", "closed_before"):
            assert reader.get(**{name: moment}).status_code in (200, 422), (name, moment)
