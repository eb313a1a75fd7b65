"""The data of a frozen release has rows in every table."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from market.models import Candle
from tests import databases
from tests.conftest import Serving, Template
from tests.upgrades import freeze, life
from tests.upgrades.conftest import pointed_at


@pytest.fixture
def desk_db(template: Template, django_db_blocker: Any) -> Any:
    name = databases.copy(template.name)
    with pointed_at(name, django_db_blocker):
        yield name
    databases.drop(name)


def add_bars() -> None:
    opened_at = datetime(2018, 1, 1, tzinfo=UTC)
    prices = dict.fromkeys(("open", "high", "low", "close"), Decimal("1.1"))
    Candle.objects.bulk_create(
        Candle(instrument_id="EURUSD", minutes=60, opened_at=opened_at + timedelta(hours=hour), volume=1, **prices)
        for hour in range(2)
    )


def test_the_data_of_a_frozen_release_fills_every_table(desk_db: str, serve: Callable[..., Serving]) -> None:
    add_bars()

    facts = life.live(serve().url)

    assert min(count for table, count in freeze.rows(databases.url(desk_db)).items() if table not in freeze.UNUSED) > 0
    assert {name.partition(" ")[0] for name in facts["keys"]} == {"lena", "finn", "sam"}


def test_the_freeze_stops_where_a_table_has_no_rows(desk_db: str) -> None:
    with pytest.raises(SystemExit, match=r"fill these tables too: .*copy_skips.*trade_history"):
        freeze.rows(databases.url(desk_db))
