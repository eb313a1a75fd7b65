"""A guard's state file: one SQLite file, held by one process and written to disk before an order is sent."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from copybot.targets import Target

_SCHEMA_VERSION = 2
_SCHEMA = f"""
create table guard (
  sub_id text primary key, seen integer not null, executed integer not null, epoch text not null,
  standing text not null, why text not null, fence integer not null,
  leased_ms integer not null) strict;
create table copy (
  ref text primary key, magic integer not null unique, symbol text not null, side text not null,
  volume text not null, sl text, tp text, price text not null, seq integer not null, state text not null,
  attempts integer not null, born_ms integer not null, heard_ms integer not null, sent_ms integer not null,
  filled_ms integer not null, asked text not null, position text not null, filled_price text not null,
  reduced_ms integer not null, why text not null) strict;
create index copy_unfinished on copy (state) where state in ('INTENT', 'REJECTED', 'HELD');
create table heard (seq integer primary key, sha256 text not null) strict;
create table outbox (
  id integer primary key autoincrement, event text not null, ref text not null, at_ms integer not null,
  why text not null) strict;
pragma user_version = {_SCHEMA_VERSION};
"""
_KEPT_HASHES = 10_000


class State(StrEnum):
    """The state of one copy.

    INTENT: an order is or may be in flight. REJECTED: the broker refused it. HELD: the broker has the position.
    GONE: the position has ended. DEAD: there never was a position and never will be.
    """

    INTENT = "INTENT"
    REJECTED = "REJECTED"
    HELD = "HELD"
    GONE = "GONE"
    DEAD = "DEAD"


class GuardMode(StrEnum):
    """HOLD: the desk went back in time; nothing is done until it has a new epoch. HALT: forged packets; no opens."""

    LIVE = "LIVE"
    HOLD = "HOLD"
    HALT = "HALT"


_UNFINISHED = frozenset({State.INTENT, State.REJECTED, State.HELD})
_STATES = {state.value: state for state in State}


class StateInUse(Exception):
    """Another process holds the state file. Two guards of one subscription would open every trade twice."""


class StateUnwritable(Exception):
    """The state file cannot be written: no space, or no permission. Without it no trade may be opened."""


class StateOfAnotherVersion(Exception):
    """The state file was written by another version of this program. It is left unchanged."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One row: a copy's target and its progress. Times are ms of the desk's clock, 0 for not yet.

    `price`: the provider's open price. `asked`: the volume of the order. `position`: the broker's id, once seen.
    `filled_price`: the position's open price. `reduced_ms`: since when a reduction is in flight.
    """

    ref: str
    magic: int
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    price: Decimal
    seq: int
    state: State
    attempts: int
    born_ms: int
    heard_ms: int
    sent_ms: int
    filled_ms: int
    asked: Decimal
    position: str
    filled_price: Decimal
    reduced_ms: int
    why: str

    def is_filling(self, now_ms: int, settle_ms: int) -> bool:
        """Whether a part of the order may still be executed: its answer was lost less than `settle_ms` ago."""
        return not self.filled_ms and abs(now_ms - self.sent_ms) < settle_ms

    @property
    def target(self) -> Target:
        return Target(
            self.ref, self.symbol, self.side, self.volume, self.sl, self.tp, self.price, self.born_ms, self.seq
        )


def copy_of(target: Target, magic: int, state: State, *, heard_ms: int, now_ms: int, why: str = "") -> Copy:
    """The row of a copy that has no position yet."""
    return Copy(
        ref=target.ref, magic=magic, symbol=target.symbol, side=target.side, volume=target.volume, sl=target.sl,
        tp=target.tp, price=target.price, seq=target.seq, state=state, attempts=1, born_ms=target.born_ms,
        heard_ms=heard_ms, sent_ms=now_ms, filled_ms=0, asked=Decimal(0), position="", filled_price=Decimal(0),
        reduced_ms=0, why=why,
    )  # fmt: skip


_COLUMNS = tuple(Copy.__slots__)
_INSERT = f"insert into copy ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # nosec B608


@dataclass(frozen=True, slots=True)
class Event:
    """An event kept until it is reported to the desk: opened, closed, skipped (`why`), held or halted."""

    id: int
    event: str
    ref: str
    at_ms: int
    why: str


class StateStore:
    """The state of one guard. Write only within `durable()`. Unfinished copies are cached in memory."""

    seen: int
    executed: int
    epoch: str
    why: str
    takeover_number: int
    leased_ms: int
    mode: GuardMode

    def __init__(self, path: str | Path, sub_id: str, connect: Callable[..., sqlite3.Connection]) -> None:
        self.db = opened(path, connect)
        self._sub_id = sub_id
        self._unfinished: dict[str, Copy] | None = None
        self._refs: dict[int, str] = {}
        with self.durable():
            self.do("insert or ignore into guard values (?, 0, 0, '', 'LIVE', '', 0, 0)", sub_id)
        self._read()

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def durable(self) -> Iterator[None]:
        """A transaction that is on disk when the block ends."""
        self.db.execute("begin immediate")
        try:
            yield
            self.db.execute("commit")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("rollback")
            self._unfinished = None
            self._read()
            raise

    def _read(self) -> None:
        row = self.do("select * from guard where sub_id = ?", self._sub_id).fetchone()
        if row is not None:
            _, self.seen, self.executed, self.epoch, mode, self.why, self.takeover_number, self.leased_ms = row
            self.mode = GuardMode(mode)

    # --- the guard itself

    def note(self, **columns: int | str) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self.do(f"update guard set {names}", *columns.values())  # noqa: S608  # nosec B608
        self._read()

    def advance(self, seq: int, sha256: str) -> None:
        self.note(seen=seq)
        self.do("insert or replace into heard values (?, ?)", seq, sha256)
        self.do("delete from heard where seq <= ?", seq - _KEPT_HASHES)

    def heard(self, seq: int) -> str | None:
        """The hash of the packet that was taken up under this number."""
        row = self.do("select sha256 from heard where seq = ?", seq).fetchone()
        return None if row is None else str(row[0])

    def forget_heard(self) -> None:
        self.do("delete from heard")

    # --- copies

    def copies(self) -> list[Copy]:
        return [_copy(row) for row in self.do("select * from copy order by ref")]

    def unfinished(self) -> list[Copy]:
        return list(self._unfinished_by_ref().values())

    def copy(self, ref: str) -> Copy | None:
        return self._unfinished_by_ref().get(ref) or self._query("select * from copy where ref = ?", ref)

    def by_magic(self, magic: int) -> Copy | None:
        copy = self._unfinished_by_ref().get(self._refs.get(magic, ""))
        return copy or self._query("select * from copy where magic = ?", magic)

    def add(self, copy: Copy) -> None:
        self.do(_INSERT, *(_stored(getattr(copy, name)) for name in _COLUMNS))
        self._cache(copy)

    def change(self, ref: str, **columns: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self.do(f"update copy set {names} where ref = ?", *map(_stored, columns.values()), ref)  # noqa: S608  # nosec B608
        copy = self._unfinished_by_ref().get(ref)
        if copy is not None:
            self._cache(replace(copy, **columns))
        elif "state" in columns:
            self._unfinished = None

    def _unfinished_by_ref(self) -> dict[str, Copy]:
        if self._unfinished is None:
            rows = self.do("select * from copy where state in ('INTENT', 'REJECTED', 'HELD') order by seq, ref")
            self._unfinished = {copy.ref: copy for copy in map(_copy, rows)}
            self._refs = {copy.magic: copy.ref for copy in self._unfinished.values()}
        return self._unfinished

    def _cache(self, copy: Copy) -> None:
        if copy.state in _UNFINISHED:
            self._unfinished_by_ref()[copy.ref] = copy
            self._refs[copy.magic] = copy.ref
        else:
            self._unfinished_by_ref().pop(copy.ref, None)
            self._refs.pop(copy.magic, None)

    def _query(self, statement: str, value: str | int) -> Copy | None:
        row = self.do(statement, value).fetchone()
        return None if row is None else _copy(row)

    # --- reports to the desk

    def queue(self, event: str, ref: str, at_ms: int, why: str) -> None:
        self.do("insert into outbox (event, ref, at_ms, why) values (?, ?, ?, ?)", event, ref, at_ms, why)

    def outbox(self, most: int) -> list[Event]:
        return [Event(*row) for row in self.do("select * from outbox order by id limit ?", most)]

    def mark_reported(self, event: Event) -> None:
        self.do("delete from outbox where id = ?", event.id)

    def do(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self.db.execute(statement, values)


def opened(path: str | Path, connect: Callable[..., sqlite3.Connection]) -> sqlite3.Connection:
    """Open the state file. A damaged file is moved aside and a new one begun, with which no old trade is opened.

    Raises StateInUse, StateUnwritable or StateOfAnotherVersion.
    """
    try:
        return _prepared(path, connect)
    except sqlite3.OperationalError as busy:
        if "locked" in str(busy):
            raise StateInUse(f"{path} is in use by another process: stop that one first") from None
        raise StateUnwritable(
            f"{path} cannot be written ({busy}): free disk space, or allow this user to write"
        ) from busy
    except sqlite3.DatabaseError:
        aside = Path(f"{path}.damaged-{time.time_ns()}")
        Path(path).rename(aside)
        for ending in ("-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
        return _prepared(path, connect)


def _prepared(path: str | Path, connect: Callable[..., sqlite3.Connection]) -> sqlite3.Connection:
    db = connect(path, isolation_level=None, timeout=1)
    try:
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        if db.execute("pragma quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
        if _is_new(db, path):
            db.executescript(f"begin immediate; {_SCHEMA} commit;")
    except BaseException:
        db.close()
        raise
    return db


def _is_new(db: sqlite3.Connection, path: str | Path) -> bool:
    version = db.execute("pragma user_version").fetchone()[0]
    if version == _SCHEMA_VERSION:
        return False
    if db.execute("select count(*) from sqlite_master").fetchone()[0]:
        raise StateOfAnotherVersion(
            f"{path} is of version {version}, this program needs {_SCHEMA_VERSION}: close its copies by hand, "
            "move the file away, and start again (no trade that is active then is opened)"
        )
    return True


def _copy(row: tuple[Any, ...]) -> Copy:
    (
        ref, magic, symbol, side, volume, sl, tp, price, seq, state, attempts, born_ms, heard_ms, sent_ms, filled_ms,
        asked, position, filled_price, reduced_ms, why,
    ) = row  # fmt: skip
    return Copy(
        ref, magic, symbol, side, Decimal(volume), _number(sl), _number(tp), Decimal(price), seq, _STATES[state],
        attempts, born_ms, heard_ms, sent_ms, filled_ms, Decimal(asked), position, Decimal(filled_price), reduced_ms,
        why,
    )  # fmt: skip


def _stored(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal | State) else value


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
