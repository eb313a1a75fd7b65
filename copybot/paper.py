"""A broker on paper: real prices, an account of its own in one SQLite file, and as much bad luck as one asks for.

What was executed stays executed, whoever is killed when: each call is one transaction, and nothing is kept in memory.
Prices come from bars and a clock of market time, luck from a seed and the order's number, so a run can be repeated.
"""

import heapq
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

from copybot.broker import Account, Deal, Entry, Outcome, Position, Quote, Result, Trace
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
_CENT = Decimal("0.01")


@dataclass(frozen=True)
class Faults:
    """Probabilities of an order. One that times out is executed, executed up to `late_ms` of market time later, or
    never; a third each. `partial`: an open is filled in part. `latency_ms`: least and most, of real time, asleep.
    `slippage_points`: at most, and always against the order."""

    seed: int = 0
    reject: float = 0.0
    timeout: float = 0.0
    partial: float = 0.0
    late_ms: int = 3_000
    latency_ms: tuple[int, int] = (0, 0)
    slippage_points: int = 0


@dataclass(frozen=True, slots=True)
class _Order:
    kind: str
    magic: int
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    position: int = 0


class _Refused(Exception):
    def __init__(self, code: int, why: str) -> None:
        self.result = Result(Outcome.REJECTED, code, why)


