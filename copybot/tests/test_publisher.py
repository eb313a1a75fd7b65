"""A provider's positions at the desk: each trade opens once and closes once, with its profit, whichever call fails."""

import itertools
import json
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Account, Deal, Entry, Position
from copybot.candles import Bar, Candles, Instrument
from copybot.deals import DealsIncomplete, trades_of
from copybot.errors import KeyRefused, refusal
from copybot.paper import Faults, PaperBroker
from copybot.position_sync import PositionSync
from copybot.protocol import Answer
from copybot.publisher import Publisher

NOON = 1_767_600_000_000
SECOND = 1_000


class Crash(BaseException):
    """The process dies."""


class Terminal:
    """A hedging or netting account that the test controls. Every call is a place to fail."""

    def __init__(self, point: Callable[..., Any] = lambda: None) -> None:
        self.now, self.held, self.books, self.settled, self.point = NOON, {}, {}, True, point
        self.numbers = itertools.count(500)

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
        return Account("1", "Test", "USD", Decimal(1000), Decimal("1001.5"), True, True)

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


def day(world: Any) -> Any:
    """A trade with stops, a partial close and a target; one closed at its stop; one that stays."""
    terminal = world.terminal
    terminal.open("1", "1.0", "1.1", fee="-3.5")
    terminal.stops("1", "1.09")
    world.sync()
    terminal.open("2", "0.3", "1.2", side="SELL")
    world.sync()
    terminal.stops("1", "1.095", "1.12")
    world.sync()
    terminal.close("1", "0.4", "1.105", "20")
    terminal.stops("1", "1.1")
    terminal.close("2", "0.3", "1.21", "-30", reason="SL")
    world.sync()
    terminal.stops("1", "1.095", "1.12")  # as it was before: a change of its own
    terminal.open("3", "0.2", "1.3")
    world.sync()
    terminal.close("1", "0.1", "1.11", "10")
    terminal.close("1", "0.2", "1.112", "24")
    terminal.close("1", "0.3", "1.12", "60", reason="TP")
    return world.settle()


def assert_told_once(world: Any) -> None:
    desk = world.desk
    assert list(desk.active_rows) == ["3"]
    assert desk.zombies == 0  # the desk would hold it against the provider
    for ticket in "123":
        assert desk.times("open", ticket) == 1, desk.log
    assert (desk.times("close", "1"), desk.times("close", "2"), desk.times("reduce", "1")) == (1, 1, 3)
    assert desk.profit("1") == Decimal("110.5")
    assert desk.profit("2") == -30
    assert (desk.closed["1"]["close_price"], desk.closed["1"]["reason"]) == ("1.12000000", "TP")
    assert desk.closed["2"]["reason"] == "SL"


CALLS = day(World()).calls


def test_a_day_of_trading_is_reported_as_it_happened() -> None:
    world = day(World())

    assert_told_once(world)
    assert [entry[1:] for entry in world.desk.log if entry[0] == "reduce"] == [
        ("1", "0.60000000"), ("1", "0.50000000"), ("1", "0.30000000"),
    ]  # fmt: skip
    assert [entry[2] for entry in world.desk.log if entry[0] == "modify"] == ["1.09500000", "1.10000000", "1.09500000"]


@pytest.mark.parametrize("fault", [Crash, ConnectionError])
def test_each_trade_is_reported_once_whichever_call_fails(fault: Any) -> None:
    assert CALLS > 30
    for dies_at in range(1, CALLS + 1):
        assert_told_once(day(World(dies_at, fault)))


class Restless(World):
    """Dies over and over."""

    def point(self) -> None:
        self.calls += 1
        if self.calls % self.dies_at == 0:
            raise self.fault


@pytest.mark.parametrize("every", [11, 13, 17, 19])
def test_a_process_that_crashes_repeatedly_reports_the_same(every: int) -> None:
    world = day(Restless(every))
    for _ in range(20):
        world.sync()

    assert_told_once(world)


class Forgetful(PositionSync):
    """The control: gives each report a new idempotency key."""

    def _send(self, report: Any, key: Any) -> Any:
        return super()._send(report, f"{report.verb}-{secrets.token_hex(12)}")


