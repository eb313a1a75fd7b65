"""Reading bars: stored ones, and longer ones that follow from shorter ones."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core.errors import Invalid, NotFound
from market import services
from market.bars import bars_of
from tests.market.conftest import HEADER, MONDAY, line

HOUR = timedelta(hours=1)
D = Decimal


@pytest.fixture
def real(desk_db: str) -> None:
    call_command("import_candles", str(services.EURUSD_1H), "--symbol", "EURUSD", "--minutes", "60")


def get(path: str, **query: Any) -> Any:
    client = Client()
    client.force_login(get_user_model().objects.get(username="finn"))
    return client.get(f"/api/v2/candles/{path}", query)


def test_longer_bars_have_the_prices_of_the_shorter_ones_that_exist(import_lines: Callable[..., Any]) -> None:
    import_lines(
        HEADER, line(MONDAY, "1.2,1.3,1.1,1.25,10"), line(MONDAY + HOUR, "1.25,1.6,1.2,1.5,1"),
        line(MONDAY + 3 * HOUR, "1.5,1.55,0.9,1,4"), line(MONDAY + 4 * HOUR, "1,1,1,1,7"),
    )  # fmt: skip

    page = bars_of(symbol="EURUSD", minutes=240, limit=10)

    assert page.minutes_of_source == 60
    assert [bar[1:] for bar in page.bars] == [(D("1.2"), D("1.6"), D("0.9"), D(1), 15), (1, 1, 1, 1, 7)]
    assert [bar.opened_at for bar in page.bars] == [MONDAY, MONDAY + 4 * HOUR]


@pytest.mark.parametrize("minutes", [120, 240, 1440])
def test_derived_pages_agree_with_a_derivation_in_python(real: None, minutes: int) -> None:
    stored = bars_of(symbol="EURUSD", minutes=60, limit=6000).bars
    step, expected = timedelta(minutes=minutes), {}
    for bar in stored:
        start = datetime(2000, 1, 1, tzinfo=UTC) + (bar.opened_at - datetime(2000, 1, 1, tzinfo=UTC)) // step * step
        expected.setdefault(start, []).append(bar)
    whole = [
        (at, parts[0].open, max(p.high for p in parts), min(p.low for p in parts), parts[-1].close,
         sum(p.volume for p in parts))
        for at, parts in expected.items()
    ]  # fmt: skip

    pages, after = [], None
    while True:
        page = bars_of(symbol="EURUSD", minutes=minutes, after=after, limit=97)
        pages += [tuple(bar) for bar in page.bars]
        if not page.has_more:
            break
        after = page.bars[-1].opened_at

    assert pages == whole


def test_a_page_reads_no_more_than_it_shows(real: None) -> None:
    with CaptureQueriesContext(connection) as queries:
        bars_of(symbol="EURUSD", minutes=1440, limit=10)
    statement = queries[-1]["sql"]

    with connection.cursor() as cursor:
        cursor.execute(f"explain (analyze, costs off, timing off, summary off) {statement}")
        plan = "\n".join(row for (row,) in cursor.fetchall())

    assert "candles_pkey" in plan
    assert re.search(r"rows=264(\.00)? loops=1", plan)


def test_bounds_cut_no_bar_in_half(real: None) -> None:
    noon = datetime(2017, 6, 7, 12, tzinfo=UTC)

    page = bars_of(symbol="EURUSD", minutes=1440, after=noon - timedelta(days=2), before=noon, limit=10)

    assert [bar.opened_at.day for bar in page.bars] == [6, 7]
    whole = bars_of(symbol="EURUSD", minutes=60, after=noon.replace(hour=0) - HOUR, limit=24)
    assert page.bars[-1].close == whole.bars[-1].close


def test_refuses_lengths_that_do_not_follow_from_stored_ones(real: None) -> None:
    for minutes in (90, 10080):
        with pytest.raises(Invalid):
            bars_of(symbol="EURUSD", minutes=minutes, limit=10)
    with pytest.raises(NotFound):
        bars_of(symbol="NOPE", minutes=60, limit=10)
    assert bars_of(symbol="XAUUSD", minutes=60, limit=10).bars == []


def test_the_route_pages_through_all_bars(real: None) -> None:
    query, seen = {"minutes": 1440, "limit": 100}, []
    while True:
        body = get("EURUSD", **query).json()
        seen += [bar["opened_at"] for bar in body["data"]]
        if body["next"] is None:
            break
        query["cursor"] = body["next"]

    assert len(seen) == len(set(seen)) == len(bars_of(symbol="EURUSD", minutes=1440, limit=500).bars)
    assert body["minutes_of_source"] == 60
    assert body["data"][-1].keys() == {"opened_at", "open", "high", "low", "close", "volume"}
    assert body["data"][-1]["open"].count(".") == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [({}, "minutes"), ({"minutes": "x"}, "minutes"), ({"minutes": "60", "after": "yesterday"}, "after"),
     ({"minutes": "60", "cursor": "e30"}, "cursor"), ({"minutes": "60", "limit": "9999"}, "limit"),
     ({"minutes": "60", "since": "2017"}, "since")],
)  # fmt: skip
def test_the_route_names_a_wrong_parameter(desk_db: str, query: dict[str, str], field: str) -> None:
    answer = get("EURUSD", **query)

    assert answer.status_code == 422
    assert list(answer.json()["fields"]) == [field]


def test_symbols_with_a_slash_have_a_route(import_lines: Callable[..., Any]) -> None:
    services.create_instrument(
        symbol="EUR/CHF", point=D("0.00001"), contract_size=D(100_000), actor=services.audit.SYSTEM
    )

    assert get("EUR/CHF", minutes=60).json()["data"] == []
    assert get("EUR/NOK", minutes=60).status_code == 404
