"""The SQLite file of a paper account: one transaction per call, so that a killed process leaves it intact."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from copybot.broker import Deal, Entry
from copybot.candles import Instrument, Market

_SCHEMA = """
create table if not exists account (
  id integer primary key check (id = 1), balance text not null, seen_ms integer not null,
  first_ticket integer not null, orders integer not null) strict;
create table if not exists position (
  id integer primary key, magic integer not null, symbol text not null, side text not null, volume text not null,
  sl text, tp text, open_price text not null, opened_ms integer not null) strict;
create table if not exists deal (
  id integer primary key, "order" integer not null, position integer not null, entry text not null,
  magic integer not null, symbol text not null, side text not null, volume text not null, price text not null,
  profit text not null, at_ms integer not null, reason text not null, costs text not null) strict;
create index if not exists deal_position on deal (position);
create index if not exists deal_magic on deal (magic);
create table if not exists late (ticket integer primary key, due_ms integer not null, what text not null) strict;
"""


@dataclass(frozen=True, slots=True)
class Held:
    id: int
    magic: int
    instrument: Instrument
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    open_price: Decimal
    opened_ms: int

    @property
    def sign(self) -> int:
        return 1 if self.side == "BUY" else -1

    def ends(self) -> Iterator[tuple[str, Decimal, bool]]:
        """The bids at which the position ends, and whether the price must fall to reach them."""
        shift = 0 if self.side == "BUY" else self.instrument.spread
        if self.sl is not None:
            yield "SL", self.sl - shift, self.side == "BUY"
        if self.tp is not None:
            yield "TP", self.tp - shift, self.side == "SELL"


def touches(held: Held, seen: int, at: int) -> Iterator[tuple[int, bool, str, int]]:
    """The stops and targets that were touched, and when; at the same moment, stops sort before targets."""
    for reason, bid, falling in held.ends():
        moment = held.instrument.candles.touches(bid, falling=falling, after_ms=seen, until_ms=at)
        if moment is not None:
            yield moment, reason == "TP", reason, held.id


class Account:
    """Positions, deals and the balance. What it returns is valid within a transaction."""

    def __init__(self, path: str | Path, market: Market, *, deposit: Decimal, now_ms: int, first_ticket: int) -> None:
        self._market = market
        self._lock = threading.RLock()
        self._known: list[Held] | None = None
        self._sums: dict[tuple[str, int], tuple[Decimal, Decimal]] = {}
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")  # survives a killed process; a power cut may lose paper trades
        self._db.executescript(f"begin immediate; {_SCHEMA} commit;")
        self.do("insert or ignore into account values (1, ?, ?, ?, 0)", str(deposit), now_ms, first_ticket)
        self.first_ticket = int(self.do("select first_ticket from account").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("begin immediate")
            self._known = None
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def held(self) -> list[Held]:
        """The open positions, cached within a transaction until one changes."""
        if self._known is None:
            rows = self.do("select * from position order by id").fetchall()
            self._known = [
                Held(
                    row["id"], row["magic"], self._market.instruments[row["symbol"]], row["side"],
                    Decimal(row["volume"]), _number(row["sl"]), _number(row["tp"]), Decimal(row["open_price"]),
                    row["opened_ms"],
                )
                for row in rows
            ]  # fmt: skip
            self._sums = {}
            for held in self._known:
                kind = held.instrument.symbol, held.sign
                volume, paid = self._sums.get(kind, (Decimal(0), Decimal(0)))
                self._sums[kind] = volume + held.volume, paid + held.volume * held.open_price
        return self._known

    def sums(self) -> Iterator[tuple[Instrument, int, Decimal, Decimal]]:
        """For each symbol and direction: the sign, the volume, and the volume times the open price."""
        self.held()
        for (symbol, sign), (volume, paid) in self._sums.items():
            yield self._market.instruments[symbol], sign, volume, paid

    def deals(self, where: str, *values: Any) -> list[Deal]:
        rows = self.do(f"select * from deal where {where} order by id", *values).fetchall()  # noqa: S608  # nosec B608
        return [_deal(row) for row in rows]

    def change(self, statement: str, *values: Any) -> None:
        self.do(statement, *values)
        self._known = None

    def balance(self) -> Decimal:
        return Decimal(self.do("select balance from account").fetchone()[0])

    def pay(self, amount: Decimal) -> None:
        self.do("update account set balance = ? where id = 1", str(self.balance() + amount))

    def ticket(self) -> int:
        number = self.do("update account set orders = orders + 1 returning first_ticket + orders").fetchone()[0]
        return int(number)

    def do(self, statement: str, *values: Any) -> sqlite3.Cursor:
        cursor = self._db.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(statement, values)


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _deal(row: sqlite3.Row) -> Deal:
    return Deal(
        str(row["id"]), str(row["order"]), str(row["position"]), Entry(row["entry"]), row["magic"], row["symbol"],
        row["side"], Decimal(row["volume"]), Decimal(row["price"]), Decimal(row["profit"]),
        row["at_ms"], row["reason"], Decimal(row["costs"]),
    )  # fmt: skip