@dataclass
class PaperBroker:
    """A Terminal. `now_ms`: market time, which may run fast; what was waiting for a price is caught up at each call.

    A stop or target is filled at the first price at or beyond it, so a gap through it at the gap's far side. Each
    position binds a margin of its own. Below `stop_out_level` (equity by margin) the greatest loss is closed first.
    `stamp`: in which time positions and deals are told (say, Clock.wall_at); by default that of the market.
    Tickets begin at the time at which the file was made, so that those of a new file are new.
    """

    path: str | Path
    instruments: Iterable[Instrument]
    now_ms: Callable[[], int]
    login: str = "1001"
    currency: str = "USD"
    deposit: Decimal = Decimal(10_000)
    leverage: Decimal = Decimal(100)
    stop_out_level: Decimal = Decimal("0.5")
    is_hedging: bool = True
    faults: Faults = Faults()
    sleep: Callable[[float], None] = time.sleep
    stamp: Callable[[int], int] = lambda market_ms: market_ms
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._market = Market(self.instruments, self.currency)
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=10, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")  # survives a killed process; it is paper, so power may fail
        self._db.executescript(f"begin immediate; {_SCHEMA} commit;")
        now = self.now_ms()
        self._do("insert or ignore into account values (1, ?, ?, ?, 0)", str(self.deposit), now, self.stamp(now))
        self._first = int(self._do("select first_ticket from account").fetchone()[0])

    def close_file(self) -> None:
        self._db.close()

    # --- what is asked of it

    def positions(self) -> list[Position]:
        with self._caught_up() as now:
            return [self._told(row, now) for row in self._held()]

    def deals(self, position: str) -> list[Deal]:
        with self._caught_up():
            rows = self._do("select * from deal where position = ? order by id", int(position)).fetchall()
        return [self._deal(row) for row in rows]

    def history(self) -> list[Deal]:
        """All deals of the account, oldest first."""
        with self._caught_up():
            rows = self._do("select * from deal order by id").fetchall()
        return [self._deal(row) for row in rows]

    def trace(self, magic: int) -> Trace:
        with self._caught_up():
            found = self._do("select 1 from deal where magic = ? limit 1", magic).fetchone()
        return Trace.DONE if found else Trace.NONE

    def is_settled(self) -> bool:
        return True

    def quote(self, symbol: str) -> Quote | None:
        one, now = self._market.instruments.get(symbol), self._now()
        if one is None or not one.candles.is_open(now):
            return None
        return Quote(one.price("SELL", now), one.price("BUY", now))

    def worth(self, symbol: str) -> Decimal:
        """What a lot gains in the account's currency where the price rises by one."""
        one = self._market.instruments[symbol]
        return one.contract * self._market.rate(one.currencies[1], self._now())

    def account(self) -> Account:
        with self._caught_up() as now:
            balance = self._balance()
            return Account(
                self.login, "Paper", self.currency, balance, balance + self._floating(now), self.is_hedging, True
            )

    def fit(
        self, symbol: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> tuple[Decimal, Decimal | None, Decimal | None]:
        one = self._market.instruments.get(symbol)
        if one is None:
            return volume, sl, tp
        whole = min((volume / one.volume_step).to_integral_value(ROUND_DOWN) * one.volume_step, one.volume_max)
        sl, tp = (None if stop is None else stop.quantize(one.candles.tick) for stop in (sl, tp))
        return whole if whole >= one.volume_min else Decimal(0), sl, tp

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        return self._order(_Order("open", magic, symbol, side, volume, sl, tp))

    def close(self, position: Position, volume: Decimal) -> Result:
        side = _other(position.side)
        return self._order(_Order("close", position.magic, position.symbol, side, volume, None, None, int(position.id)))

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        one = _Order("modify", position.magic, position.symbol, "", Decimal(0), sl, tp, int(position.id))
        return self._order(one)

    # --- orders

    def _order(self, order: _Order) -> Result:
        with self._transaction():
            ticket = self._ticket()
        luck = random.Random(f"{self.faults.seed}:{ticket - self._first}")  # noqa: S311
        self._pause(luck)
        with self._caught_up() as now:
            answer = self._answer(order, ticket, luck, now)
        self._pause(luck)
        return answer

    def _answer(self, order: _Order, ticket: int, luck: random.Random, now: int) -> Result:
        fate = luck.random() - self.faults.reject
        if fate < 0:
            return Result(Outcome.REJECTED, 10006, "rejected")
        if fate >= self.faults.timeout:
            return self._execute(order, ticket, luck, now)
        what = luck.choice(["done", "late", "never"])
        if what == "done":
            self._execute(order, ticket, luck, now)
        elif what == "late":
            due = now + luck.randint(1, self.faults.late_ms)
            self._do("insert into late values (?, ?, ?)", ticket, due, json.dumps(asdict(order), default=str))
        return Result(Outcome.UNKNOWN, 10012)

    def _execute(self, order: _Order, ticket: int, luck: random.Random, now: int) -> Result:
        try:
            one = self._market.instruments.get(order.symbol)
            if one is None:
                raise _Refused(10013, "symbol_unknown")
            if not one.candles.is_open(now):
                raise _Refused(10018, "market_closed")
            if order.kind == "open":
                return self._open(order, one, ticket, luck, now)
            held = next((row for row in self._held() if row["id"] == order.position), None)
            if held is None:
                raise _Refused(10036, "rejected")
            if order.kind == "modify":
                return self._modify(order, one, held, now)
            return self._close(order, one, held, ticket, luck, now)
        except _Refused as refused:
            return refused.result

    def _open(self, order: _Order, one: Instrument, ticket: int, luck: random.Random, now: int) -> Result:
        _check_volume(order.volume, one)
        _check_stops(order.sl, order.tp, order.side, one.price(_other(order.side), now))
        volume, code = order.volume, 10009
        if luck.random() < self.faults.partial:
            share = Decimal(luck.randrange(1, 100)) / 100
            volume = max(self.fit(one.symbol, volume * share, None, None)[0], one.volume_min)
            code = 10010 if volume < order.volume else 10009
        price = self._slipped(one, order.side, luck, now)
        before = self._margin(now)
        self._do("savepoint filling")
        self._fill(order, volume, price, ticket, now)
        margin = self._margin(now)
        if margin > before and self._balance() + self._floating(now) < margin:
            self._do("rollback to filling")
            self._do("release filling")
            raise _Refused(10019, "no_money")
        self._do("release filling")
        return Result(Outcome.DONE, code)

    def _fill(self, order: _Order, volume: Decimal, price: Decimal, ticket: int, now: int) -> None:
        """A new position; on a netting account the one of the symbol grows, shrinks, or turns."""
        held = None if self.is_hedging else next((row for row in self._held() if row["symbol"] == order.symbol), None)
        number = ticket if held is None else held["id"]  # which stays, also where it turns
        if held is not None and held["side"] != order.side:
            taken = min(volume, Decimal(held["volume"]))
            self._take_off(held, taken, price, ticket, now, "MANUAL", order.magic)
            volume, held = volume - taken, None
        if not volume:
            return
        sl, tp = (None if stop is None else str(stop) for stop in (order.sl, order.tp))
        if held is None:
            self._do(
                "insert into position values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                number, order.magic, order.symbol, order.side, str(volume), sl, tp, str(price), now,
            )  # fmt: skip
        else:
            whole = Decimal(held["volume"]) + volume
            mean = (Decimal(held["open_price"]) * Decimal(held["volume"]) + price * volume) / whole
            self._do(
                "update position set volume = ?, open_price = ?, sl = coalesce(?, sl), tp = coalesce(?, tp)"
                " where id = ?", str(whole), str(mean), sl, tp, number,
            )  # fmt: skip
        self._note(
            ticket, number, Entry.IN, order.magic, order.symbol, order.side, volume, price, Decimal(0), now, "MANUAL"
        )

    def _close(
        self, order: _Order, one: Instrument, held: sqlite3.Row, ticket: int, luck: random.Random, now: int
    ) -> Result:
        whole = Decimal(held["volume"])
        if order.volume > whole or held["side"] == order.side:
            raise _Refused(10038, "rejected")
        if order.volume != whole:
            _check_volume(order.volume, one)
        price = self._slipped(one, order.side, luck, now)
        self._take_off(held, order.volume, price, ticket, now, "MANUAL", order.magic)
        return Result(Outcome.DONE, 10009)

    def _modify(self, order: _Order, one: Instrument, held: sqlite3.Row, now: int) -> Result:
        sl, tp = (None if stop is None else str(stop) for stop in (order.sl, order.tp))
        if (held["sl"], held["tp"]) == (sl, tp):
            return Result(Outcome.DONE, 10025)
        _check_stops(order.sl, order.tp, held["side"], one.price(_other(held["side"]), now))
        self._do("update position set sl = ?, tp = ? where id = ?", sl, tp, order.position)
        return Result(Outcome.DONE, 10009)

    def _take_off(
        self, held: sqlite3.Row, volume: Decimal, price: Decimal, ticket: int, now: int, reason: str, magic: int
    ) -> None:
        one, rest = self._market.instruments[held["symbol"]], Decimal(held["volume"]) - volume
        profit = self._gain(held, volume, price, now).quantize(_CENT)
        if rest:
            self._do("update position set volume = ? where id = ?", str(rest), held["id"])
        else:
            self._do("delete from position where id = ?", held["id"])
        side = _other(held["side"])
        self._note(ticket, held["id"], Entry.OUT, magic, one.symbol, side, volume, price, profit, now, reason)

    def _note(
        self, ticket: int, position: int, entry: Entry, magic: int, symbol: str, side: str, volume: Decimal,
        price: Decimal, profit: Decimal, now: int, reason: str,
    ) -> None:  # fmt: skip
        costs = -(self._market.instruments[symbol].commission * volume).quantize(_CENT)
        self._do("update account set balance = ? where id = 1", str(self._balance() + profit + costs))
        self._do(
            'insert into deal ("order", position, entry, magic, symbol, side, volume, price, profit, at_ms, reason,'
            " costs) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ticket, position, entry.value, magic, symbol, side, str(volume), str(price), str(profit + costs), now,
            reason, str(costs),
        )  # fmt: skip

    def _slipped(self, one: Instrument, side: str, luck: random.Random, now: int) -> Decimal:
        worse = one.candles.tick * luck.randint(0, self.faults.slippage_points)
        return one.price(side, now) + (worse if side == "BUY" else -worse)

    def _pause(self, luck: random.Random) -> None:
        """Half of what an order takes: it is executed somewhere between its sending and its answer."""
        if self.faults.latency_ms[1]:
            self.sleep(luck.uniform(*self.faults.latency_ms) / 2000)

    # --- the course of time

    @contextmanager
    def _caught_up(self) -> Iterator[int]:
        """A transaction in which all that the prices did until now has been done."""
        with self._transaction():
            seen, now = self._do("select seen_ms from account").fetchone()[0], self._now()
            for at in self._instants(seen, now):
                if not self._is_waiting():
                    break
                self._pass(seen, at)
                seen = at
            self._do("update account set seen_ms = ? where id = 1 and seen_ms < ?", now, now)
            yield now

    def _instants(self, seen: int, now: int) -> Iterator[int]:
        dues = sorted(row[0] for row in self._do("select due_ms from late where due_ms < ?", now))
        last = seen
        for at in heapq.merge(
            dues, *(one.candles.instants(seen, now) for one in self._market.instruments.values()), [now]
        ):
            if at > last:
                yield at
            last = max(last, at)

    def _pass(self, seen: int, at: int) -> None:
        touched = sorted(one for row in self._held() for one in self._touches(row, seen, at))
        for moment, _, reason, number in touched:
            held = next((row for row in self._held() if row["id"] == number), None)
            if held is not None:
                self._end(held, moment, reason)
        for row in self._do("select * from late where due_ms <= ? order by due_ms, ticket", at).fetchall():
            self._do("delete from late where ticket = ?", row["ticket"])
            luck = random.Random(f"{self.faults.seed}:late:{row['ticket'] - self._first}")  # noqa: S311
            self._execute(_order(row["what"]), row["ticket"], luck, at)
        self._stop_out(at)

    def _touches(self, held: sqlite3.Row, seen: int, at: int) -> Iterator[tuple[int, bool, str, int]]:
        """Stops and targets that were touched: when; stops before targets, where it was the same moment."""
        one, is_buy = self._market.instruments[held["symbol"]], held["side"] == "BUY"
        for reason, level in (("SL", held["sl"]), ("TP", held["tp"])):
            if level is None:
                continue
            bid = Decimal(level) - (0 if is_buy else one.spread)
            falling = is_buy == (reason == "SL")
            moment = one.candles.touches(bid, falling=falling, after_ms=seen, until_ms=at)
            if moment is not None:
                yield moment, reason == "TP", reason, held["id"]

    def _end(self, held: sqlite3.Row, at: int, reason: str) -> None:
        price = self._market.instruments[held["symbol"]].price(_other(held["side"]), at)
        self._take_off(held, Decimal(held["volume"]), price, self._ticket(), at, reason, held["magic"])

    def _stop_out(self, at: int) -> None:
        while margin := self._margin(at):
            if self._balance() + self._floating(at) >= margin * self.stop_out_level:
                return
            closable = [row for row in self._held() if self._market.instruments[row["symbol"]].candles.is_open(at)]
            if not closable:
                return
            self._end(min(closable, key=lambda row: self._profit(row, at)), at, "STOP_OUT")

    def _is_waiting(self) -> bool:
        return bool(self._do("select exists (select 1 from position) or exists (select 1 from late)").fetchone()[0])

    def _now(self) -> int:
        """Market time never goes back, whatever the clock does."""
        seen: int = self._do("select seen_ms from account").fetchone()[0]
        return max(self.now_ms(), seen)

    # --- money

    def _balance(self) -> Decimal:
        return Decimal(self._do("select balance from account").fetchone()[0])

    def _floating(self, at: int) -> Decimal:
        return sum((self._profit(row, at) for row in self._held()), Decimal(0))

    def _profit(self, held: sqlite3.Row, at: int) -> Decimal:
        price = self._market.instruments[held["symbol"]].price(_other(held["side"]), at)
        return self._gain(held, Decimal(held["volume"]), price, at).quantize(_CENT)

    def _gain(self, held: sqlite3.Row, volume: Decimal, price: Decimal, at: int) -> Decimal:
        one, sign = self._market.instruments[held["symbol"]], 1 if held["side"] == "BUY" else -1
        rate = self._market.rate(one.currencies[1], at)
        return (price - Decimal(held["open_price"])) * sign * volume * one.contract * rate

    def _margin(self, at: int) -> Decimal:
        bound = Decimal(0)
        for row in self._held():
            one = self._market.instruments[row["symbol"]]
            bound += Decimal(row["volume"]) * one.contract * self._market.rate(one.currencies[0], at) / self.leverage
        return bound

    # --- the file

    def _told(self, row: sqlite3.Row, now: int) -> Position:
        sl, tp = (None if row[name] is None else Decimal(row[name]) for name in ("sl", "tp"))
        return Position(
            str(row["id"]), row["magic"], row["symbol"], row["side"], Decimal(row["volume"]), sl, tp,
            Decimal(row["open_price"]), self.stamp(row["opened_ms"]), self._profit(row, now),
        )  # fmt: skip

    def _deal(self, row: sqlite3.Row) -> Deal:
        return Deal(
            str(row["id"]), str(row["order"]), str(row["position"]), Entry(row["entry"]), row["magic"], row["symbol"],
            row["side"], Decimal(row["volume"]), Decimal(row["price"]), Decimal(row["profit"]),
            self.stamp(row["at_ms"]), row["reason"], Decimal(row["costs"]),
        )  # fmt: skip

    def _held(self) -> list[sqlite3.Row]:
        return self._do("select * from position order by id").fetchall()

    def _ticket(self) -> int:
        number = self._do("update account set orders = orders + 1 returning first_ticket + orders").fetchone()[0]
        return int(number)

    def _do(self, statement: str, *values: Any) -> sqlite3.Cursor:
        cursor = self._db.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")


def _other(side: str) -> str:
    return "SELL" if side == "BUY" else "BUY"


def _order(text: str) -> _Order:
    fields = json.loads(text)
    for name in ("volume", "sl", "tp"):
        fields[name] = None if fields[name] is None else Decimal(fields[name])
    return _Order(**fields)


def _check_volume(volume: Decimal, one: Instrument) -> None:
    if volume < one.volume_min:
        raise _Refused(10014, "volume_too_small")
    if volume > one.volume_max or volume % one.volume_step:
        raise _Refused(10014, "rejected")


def _check_stops(sl: Decimal | None, tp: Decimal | None, side: str, price: Decimal) -> None:
    """Both lie on their side of the price at which the position would be closed."""
    sign = 1 if side == "BUY" else -1
    if (sl is not None and (price - sl) * sign <= 0) or (tp is not None and (tp - price) * sign <= 0):
        raise _Refused(10016, "rejected")
