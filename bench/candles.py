"""Importing a file of one-minute bars, against COPY of the same bars into a table of the same kind.

Run as `python -m bench.candles FILE` it imports the file, prints the seconds, and takes the import back.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from bench import desk
from bench.desk import Desk
from bench.table import Line, Turn

SYMBOL, START = "BENCHBAR", datetime(2020, 1, 1, tzinfo=UTC)
LINES = [Line("{bars} bars imported, a second", "candles", "candles, COPY", "COPY alone", at_least=0.3)]


@contextmanager
def turns(on: Desk, bars: int) -> Iterator[dict[str, Turn]]:
    file = on.folder / "bars.csv"
    with file.open("w") as out:
        out.write("time,open,high,low,close,volume\n")
        out.writelines(f"{at:%Y-%m-%d %H:%M}:00Z,{prices}\n" for at, prices in _bars(bars))
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"]) as connection:
        connection.execute(
            "insert into instruments (symbol, description, point, contract_size, calendar_id)"
            " select %s, '', 0.00001, 100000, id from trading_calendars where name = 'Always open'",
            [SYMBOL],
        )
        batch = connection.execute(
            "insert into candle_imports (instrument_id, minutes, file, sha256, options, state, started_at, actor, bars,"
            " added, read_bytes, all_bytes, report, refusal)"
            " values (%s, 1, '', '', '{}', 'stored', now(), '', 0, 0, 0, 0, '{}', '') returning id",
            [SYMBOL],
        ).fetchone()
        assert batch is not None
        connection.execute("create table bench_candles (like candles including all)")
        connection.execute("alter table bench_candles add foreign key (instrument_id) references instruments")
        connection.execute("alter table bench_candles add foreign key (batch_id) references candle_imports")
    yield {"candles": Importing(bars, file), "candles, COPY": Copying(on, bars, batch[0])}


def _bars(count: int) -> Iterator[tuple[datetime, str]]:
    for number in range(count):
        middle = 110_000 + number * 7 % 997
        prices = (middle, middle + 31, middle - 27, middle + number % 29 - 14)
        yield START + number * timedelta(minutes=1), f"{','.join(f'1.{price}' for price in prices)},{number % 500}"


@dataclass(frozen=True)
class Importing:
    bars: int
    file: Path

    def __call__(self) -> float:
        command = [sys.executable, "-m", "bench.candles", str(self.file)]
        done = subprocess.run(command, cwd=desk.ROOT, check=True, capture_output=True, text=True)
        return self.bars / float(done.stdout.split()[-1])


@dataclass(frozen=True)
class Copying:
    on: Desk
    bars: int
    batch: int

    def __call__(self) -> float:
        rows = [
            f"{SYMBOL}\t1\t{self.batch}\t{at:%Y-%m-%d %H:%M}+00\t{prices.replace(',', chr(9))}\n"
            for at, prices in _bars(self.bars)
        ]
        connected = psycopg.connect(os.environ["DATABASE_OWNER_URL"])
        with connected as connection, connection.cursor() as cursor:
            started_at = time.monotonic()
            columns = "instrument_id, minutes, batch_id, opened_at, open, high, low, close, volume"
            with cursor.copy(f"copy bench_candles ({columns}) from stdin") as copy:
                copy.write("".join(rows))
            connection.commit()
            seconds = time.monotonic() - started_at
            cursor.execute("truncate bench_candles")
        return self.bars / seconds


def main(file: Path) -> None:
    import django

    django.setup()
    from django.utils import timezone

    from audit import services as audit
    from market.services import candles

    source, now = candles.Source(SYMBOL, 1), timezone.now()
    started_at = time.monotonic()
    report = candles.import_candles(path=file, source=source, actor=audit.SYSTEM, now=now)
    seconds = time.monotonic() - started_at
    assert report.added == report.bars
    candles.take_back(import_id=report.import_id or 0, actor=audit.SYSTEM, now=now)
    print(seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
