"""A guard's state file: SQLite, on the disk before anything is sent. One process holds it."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

_SCHEMA = """
create table if not exists guard (
  sub_id text primary key, seen integer not null, executed integer not null, epoch text not null,
  standing text not null, why text not null) strict;
create table if not exists copy (
  ref text primary key, magic integer not null unique, symbol text not null, side text not null,
  volume text not null, sl text, tp text, seq integer not null, state text not null, attempts integer not null,
  born_ms integer not null, sent_ms integer not null, reduced_ms integer not null, why text not null) strict;
create index if not exists copy_unfinished on copy (state) where state in ('INTENT', 'REJECTED', 'HELD');
create table if not exists heard (seq integer primary key, sha256 text not null) strict;
create table if not exists outbox (
  id integer primary key autoincrement, event text not null, ref text not null, at_ms integer not null,
  why text not null) strict;
"""


class State(StrEnum):
    """INTENT: an order is or may be under way. HELD: the broker has the position. GONE: it had it. DEAD: never."""

    INTENT = "INTENT"
    REJECTED = "REJECTED"
    HELD = "HELD"
    GONE = "GONE"
    DEAD = "DEAD"


class StateInUse(Exception):
    """Another process holds the state file: two guards of one subscription would open everything twice."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A row: what one trade's copy must be, and how far it got. `reduced_ms`: since when a reduction is under way."""

    ref: str
    magic: int
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    seq: int
    state: State
    attempts: int
    born_ms: int
    sent_ms: int
    reduced_ms: int
    why: str


def opened(path: str | Path, connect: Callable[..., sqlite3.Connection]) -> sqlite3.Connection:
    """The state file. One that is damaged is put aside, and a new one begun: then nothing old is opened."""
    try:
        return _prepared(path, connect)
    except sqlite3.OperationalError as busy:
        if "locked" in str(busy):
            raise StateInUse(f"{path} is held by another process") from None
        raise
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
        db.executescript(f"begin immediate; {_SCHEMA} commit;")
    except BaseException:
        db.close()
        raise
    return db


def copy_of(row: tuple[Any, ...]) -> Copy:
    ref, magic, symbol, side, volume, sl, tp, seq, state, attempts, born_ms, sent_ms, reduced_ms, why = row
    return Copy(
        ref, magic, symbol, side, Decimal(volume), number(sl), number(tp), seq, State(state), attempts, born_ms,
        sent_ms, reduced_ms, why,
    )  # fmt: skip


def text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
