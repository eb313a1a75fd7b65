"""A publisher between a terminal and a desk that the test controls; every call between them is a place to fail."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from copybot.broker import Account, Deal, Entry, Position, Quote
from copybot.desk_model import MASTER, DeskModel, UnreliableLine
from copybot.errors import refusal
from copybot.mt5 import MetaTrader
from copybot.position_sync import PositionSync
from copybot.protocol import Answer
from copybot.tests.fake_mt5 import AHEAD_MS, FakeMT5

NOON = 1_767_600_000_000
SECOND = 1_000


class Crash(BaseException):
    """The process dies."""


class Terminal:
    """A hedging or netting account that the test controls. Every call is a place to fail."""

    def __init__(self, point: Callable[..., Any] = lambda: None) -> None:
        self.now, self.held, self.books, self.settled, self.point = NOON, {}, {}, True, point
        self.numbers = itertools.count(500)
        self.connected, self.hedging, self.price, self.cancelled = True, True, None, set()

    def open(
        self, position: Any, volume: Any, price: Any, *, side: str = "BUY", order: str = "", fee: str = "0"
    ) -> None:
        order = order or position
        self._deal(position, Entry.IN, volume, price, order=order, side=side, profit=fee)
        held = self.held.get(position)
        total = Decimal(volume) + (held.volume if held else 0)
        opened_ms = held.opened_ms if held else self.now
        self.held[position] = Position(
            position, 0, "EURUSD", side, total, None, None, open_price=Decimal(price), opened_ms=opened_ms
        )

    def spec(self, _: str) -> None:
        """No conditions are known."""

    def stops(self, position: Any, sl: Any, tp: Any = None) -> None:
        self.held[position] = replace(self.held[position], sl=sl and Decimal(sl), tp=tp and Decimal(tp))

    def close(
        self, position: Any, volume: Any, price: Any, profit: Any, *, reason: str = "MANUAL", order: str = "c"
    ) -> None:
        side = "SELL" if self.held[position].side == "BUY" else "BUY"
        self._deal(position, Entry.OUT, volume, price, order=order, side=side, profit=profit, reason=reason)
        left = self.held[position].volume - Decimal(volume)
        self.held[position] = replace(self.held[position], volume=left)
        if not left:
            del self.held[position]

    def _deal(
        self,
        position: Any,
        entry: Any,
        volume: Any,
        price: Any,
        *,
        order: Any,
        side: Any,
        profit: Any,
        reason: str = "MANUAL",
    ) -> None:
        self.books.setdefault(position, []).append(
            Deal(
                id=str(next(self.numbers)),
                order=order,
                position=position,
                entry=entry,
                magic=0,
                symbol="EURUSD",
                side=side,
                volume=Decimal(volume),
                price=Decimal(price),
                profit=Decimal(profit),
                at_ms=self.now,
                reason=reason,
            )
        )  # fmt: skip

    def positions(self) -> list[Any]:
        self.point()
        return list(self.held.values())

    def deals(self, position: Any) -> list[Any]:
        self.point()
        return list(self.books.get(position, []))

    def position_of(self, order: Any) -> Any:
        self.point()
        return next((name for name, deals in self.books.items() if any(deal.order == order for deal in deals)), order)

    def account(self) -> Account:
        money = Decimal(1000), Decimal("1001.5")
        return Account("1", "Test", "USD", *money, self.hedging, True, is_connected=self.connected)

    def quote(self, symbol: Any) -> Quote | None:
        return self.price

    def was_cancelled(self, position: Any) -> bool:
        return position in self.cancelled

    def is_settled(self) -> Any:
        self.point()
        return self.settled


class Desk:
    """A stand-in for the desk: a ticket opens once, and a key's answer is stored."""

    def __init__(self, point: Callable[..., Any] = lambda: None) -> None:
        self.point, self.active_rows, self.closed, self.kept = point, {}, {}, {}
        self.seq, self.log, self.status, self.reduced, self.zombies = 0, [], "ACTIVE", {}, 0
        self.worth, self.asked, self.epoch = [], 0, "1"

    def active(self) -> dict[str, Any]:
        self.point()
        return {"stream_epoch": self.epoch, "trades": [dict(row) for row in self.active_rows.values()]}

    def send(
        self, method: Any, path: Any, fields: Any = None, *, query: Any = None, idempotency_key: str = ""
    ) -> Answer:
        self.point()  # the request is lost
        self.asked += 1
        assert 16 <= len(idempotency_key) <= 64
        said = json.dumps([method, path, fields, query], sort_keys=True)
        if idempotency_key not in self.kept:
            self.kept[idempotency_key] = said, self._do(method, path, fields or query)
        before, (status, body) = self.kept[idempotency_key]
        if before != said:
            status, body = 422, {"code": "idempotency_conflict"}
        self.point()  # the answer is lost
        if status >= 400:
            raise refusal(status, body)
        return Answer(status, {}, json.dumps(body).encode())

    def _do(self, method: Any, path: Any, fields: Any) -> Any:
        if path == "/api/v2/account":
            self.worth.append(fields)
            return 200, {"status": "noted"}
        if path == "/api/v2/account/alarms":
            return 200, {"status": "told"}
        verb = {"PATCH": self._modify, "DELETE": self._close}.get(method)
        if verb is None:
            verb = self._reduce if path.endswith("/reduce") else self._open
        ticket = fields["ticket_id"] if verb == self._open else path.split("/")[5]
        return verb(ticket, fields)

    def _open(self, ticket: Any, fields: Any) -> Any:
        if ticket in self.closed:
            self.zombies += 1
            return 409, {"code": "trade_closed"}
        if ticket in self.active_rows:
            return 409, {"code": "trade_exists_different"}
        if self.status != "ACTIVE":
            return 409, {"code": "strategy_close_only"}
        role = "copy" if "strategy" in fields else "master"
        row = {"role": role, "sl": None, "tp": None, **fields, "volume": fields["volume"]}
        return 201, self._told("open", ticket, row, fields["volume"])

    def _modify(self, ticket: Any, fields: Any) -> Any:
        if ticket not in self.active_rows:
            return (409, {"code": "trade_closed"}) if ticket in self.closed else (404, {"code": "trade_unknown"})
        return 200, self._told("modify", ticket, self.active_rows[ticket] | fields, fields["sl"])

    def _reduce(self, ticket: Any, fields: Any) -> Any:
        row = self.active_rows.get(ticket)
        if row is None:
            return 409, {"code": "trade_closed"}
        if Decimal(fields["volume"]) >= Decimal(row["volume"]):
            return 409, {"code": "volume_increase"}
        self.reduced[ticket] = self.reduced.get(ticket, Decimal(0)) + Decimal(fields["profit"])
        return 200, self._told("reduce", ticket, row | {"volume": fields["volume"]}, fields["volume"])

    def _close(self, ticket: Any, fields: Any) -> Any:
        if ticket not in self.active_rows:
            same = self.closed.get(ticket) == fields
            return (200, {"status": "CLOSED"}) if same else (409, {"code": "trade_closed_conflict"})
        del self.active_rows[ticket]
        self.closed[ticket] = fields
        self.log.append(("close", ticket, fields["close_price"]))
        return 200, {"status": "CLOSED"}

    def _told(self, verb: Any, ticket: Any, row: Any, what: Any) -> dict[str, Any]:
        self.seq += 1
        self.active_rows[ticket] = row | {"seq": str(self.seq)}
        self.log.append((verb, ticket, what))
        return {"status": verb, "trade": self.active_rows[ticket]}

    def profit(self, ticket: Any) -> Any:
        return Decimal(self.closed[ticket]["profit"]) + self.reduced.get(ticket, Decimal(0))

    def times(self, verb: Any, ticket: Any) -> Any:
        return sum(1 for entry in self.log if entry[:2] == (verb, ticket))


