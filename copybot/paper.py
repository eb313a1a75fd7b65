"""A paper broker: real prices, an account in one SQLite file, and faults as configured.

Executed orders survive a kill at any moment: each call is one transaction, and nothing is kept in memory. Prices come
from bars and a clock of market time, faults from a seed and the order's number, so a run can be repeated.
"""

import heapq
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path

from copybot import paper_store
from copybot.broker import Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Trace
from copybot.candles import Instrument, Market
from copybot.paper_store import Held, touches

_CENT = Decimal("0.01")


@dataclass(frozen=True)
class Faults:
    """Probabilities per order. An order that times out is executed, executed up to `late_ms` of market time later, or
    never executed, a third each. `partial`: an open is filled in part. `latency_ms`: minimum and maximum, in real time.
    `slippage_points`: the maximum, always against the order."""

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
    """A Terminal. `now_ms`: market time, which may run fast; each call first executes what became due since the last.

    A stop or target is filled at the first price at or beyond it, so at the far side of a gap. Each position binds its
    own margin. Below `stop_out_level` (equity divided by margin) the largest loss is closed first. `stamp`: converts
    market time to the time shown in positions and deals (Clock.wall_at, say); by default they are the same.
    `is_fifo`: an order that closes another position than the oldest of its symbol and side is refused.
    Tickets start at the file's creation time, so that a new file never repeats the tickets of an old one.
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
    is_fifo: bool = False
    faults: Faults = Faults()
    sleep: Callable[[float], None] = time.sleep
    stamp: Callable[[int], int] = lambda market_ms: market_ms

    def __post_init__(self) -> None:
        self._market = Market(self.instruments, self.currency)
        now = self.now_ms()
        self._store = paper_store.Account(
            self.path, self._market, deposit=self.deposit, now_ms=now, first_ticket=self.stamp(now)
        )

    def close_file(self) -> None:
        self._store.close()

    # --- positions, deals, prices

    def positions(self) -> list[Position]:
        with self._caught_up() as now:
            return [self._position_of(row, now) for row in self._store.held()]

    def deals(self, position: str) -> list[Deal]:
        with self._caught_up():
            return self._stamped(self._store.deals("position = ?", int(position)))

    def history(self) -> list[Deal]:
        """All deals of the account, oldest first."""
        with self._caught_up():
            return self._stamped(self._store.deals("true"))

    def was_cancelled(self, position: str) -> bool:
        return False

    def position_under(self, magic: int) -> str:
        with self._caught_up():
            return next((deal.position for deal in self._store.deals("magic = ?", magic)), "")

    def trace(self, magic: int) -> Trace:
        with self._caught_up():
            return Trace.DONE if self._store.deals("magic = ?", magic) else Trace.NONE

    def is_settled(self) -> bool:
        return True

    def quote(self, symbol: str) -> Quote | None:
        instrument, now = self._market.instruments.get(symbol), self._now()
        if instrument is None or not instrument.candles.is_open(now):
            return None
        return Quote(instrument.price("SELL", now), instrument.price("BUY", now))

    def worth(self, symbol: str) -> Decimal:
        """What one lot gains, in the account's currency, when the price rises by one."""
        instrument = self._market.instruments[symbol]
        return self._value(instrument, self._now())

    def account(self) -> Account:
        with self._caught_up() as now:
            balance = self._store.balance()
            equity = balance + self._floating(now)
            return Account(
                self.login, "Paper", self.currency, balance, equity, self.is_hedging, True, is_fifo=self.is_fifo
            )

    def spec(self, symbol: str) -> SymbolSpec | None:
        instrument = self._market.instruments.get(symbol)
        return None if instrument is None else _spec(instrument)

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        return self._order(_Order("open", magic, symbol, side, volume, sl, tp))

    def close(self, position: Position, volume: Decimal) -> Result:
        return self.take_off(position, volume)

    def take_off(self, position: Position, volume: Decimal, *, magic: int | None = None) -> Result:
        """As `close`, with a magic number on the closing order; by default the position's own."""
        number, side = position.magic if magic is None else magic, _other(position.side)
        return self._order(_Order("close", number, position.symbol, side, volume, None, None, int(position.id)))

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        order = _Order("modify", position.magic, position.symbol, "", Decimal(0), sl, tp, int(position.id))
        return self._order(order)

    def cancel(self, magic: int) -> Result:
        """Refused: an order that waits here has been sent already, only its answer was lost."""
        return Result(Outcome.REJECTED, 10013, "rejected")

    # --- orders

    def _order(self, order: _Order) -> Result:
        with self._store.transaction():
            ticket = self._store.ticket()
        luck = random.Random(f"{self.faults.seed}:{ticket - self._store.first_ticket}")  # noqa: S311
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
        outcome = luck.choice(["done", "late", "never"])
        if outcome == "done":
            self._execute(order, ticket, luck, now)
        elif outcome == "late":
            due = now + luck.randint(1, self.faults.late_ms)
            self._store.do("insert into late values (?, ?, ?)", ticket, due, json.dumps(asdict(order), default=str))
        return Result(Outcome.UNKNOWN, 10012)

    def _execute(self, order: _Order, ticket: int, luck: random.Random, now: int) -> Result:
        try:
            instrument = self._market.instruments.get(order.symbol)
            if instrument is None:
                raise _Refused(10013, "symbol_unknown")
            if not instrument.candles.is_open(now):
                raise _Refused(10018, "market_closed")
            if order.kind == "open":
                return self._open(order, instrument, ticket, luck, now)
            held = next((row for row in self._store.held() if row.id == order.position), None)
            if held is None:
                raise _Refused(10036, "rejected")
            if order.kind == "modify":
                return self._modify(order, instrument, held, now)
            return self._close(order, instrument, held, ticket, luck, now)
        except _Refused as refused:
            return refused.result

    def _open(self, order: _Order, instrument: Instrument, ticket: int, luck: random.Random, now: int) -> Result:
        _check_volume(order.volume, instrument)
        _check_stops(order.sl, order.tp, order.side, instrument.price(_other(order.side), now))
        volume, code = order.volume, 10009
        if luck.random() < self.faults.partial:
            share = Decimal(luck.randrange(1, 100)) / 100
            volume = max(_spec(instrument).lots(volume * share), instrument.volume_min)
            code = 10010 if volume < order.volume else 10009
        price = self._slipped(instrument, order.side, luck, now)
        before = self._margin(now)
        self._store.do("savepoint filling")
        self._fill(order, volume, price, ticket, now)
        margin = self._margin(now)
        if margin > before and self._store.balance() + self._floating(now) < margin:
            self._store.change("rollback to filling")
            self._store.do("release filling")
            raise _Refused(10019, "no_money")
        self._store.do("release filling")
        return Result(Outcome.DONE, code)

    def _fill(self, order: _Order, volume: Decimal, price: Decimal, ticket: int, now: int) -> None:
        """Open a position; on a netting account increase, reduce or reverse the symbol's position."""
        same = [] if self.is_hedging else [row for row in self._store.held() if row.instrument.symbol == order.symbol]
        held = same[0] if same else None
        number = ticket if held is None else held.id  # a reversal keeps the position's number
        if held is not None and held.side != order.side:
            taken = min(volume, held.volume)
            self._take_off(held, taken, price, ticket, now, "MANUAL", order.magic)
            volume, held = volume - taken, None
        if not volume:
            return
        sl, tp = (None if stop is None else str(stop) for stop in (order.sl, order.tp))
        if held is None:
            self._store.change("insert into position values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                number, order.magic, order.symbol, order.side, str(volume), sl, tp, str(price), now,
            )  # fmt: skip
        else:
            whole = held.volume + volume
            mean = (held.open_price * held.volume + price * volume) / whole
            self._store.change(
                "update position set volume = ?, open_price = ?, sl = coalesce(?, sl), tp = coalesce(?, tp)"
                " where id = ?",
                str(whole), str(mean), sl, tp, number,
            )  # fmt: skip
        self._note(
            ticket, number, Entry.IN, order.magic, order.symbol, order.side, volume, price, Decimal(0), now, "MANUAL"
        )

    def _close(
        self, order: _Order, instrument: Instrument, held: Held, ticket: int, luck: random.Random, now: int
    ) -> Result:
        whole = held.volume
        if order.volume > whole or held.side == order.side:
            raise _Refused(10038, "rejected")
        if order.volume != whole:
            _check_volume(order.volume, instrument)
        if self.is_fifo and any(
            row.id < held.id and (row.instrument, row.side) == (instrument, held.side) for row in self._store.held()
        ):
            raise _Refused(10045, "rejected")
        price = self._slipped(instrument, order.side, luck, now)
        self._take_off(held, order.volume, price, ticket, now, "MANUAL", order.magic)
        return Result(Outcome.DONE, 10009)

    def _modify(self, order: _Order, instrument: Instrument, held: Held, now: int) -> Result:
        sl, tp = (None if stop is None else str(stop) for stop in (order.sl, order.tp))
        if (held.sl, held.tp) == (order.sl, order.tp):
            return Result(Outcome.DONE, 10025)
        _check_stops(order.sl, order.tp, held.side, instrument.price(_other(held.side), now))
        self._store.change("update position set sl = ?, tp = ? where id = ?", sl, tp, order.position)
        return Result(Outcome.DONE, 10009)

    def _take_off(
        self, held: Held, volume: Decimal, price: Decimal, ticket: int, now: int, reason: str, magic: int
    ) -> None:
        instrument, rest = held.instrument, held.volume - volume
        profit = self._gain(held, volume, price, now)
        if rest:
            self._store.change("update position set volume = ? where id = ?", str(rest), held.id)
        else:
            self._store.change("delete from position where id = ?", held.id)
        side = _other(held.side)
        self._note(ticket, held.id, Entry.OUT, magic, instrument.symbol, side, volume, price, profit, now, reason)

    def _note(
        self, ticket: int, position: int, entry: Entry, magic: int, symbol: str, side: str, volume: Decimal,
        price: Decimal, profit: Decimal, now: int, reason: str,
    ) -> None:  # fmt: skip
        costs = -(self._market.instruments[symbol].commission * volume).quantize(_CENT)
        self._store.pay(profit + costs)
        self._store.do(
            'insert into deal ("order", position, entry, magic, symbol, side, volume, price, profit, at_ms, reason,'
            " costs) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ticket, position, entry.value, magic, symbol, side, str(volume), str(price), str(profit + costs), now,
            reason, str(costs),
        )  # fmt: skip

    def _slipped(self, instrument: Instrument, side: str, luck: random.Random, now: int) -> Decimal:
        worse = instrument.candles.tick * luck.randint(0, self.faults.slippage_points)
        return instrument.price(side, now) + (worse if side == "BUY" else -worse)

    def _pause(self, luck: random.Random) -> None:
        """Wait for half of an order's latency: it is executed between sending and answer."""
        if self.faults.latency_ms[1]:
            self.sleep(luck.uniform(*self.faults.latency_ms) / 2000)

    # --- market time

    @contextmanager
    def _caught_up(self) -> Iterator[int]:
        """A transaction in which everything that the prices caused until now has been executed."""
        with self._store.transaction():
            seen, now = self._store.do("select seen_ms from account").fetchone()[0], self._now()
            for at in self._instants(seen, now):
                if not self._is_waiting():
                    break
                self._pass(seen, at)
                seen = at
            self._store.do("update account set seen_ms = ? where id = 1 and seen_ms < ?", now, now)
            yield now

    def _instants(self, seen: int, now: int) -> Iterator[int]:
        dues = sorted(row[0] for row in self._store.do("select due_ms from late where due_ms < ?", now))
        last = seen
        for at in heapq.merge(
            dues, *(instrument.candles.instants(seen, now) for instrument in self._market.instruments.values()), [now]
        ):
            if at > last:
                yield at
            last = max(last, at)

    def _pass(self, seen: int, at: int) -> None:
        touched = sorted(touch for held in self._store.held() for touch in touches(held, seen, at))
        for moment, _, reason, number in touched:
            held = next((row for row in self._store.held() if row.id == number), None)
            if held is not None:
                self._end(held, moment, reason)
        for row in self._store.do("select * from late where due_ms <= ? order by due_ms, ticket", at).fetchall():
            self._store.do("delete from late where ticket = ?", row["ticket"])
            luck = random.Random(f"{self.faults.seed}:late:{row['ticket'] - self._store.first_ticket}")  # noqa: S311
            self._execute(_order(row["what"]), row["ticket"], luck, at)
        self._stop_out(at)

    def _end(self, held: Held, at: int, reason: str) -> None:
        price = _ending(held.instrument, held.sign, at)
        self._take_off(held, held.volume, price, self._store.ticket(), at, reason, held.magic)

    def _stop_out(self, at: int) -> None:
        while margin := self._margin(at):
            if self._store.balance() + self._floating(at) >= margin * self.stop_out_level:
                return
            closable = [row for row in self._store.held() if row.instrument.candles.is_open(at)]
            if not closable:
                return
            self._end(min(closable, key=lambda row: self._profit(row, at)), at, "STOP_OUT")

    def _is_waiting(self) -> bool:
        return bool(self._store.held() or self._store.do("select 1 from late").fetchone())

    def _now(self) -> int:
        """Market time, which never goes back, whatever the clock does."""
        seen: int = self._store.do("select seen_ms from account").fetchone()[0]
        return max(self.now_ms(), seen)

    # --- money

    def _stamped(self, deals: list[Deal]) -> list[Deal]:
        return [replace(deal, at_ms=self.stamp(deal.at_ms)) for deal in deals]

    def _position_of(self, held: Held, now: int) -> Position:
        return Position(
            str(held.id), held.magic, held.instrument.symbol, held.side, held.volume, held.sl, held.tp,
            held.open_price, self.stamp(held.opened_ms), self._profit(held, now),
        )  # fmt: skip

    def _floating(self, at: int) -> Decimal:
        gains = (
            sign * (volume * _ending(instrument, sign, at) - paid) * self._value(instrument, at)
            for instrument, sign, volume, paid in self._store.sums()
        )
        return sum(gains, Decimal(0)).quantize(_CENT)

    def _profit(self, held: Held, at: int) -> Decimal:
        return self._gain(held, held.volume, _ending(held.instrument, held.sign, at), at)

    def _gain(self, held: Held, volume: Decimal, price: Decimal, at: int) -> Decimal:
        return ((price - held.open_price) * held.sign * volume * self._value(held.instrument, at)).quantize(_CENT)

    def _value(self, instrument: Instrument, at: int) -> Decimal:
        return instrument.contract * self._market.rate(instrument.currencies[1], at)

    def _margin(self, at: int) -> Decimal:
        bound = (
            volume * instrument.contract * self._market.rate(instrument.currencies[0], at) / self.leverage
            for instrument, _, volume, _ in self._store.sums()
        )
        return sum(bound, Decimal(0))