def doubled(kind: Any) -> int:
    """The number of crash points that open a trade twice at a desk that does not check tickets."""
    doubles = 0
    for dies_at in range(1, CALLS + 1):
        world = World(dies_at, ConnectionError, kind)
        world.desk.active = lambda: {"trades": []} if world.calls < dies_at + 3 else Desk.active(world.desk)  # noqa: B023
        world.desk._open = _opens_anyway(world.desk)
        day(world)
        doubles += any(world.desk.times("open", ticket) > 1 for ticket in "123")
    return doubles


def _opens_anyway(desk: Any) -> Callable[..., Any]:
    def opened(ticket: Any, fields: Any) -> Any:
        return 201, desk._told("open", ticket, {"role": "master", "sl": None, "tp": None, **fields}, fields["volume"])

    return opened


def test_a_repeat_has_the_same_key_and_one_effect() -> None:
    assert doubled(PositionSync) == 0
    assert doubled(Forgetful) > 0


# --- what comes first, and what must wait


def test_closes_are_reported_before_opens() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    world.terminal.open("2", "1", "1.2")
    world.sync()

    assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("close", "1"), ("open", "2")]


def test_an_incomplete_history_does_not_close_a_trade() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    closing = dict(world.terminal.books)
    world.terminal.close("1", "1", "1.2", "5")
    books = world.terminal.books
    world.terminal.books = {"1": [deal for deal in closing["1"] if deal.entry is Entry.IN]}
    world.settle()
    assert list(world.desk.active_rows) == ["1"]
    assert world.position_sync.findings["1"].kind == "waiting"

    world.terminal.books, world.terminal.settled = books, False
    world.settle()
    assert list(world.desk.active_rows) == ["1"]

    world.terminal.settled = True
    world.settle()
    assert world.desk.closed["1"]["close_price"] == "1.20000000"
    assert world.position_sync.findings == {}


def test_a_terminal_that_shows_nothing_closes_nothing() -> None:
    """Another login, or a history that is not loaded: no positions and no deals."""
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.held, world.terminal.books = {}, {}
    world.settle()

    assert list(world.desk.active_rows) == ["1"]


@pytest.mark.parametrize(("side", "sl", "tp"), [("BUY", "1.15", "1.3"), ("SELL", "1.05", "1.0")])
def test_a_stop_that_was_moved_into_profit_before_the_publisher_looked_follows_the_open(
    side: str, sl: str, tp: str
) -> None:
    """The desk refuses an open whose stop is past its price."""
    world = World()
    world.terminal.open("1", "1", "1.1", side=side)
    world.terminal.stops("1", sl, tp)

    world.sync()
    world.sync()

    assert [entry[0] for entry in world.desk.log] == ["open", "modify"]
    row = world.desk.active_rows["1"]
    assert (Decimal(row["sl"]), Decimal(row["tp"])) == (Decimal(sl), Decimal(tp))


def test_a_position_older_than_the_limit_is_not_published_and_listed() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.sync(61 * SECOND)

    assert world.desk.log == []
    assert world.position_sync.findings["1"].kind == "too_old"


def test_a_terminal_clock_that_is_ahead_publishes_new_positions_only() -> None:
    world = World(max_age_ms=60 * SECOND)
    with terminals_clock_ahead(world):
        world.terminal.open("1", "1", "1.1")
    world.sync()
    with terminals_clock_ahead(world):
        world.terminal.open("2", "1", "1.1")
    world.sync()
    world.sync(3600 * SECOND)

    assert list(world.desk.active_rows) == ["2"]
    assert "opened_at" not in world.desk.active_rows["2"]
    assert world.position_sync.findings["1"].kind == "too_old"


@contextmanager
def terminals_clock_ahead(world: Any) -> Iterator[None]:
    world.terminal.now += 2 * 3600 * SECOND
    yield
    world.terminal.now -= 2 * 3600 * SECOND


def test_an_unchanged_state_sends_nothing() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.stops("1", "1.0")
    world.terminal.close("1", "0.4", "1.2", "5")
    world.sync()
    asked = world.desk.asked
    world.settle()
    world.position_sync = world.fresh()
    world.settle()

    assert world.desk.asked == asked


def test_the_row_of_an_excluded_position_stays_until_the_position_ends() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.position_sync.of = lambda _: None
    world.settle()
    assert (list(world.desk.active_rows), world.position_sync.findings) == (["1"], {})

    world.terminal.close("1", "1", "1.2", "5")
    world.settle()
    assert list(world.desk.closed) == ["1"]