class World:
    """A terminal, a desk and a position sync between them, restarted from scratch when it dies at its n-th call."""

    def __init__(self, dies_at: int = -1, fault: Any = Crash, kind: Any = PositionSync, **options: Any) -> None:
        self.calls, self.dies_at, self.fault, self.kind, self.options = 0, dies_at, fault, kind, options
        self.terminal, self.desk = Terminal(self.point), Desk(self.point)
        self.position_sync = self.fresh()

    def point(self) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise self.fault

    def fresh(self) -> Any:
        more = {"clock_ms": lambda: self.terminal.now, "position_of": self.terminal.position_of, **self.options}
        return self.kind(self.desk, self.terminal, **more)

    def sync(self, after_ms: int = 500) -> None:
        """Sync until it succeeds, since a restart in time misses nothing."""
        self.terminal.now += after_ms
        for _ in range(9):
            try:
                self.position_sync.sync()
            except Crash:
                self.position_sync = self.fresh()
            except OSError:
                pass
            else:
                if not any(finding.kind == "waiting" for finding in self.position_sync.findings.values()):
                    return

    def settle(self) -> Any:
        for _ in range(4):
            self.sync()
        return self


class Provider:
    """A MetaTrader account and its publisher at the model of the desk. The publisher syncs each half second."""

    def __init__(self, fake: FakeMT5 | None = None, kind: Any = PositionSync, **options: Any) -> None:
        self.now, self.fake = NOON, fake or FakeMT5(balance=1e7)
        self.fake._now_ms = lambda: self.now + AHEAD_MS
        self.terminal = MetaTrader.connect(login=self.fake.login_is, module=self.fake)
        self.terminal.clock_ms = self.clock
        self.desk = DeskModel(self.clock, lease_ms=45 * SECOND)
        self.kind, self.options = kind, options
        self.restart()
        self.wait(20)

    def clock(self) -> int:
        return self.now

    def line(self, account: str = MASTER) -> UnreliableLine:
        return UnreliableLine(self.desk, account, random.Random(1), 0.0)

    def restart(self) -> None:
        more = {"clock_ms": self.clock, "ahead_ms": lambda: AHEAD_MS, "max_age_ms": 60 * SECOND, **self.options}
        self.position_sync = self.kind(self.line(), self.terminal, **more)

    def wait(self, seconds: float = 0.5) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 500
            self.position_sync.sync()

    def trade(
        self, volume: float = 0.2, *, side: int = 0, symbol: str = "EURUSD", magic: int = 0, **stops: float
    ) -> int:
        """Open a position; returns its number."""
        self.fake.selected.add(symbol)
        spec = self.fake.symbols[symbol]
        answer = self.fake.order_send(
            {
                "action": 1, "type": side, "symbol": symbol, "volume": volume, "price": float(spec.bid), "sl": 0.0,
                "tp": 0.0, "type_filling": 0, "magic": magic, **stops,
            }
        )  # fmt: skip
        assert answer.retcode == 10009, answer
        return list(self.fake.positions)[-1]

    @property
    def active(self) -> dict[str, Any]:
        """The account's own trades at the desk."""
        return {ticket: row for (owner, ticket), row in self.desk.state.rows.items() if owner == MASTER}

    @property
    def closed(self) -> dict[str, Any]:
        """Price and reason of each closed trade."""
        return {ticket: close for (_, ticket), close in self.desk.state.closed.items()}

    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.position_sync.findings.values()]
