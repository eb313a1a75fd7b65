"""Candle files and their import."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit import services as audit
from market.models import Candle
from market.services import candles
from market.services.candles import Source

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
HEADER = "time,open,high,low,close,volume"
BAR = "1.1,1.2,1.0,1.15,7"


def line(at: Any, bar: Any = BAR) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ},{bar}"


def hours(count: Any, start: Any = MONDAY) -> list[Any]:
    """Lines of `count` consecutive hourly bars."""
    return [line(start + timedelta(hours=number)) for number in range(count)]


@pytest.fixture
def import_lines(desk_db: str, tmp_path: Path) -> Callable[..., Any]:
    """Import these lines as bars of EURUSD."""

    def import_(
        *lines: Any, minutes: int = 60, now: Any = NOW, progress: Any = lambda so_far: None, **more: Any
    ) -> Any:
        path = tmp_path / "bars.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = Source("EURUSD", minutes, **more)
        return candles.import_candles(path=path, source=source, actor=audit.SYSTEM, now=now, progress=progress)

    return import_


def stored(minutes: int = 60) -> Any:
    return Candle.objects.filter(instrument_id="EURUSD", minutes=minutes).order_by("opened_at")