def test_a_terminal_that_connects_while_we_look_shows_old_positions() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.terminal.now += 3600 * SECOND
    held, world.terminal.held, world.terminal.settled = world.terminal.held, {}, False
    world.sync()
    world.terminal.held, world.terminal.settled = held, True
    world.sync()

    assert world.desk.log == []


def test_a_terminal_that_shows_its_positions_late_shows_old_ones() -> None:
    """At its start a terminal loads history and positions gradually; old positions must not look new."""
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.terminal.now += 3600 * SECOND
    held, books, world.terminal.settled = world.terminal.held, world.terminal.books, False
    world.terminal.held, world.terminal.books = {}, {}
    world.sync()
    world.terminal.held = held
    world.sync()
    world.terminal.settled = True
    world.sync()
    world.terminal.books = books
    world.sync()

    assert world.desk.log == []


def test_a_trade_that_could_not_be_published_in_time_is_not_published() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.sync()
    real, world.desk.active = world.desk.active, lambda: (_ for _ in ()).throw(ConnectionError)
    world.position_sync.forget()
    world.terminal.open("1", "1", "1.1")
    for _ in range(7):
        world.sync(10 * SECOND)
    world.desk.active = real
    world.sync()

    assert world.desk.log == []
    assert world.position_sync.findings["1"].kind == "too_old"


def test_a_restart_within_the_limit_loses_no_trade_and_an_old_one_goes_on_being_closed() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.now += 3600 * SECOND
    world.terminal.open("2", "1", "1.1")
    world.position_sync = world.fresh()
    world.sync(30 * SECOND)
    assert set(world.desk.active_rows) == {"1", "2"}

    world.terminal.close("1", "1", "1.2", "5")
    world.sync()
    assert set(world.desk.active_rows) == {"2"}


def test_a_trade_closed_by_staff_is_an_alarm_and_not_reopened() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.desk._close("1", {"close_price": "1.15", "profit": "0", "reason": "STAFF"})
    for restarted in (False, True):
        if restarted:
            world.position_sync = world.fresh()
        world.sync(20 * SECOND)
        world.sync(20 * SECOND)
        assert world.position_sync.findings["1"].kind == "zombie"
    assert world.desk.times("open", "1") == 1
    assert world.desk.zombies == 0


def test_trades_that_a_restored_desk_forgot_are_published_again_unless_closed() -> None:
    world = World(max_age_ms=60_000)
    for ticket in "12":
        world.terminal.open(ticket, "0.3", "1.1")
        world.sync()
    world.sync(after_ms=3_600_000)
    world.desk.active_rows, world.desk.kept = {}, {}
    world.desk.closed["2"] = {}
    world.sync(after_ms=20_000)
    assert world.position_sync.findings["1"].kind == "zombie"  # by the same desk it was closed

    world.desk.epoch = "2"
    world.sync(after_ms=20_000)
    world.sync(after_ms=20_000)
    assert list(world.desk.active_rows) == ["1"]
    assert world.position_sync.findings["2"].kind == "zombie"
    assert world.desk.zombies == 0


def test_the_first_close_stands() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.desk._close("1", {"close_price": "1.15", "profit": "0", "reason": "STAFF"})
    world.terminal.close("1", "1", "1.2", "5")
    world.settle()

    assert world.desk.closed["1"]["reason"] == "STAFF"
    assert world.position_sync.counts["conflict"] == 1
    assert world.position_sync.findings == {}


def test_a_close_only_strategy_is_retried_slowly_under_another_key() -> None:
    world = World()
    world.desk.status = "CLOSE_ONLY"
    world.terminal.open("1", "1", "1.1")
    for _ in range(20):
        world.sync()
    assert sum(key.startswith("open-") for key in world.desk.kept) == 1
    assert world.position_sync.findings["1"].words == "the desk refused the open: strategy_close_only"

    world.desk.status = "ACTIVE"
    world.sync(31 * SECOND)
    assert list(world.desk.active_rows) == ["1"]
    world.sync()
    assert world.position_sync.findings == {}


def test_one_refused_report_does_not_hold_up_the_others() -> None:
    world = World()
    world.terminal.open("1", "1", "1.1")
    world.terminal.open("2", "1", "1.1")
    world.sync()
    real = world.desk._close
    world.desk._close = lambda ticket, fields: (422, {"code": "invalid"}) if ticket == "1" else real(ticket, fields)
    world.terminal.close("1", "1", "1.2", "5")
    world.terminal.close("2", "1", "1.2", "5")
    world.sync()

    assert list(world.desk.active_rows) == ["1"]


