"""What is active now, as it is sent: one read at one instant of the database, encoded once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from core import money
from strategies import sizing


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that a viewer sees. `multiplier` is None where the viewer leads it; paused ones open nothing new."""

    strategy_id: int
    name: str
    seq: int
    sub_id: str | None
    multiplier: Decimal | None
    paused: bool

    def copy_volume(self, master_volume: str) -> str | None:
        """What a copy should hold: None where this viewer copies nothing of it."""
        if self.multiplier is None or self.paused:
            return None
        return money.text(self.sized(master_volume))

    def sized(self, master_volume: str) -> Decimal:
        return sizing.copy_volume(Decimal(master_volume), self.multiplier or Decimal(0))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The body of `GET /api/v2/trades/active` and of the stream's first message, without their envelope."""

    mark: str
    sources: dict[str, Source]
    trades: list[dict[str, Any]] = field(repr=False)

    @property
    def as_of(self) -> dict[str, str]:
        return {name: str(source.seq) for name, source in self.sources.items()}

    def body(self, **before: str) -> bytes:
        """As sent. The digest is that of the trades array's own bytes."""
        trades = orjson.dumps(self.trades)
        head = {
            **before,
            "stream_epoch": settings.STREAM_EPOCH,
            "as_of": self.as_of,
            "count": len(self.trades),
            "digest": hashlib.sha256(trades).hexdigest(),
        }
        return orjson.dumps(head)[:-1] + b',"trades":' + trades + b"}"


def read(account_ids: Sequence[int], using: str = DEFAULT_DB_ALIAS) -> Snapshot:
    """The snapshot of these accounts: the streams they lead or follow, and their own copies."""
    with connections[using].cursor() as cursor:
        cursor.execute("select active_snapshot(%s::bigint[])::text", [list(account_ids)])
        (found,) = cursor.fetchone() or ("{}",)
    raw = orjson.loads(found)
    sources = {row["name"]: _source(row) for row in raw["streams"]}
    for trade in raw["trades"]:
        if trade["role"] == "master":
            trade["copy_volume"] = sources[trade["strategy"]].copy_volume(trade["volume"])
    return Snapshot(raw["mark"], sources, raw["trades"])


def _source(row: dict[str, Any]) -> Source:
    multiplier = row["multiplier"]
    return Source(
        strategy_id=row["id"],
        name=row["name"],
        seq=row["seq"],
        sub_id=row["sub_id"],
        multiplier=None if multiplier is None else Decimal(multiplier),
        paused=row["status"] == "PAUSED",
    )


def etag(mark: str) -> str:
    """Of a snapshot's mark. The epoch is in it: after a restore no old answer counts."""
    return f'"{hashlib.sha256(f"{settings.STREAM_EPOCH}|{mark}".encode()).hexdigest()[:32]}"'
