"""Bringing in prices."""

import csv
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from market.models import Candle, Instrument

BATCH = 1000
# 5,000 hourly bars of EURUSD (bid; volume in ticks), 2017-04-19 to 2018-02-07: published market prices, as distributed
# with the test data of the Python package `backtesting` 0.6.6. Gaps are weekends and holidays.
EURUSD_1H = Path(__file__).parent / "data" / "eurusd-1h-2017-2018.csv"


def bars_of(path: Path, instrument: Instrument, minutes: int) -> Iterator[Candle]:
    """The bars of a CSV with the columns time (ISO 8601 with zone), open, high, low, close, volume."""
    with path.open(encoding="ascii", newline="") as lines:
        for row in csv.DictReader(lines):
            prices = {name: Decimal(row[name]) for name in ("open", "high", "low", "close", "volume")}
            at = datetime.fromisoformat(row["time"])
            yield Candle(instrument=instrument, minutes=minutes, opened_at=at, **prices)


def load(bars: Iterable[Candle]) -> int:
    """Store bars; those that are there already stay as they are. How many were given."""
    given = list(bars)
    Candle.objects.bulk_create(given, batch_size=BATCH, ignore_conflicts=True)
    return len(given)