def test_a_refused_key_is_not_blamed_on_a_trade() -> None:
    world = World()
    world.desk._open = lambda ticket, fields: (401, {"code": "key_revoked"})
    world.terminal.open("1", "1", "1.1")

    with pytest.raises(KeyRefused, match="key_revoked"):
        world.position_sync.sync()


def test_a_position_that_opened_and_closed_during_an_outage_is_counted_and_not_published() -> None:
    world = World()
    world.desk.active = lambda: (_ for _ in ()).throw(ConnectionError)
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    world.position_sync.watch()

    assert world.position_sync.counts["unpublished"] == 1
    assert world.desk.log == []


def test_positions_outside_the_strategy_are_not_published() -> None:
    world = World(of=lambda position: {} if position.id == "1" else None)
    world.terminal.open("1", "1", "1.1")
    world.terminal.open("2", "1", "1.1")
    world.sync()

    assert list(world.desk.active_rows) == ["1"]


# --- copies


def copies(position: Any) -> dict[str, Any]:
    return {"strategy": "lena-eurusd", "trade_ref": f"ref-{position.id}"}


def test_a_copy_is_reported_with_its_trade_and_the_providers_rows_are_ignored() -> None:
    world = World(of=copies, role="copy")
    world.desk.active_rows["9"] = {
        "role": "master",
        "ticket_id": "9",
        "volume": "1",
        "sl": None,
        "tp": None,
        "seq": "1",
    }
    world.terminal.open("1", "1", "1.1")
    world.settle()
    row = world.desk.active_rows["1"]
    assert (row["strategy"], row["trade_ref"]) == ("lena-eurusd", "ref-1")

    world.terminal.close("1", "1", "1.2", "5")
    world.settle()
    assert list(world.desk.active_rows) == ["9"]


def test_a_copy_that_opened_and_closed_unseen_is_reported_once_whatever_is_lost() -> None:
    for dies_at in range(1, 12):
        world = World(dies_at, of=copies, role="copy")
        world.terminal.open("1", "1", "1.1", fee="-2")
        world.terminal.close("1", "0.5", "1.2", "5")
        world.terminal.close("1", "0.5", "1.3", "10")
        done = False
        while not done:
            try:
                done = world.position_sync.note_gone("1", copies(Position("1", 0, "", "", Decimal(1), None, None)))
            except Crash:
                world.position_sync = world.fresh()
        assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("reduce", "1"), ("close", "1")]
        assert world.desk.profit("1") == 13
        assert world.desk.zombies == 0
        world.dies_at = -1
        world.position_sync = world.fresh()
        assert world.position_sync.note_gone("1", {"strategy": "lena-eurusd", "trade_ref": "ref-1"})


def test_a_copy_whose_row_was_closed_before_a_crash_is_not_opened_again() -> None:
    world = World(of=copies, role="copy")
    world.terminal.open("1", "1", "1.1")
    world.terminal.stops("1", "1.0")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    world.sync()
    world.position_sync = world.fresh()

    assert world.position_sync.note_gone("1", {"strategy": "lena-eurusd", "trade_ref": "ref-1"})
    assert (world.desk.zombies, world.desk.times("open", "1")) == (0, 1)


def test_a_copy_whose_open_the_desk_refused_is_not_closed_there() -> None:
    world = World(of=copies, role="copy")
    world.desk.status = "CLOSE_ONLY"
    world.terminal.open("1", "1", "1.1")
    world.terminal.close("1", "1", "1.2", "5")

    assert not world.position_sync.note_gone("1", {"strategy": "lena-eurusd", "trade_ref": "ref-1"})
    assert world.desk.closed == {}


# --- trades from deals


def legs(terminal: Any, position: str = "1") -> list[Any]:
    return [(trade.ticket, trade.side, trade.volume, trade.remaining) for trade in trades_of(terminal.books[position])]