def _spec(instrument: Instrument) -> SymbolSpec:
    return SymbolSpec(
        instrument.candles.tick, instrument.volume_min, instrument.volume_step, instrument.volume_max,
        instrument.contract,
    )  # fmt: skip


def _other(side: str) -> str:
    return "SELL" if side == "BUY" else "BUY"


def _ending(instrument: Instrument, sign: int, at: int) -> Decimal:
    return instrument.price("SELL" if sign > 0 else "BUY", at)


def _order(text: str) -> _Order:
    fields = json.loads(text)
    for name in ("volume", "sl", "tp"):
        fields[name] = None if fields[name] is None else Decimal(fields[name])
    return _Order(**fields)


def _check_volume(volume: Decimal, instrument: Instrument) -> None:
    if volume < instrument.volume_min:
        raise _Refused(10014, "volume_too_small")
    if volume > instrument.volume_max or volume % instrument.volume_step:
        raise _Refused(10014, "rejected")


def _check_stops(sl: Decimal | None, tp: Decimal | None, side: str, price: Decimal) -> None:
    """Refuse a stop or target on the wrong side of the price at which the position would be closed."""
    sign = 1 if side == "BUY" else -1
    if (sl is not None and (price - sl) * sign <= 0) or (tp is not None and (tp - price) * sign <= 0):
        raise _Refused(10016, "stop_passed")