def test_each_order_on_a_netting_position_is_a_trade_and_the_oldest_closes_first() -> None:
    terminal = Terminal()
    terminal.open("1", "1", "1.10", fee="-1")
    terminal.open("1", "2", "1.20", order="7", fee="-2")
    terminal.close("1", "1.5", "1.30", "30")
    assert legs(terminal) == [("1", "BUY", 1, 0), ("7", "BUY", 2, Decimal("1.5"))]

    terminal.close("1", "1.5", "1.40", "45")
    first, second = trades_of(terminal.books["1"])
    assert [(part.remaining, part.price, part.profit) for part in first.parts] == [(0, Decimal("1.30"), 19)]
    assert [(part.remaining, part.profit) for part in second.parts] == [(Decimal("1.5"), 10), (0, 43)]


def test_a_reversal_closes_all_and_opens_another() -> None:
    terminal = Terminal()
    terminal.open("1", "1", "1.10")
    terminal.close("1", "1", "1.20", "10", order="8")
    terminal.open("1", "0.5", "1.20", side="SELL", order="8")

    assert legs(terminal) == [("1", "BUY", 1, 0), ("8", "SELL", Decimal("0.5"), Decimal("0.5"))]


def test_an_order_filled_in_parts_is_one_trade_at_its_mean_price() -> None:
    terminal = Terminal()
    terminal.open("1", "1", "1.10")
    terminal.open("1", "3", "1.20", order="1")
    (trade,) = trades_of(terminal.books["1"])

    assert (trade.volume, trade.price) == (4, Decimal("1.175"))


def test_shares_of_a_profit_add_up_to_the_last_digit() -> None:
    terminal = Terminal()
    for order in ("1", "2", "3"):
        terminal.open("1", "1", "1.10", order=order)
    terminal.close("1", "3", "1.2", "10")
    profits = [trade.parts[-1].profit for trade in trades_of(terminal.books["1"])]

    assert sum(profits) == 10
    assert max(profits) - min(profits) < Decimal("0.00000002")


def test_closing_more_than_was_opened_means_that_deals_are_missing() -> None:
    terminal = Terminal()
    terminal.open("1", "2", "1.10")
    terminal.close("1", "2", "1.2", "5")

    with pytest.raises(DealsIncomplete):
        trades_of(terminal.books["1"][1:])


def netting_day(world: Any) -> Any:
    terminal = world.terminal
    terminal.open("1", "1", "1.10")
    world.sync()
    terminal.open("1", "2", "1.20", order="7")
    world.sync()
    terminal.close("1", "1.5", "1.30", "30")
    world.sync()
    terminal.close("1", "1.5", "1.25", "15", order="8")
    terminal.open("1", "0.4", "1.25", side="SELL", order="8")
    world.sync()
    terminal.close("1", "0.4", "1.2", "20", reason="TP")
    return world.settle()


def test_a_netting_account_is_reported_once_whatever_is_lost() -> None:
    calls = netting_day(World()).calls
    for dies_at, fault in itertools.product(range(calls + 1), (Crash, ConnectionError)):
        desk = netting_day(World(dies_at, fault)).desk
        assert desk.active_rows == {}
        assert set(desk.closed) == {"1", "7", "8"}
        assert all(desk.times(verb, ticket) == 1 for verb in ("open", "close") for ticket in "178")
        assert sum(desk.profit(ticket) for ticket in "178") == 65
        assert desk.closed["8"]["reason"] == "TP"


# --- the loop


def test_the_loop_survives_an_outage_and_ends_on_request() -> None:
    world, stop = World(), threading.Event()
    real, away = world.desk.active, iter([ConnectionError, OSError])

    def active() -> Any:
        for fault in away:
            raise fault
        return real()

    world.desk.active = active
    world.terminal.open("1", "1", "1.1")
    faults = []

    def sync(fault: Any) -> None:
        faults.append(fault)
        if not fault:
            stop.set()

    Publisher(world.position_sync, poll_s=0.001, on_sync=sync).run(stop)
    assert faults == ["ConnectionError", "OSError", ""]
    assert world.desk.worth == [{"balance": "1000.00000000", "equity": "1001.50000000"}]
    assert list(world.desk.active_rows) == ["1"]


# --- a real account: the paper broker, with stops that are hit, partial fills, and hands that trade at random


class Paper(World):
    """A paper account on realistic prices, traded at random by seed; the desk must have every report."""

    def __init__(self, folder: Any, seed: Any, *, is_hedging: Any, dies_at: int = -1, fault: Any = Crash) -> None:
        self.calls, self.dies_at, self.fault, self.kind, self.options = 0, dies_at, fault, PositionSync, {}
        self.rng, self.now = random.Random(seed), PAPER_STARTS
        eurusd = Instrument("EURUSD", Candles(paper_bars(seed), digits=5), commission=Decimal("3.5"))
        self.broker = PaperBroker(
            folder / f"{seed}-{is_hedging}-{dies_at}-{fault.__name__}", [eurusd], lambda: self.now,
            deposit=Decimal(100_000), is_hedging=is_hedging, faults=Faults(seed=seed, partial=0.2, slippage_points=3),
        )  # fmt: skip
        self.terminal, self.desk = self, Desk(self.point)
        self.position_sync = self.fresh()

    def positions(self) -> Any:
        self.point()
        return self.broker.positions()

    def deals(self, position: Any) -> Any:
        self.point()
        return self.broker.deals(position)

    def is_settled(self) -> Any:
        self.point()
        return self.broker.is_settled()

    def position_of(self, order: Any) -> Any:
        return next((deal.position for deal in self.broker.history() if deal.order == order), order)

    def trade(self) -> None:
        held, luck = self.broker.positions(), self.rng.random()
        volume = Decimal(self.rng.randrange(1, 40)) / 100
        if not held or luck < 0.4:
            side, sign = self.rng.choice([("BUY", 1), ("SELL", -1)])
            quote = self.broker.quote("EURUSD")
            stops = {
                "sl": quote.bid - sign * Decimal("0.0030") if self.rng.random() < 0.5 else None,
                "tp": quote.bid + sign * Decimal("0.0030") if self.rng.random() < 0.5 else None,
            }
            self.broker.open(magic=0, symbol="EURUSD", side=side, volume=volume, **stops)
        elif luck < 0.7:
            position = self.rng.choice(held)
            self.broker.close(position, min(volume, position.volume))
        elif luck < 0.85:
            position = self.rng.choice(held)
            away = Decimal(self.rng.randrange(20, 60)) / 10_000 * (1 if position.side == "BUY" else -1)
            self.broker.modify(position, sl=self.broker.quote("EURUSD").bid - away, tp=position.tp)

    def run(self, steps: int = 60) -> Any:
        for _ in range(steps):
            self.now += self.rng.randrange(1, 40) * 60_000
            self.trade()
            self.sync(0)
        for position in self.broker.positions():
            self.broker.close(position, position.volume)
        self.sync(0)
        return self.settle()


PAPER_STARTS = 1_767_571_200_000


def paper_bars(seed: Any) -> Iterator[Bar]:
    rng, price = random.Random(seed), 110_000
    for hour in range(100):
        close = price + rng.randrange(-300, 300)
        high, low = max(price, close) + rng.randrange(100), min(price, close) - rng.randrange(100)
        yield Bar(PAPER_STARTS + hour * 3_600_000, *(Decimal(points) / 100_000 for points in (price, high, low, close)))
        price = close


def assert_the_same_books(world: Any) -> None:
    """The desk's closed trades and the account's own deals: the same tickets, the same lots, the same money."""
    published = {deal.order for deal in world.broker.history() if deal.entry is Entry.IN}
    assert world.desk.active_rows == {}
    assert set(world.desk.closed) == published
    earned = world.broker.account().balance - 100_000
    assert sum(world.desk.profit(ticket) for ticket in published) == earned
    assert world.desk.zombies == 0
    assert all(world.desk.times(verb, ticket) == 1 for ticket in published for verb in ("open", "close"))


@pytest.mark.parametrize("is_hedging", [True, False], ids=["hedging", "netting"])
def test_the_desk_has_a_paper_accounts_profit_to_the_cent(tmp_path: Path, is_hedging: bool) -> None:
    tickets = 0
    for seed in range(6):
        world = Paper(tmp_path, seed, is_hedging=is_hedging).run()
        assert_the_same_books(world)
        tickets += len(world.desk.closed)
    assert tickets > 60


@pytest.mark.parametrize("is_hedging", [True, False], ids=["hedging", "netting"])
def test_the_desk_has_a_paper_accounts_profit_after_crashes_too(tmp_path: Path, is_hedging: bool) -> None:
    for dies_at in range(3, 180, 23):
        assert_the_same_books(Paper(tmp_path, 1, is_hedging=is_hedging, dies_at=dies_at).run(20))
