"""What is active now, as it is sent: one read at one instant of the database, encoded once."""

import bisect
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from operator import itemgetter
from typing import Any

import orjson
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from accounts.protocol import SignedCall
from core import database, errors, money, uuid7
from strategies import sizing


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that a viewer sees: one that it leads, or (`sub_id`) follows.

    `terms`: those that an open trade may have been opened under, since when (ms), oldest first; `number` grows with
    them. `closes`: what is held is to be closed too, for a drawdown.
    """

    strategy_id: int
    name: str
    seq: int
    sub_id: str | None
    status: str
    paused_for: str
    generation: int
    number: int
    closes: bool
    terms: tuple[tuple[int, sizing.Settings], ...]

    @property
    def follows(self) -> bool:
        return self.sub_id is not None

    @property
    def paused(self) -> bool:
        return self.status == "PAUSED"

    @property
    def why_not(self) -> str:
        """Why nothing new is copied; none where it is."""
        return _PAUSED_FOR.get(self.paused_for, self.paused_for.lower())

    def settings_of(self, trade_id: str) -> sizing.Settings:
        """Those in force when the trade was opened."""
        found = bisect.bisect_right(self.terms, uuid7.ms_of(trade_id), key=itemgetter(0))
        return self.terms[max(0, found - 1)][1]

    def show(self, trade: dict[str, Any]) -> sizing.Plan:
        """Tell in an open trade's row what the follower's copy must be; what it would be, were it held."""
        plan = sizing.plan(self.settings_of(trade["trade_id"]), provider_trade(trade))
        if self.closes:
            plan = dataclasses.replace(plan, volume=sizing.NOTHING)
        if trade["status"] == "CLOSED":
            return plan
        why_not = plan.why_not or self.why_not or ("" if plan.volume else "volume_too_small")
        trade["copy"] = {
            "symbol": plan.symbol,
            "type": plan.type,
            "volume": money.text(plan.volume),
            "sl": _text(plan.sl),
            "tp": _text(plan.tp),
            "opens": not why_not,
            "why_not": why_not,
        }
        trade["copy_volume"] = None if why_not else trade["copy"]["volume"]
        return plan


_PAUSED_FOR = {"HAND": "paused", "OWNER": "paused"}


def provider_trade(trade: dict[str, Any]) -> sizing.ProviderTrade:
    """The trade of a row, as the copy is worked out from it. Of a closed one nothing remains."""
    closed = trade["status"] == "CLOSED"
    return sizing.ProviderTrade(
        symbol=trade["symbol"],
        type=trade["type"],
        opened_volume=Decimal(trade["volume" if closed else "opened_volume"]),
        volume=sizing.NOTHING if closed else Decimal(trade["volume"]),
        open_price=_amount(trade, "open_price") or sizing.NOTHING,
        opened_sl=_amount(trade, "opened_sl"),
        sl=_amount(trade, "sl"),
        tp=_amount(trade, "tp"),
    )


def _amount(trade: dict[str, Any], name: str) -> Decimal | None:
    return None if trade.get(name) is None else Decimal(trade[name])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The body of `GET /api/v2/trades/active` and of the stream's first message, without their envelope."""

    version: str
    sources: dict[str, Source]
    trades: list[dict[str, Any]] = field(repr=False)

    @property
    def as_of(self) -> dict[str, str]:
        return {name: str(source.seq) for name, source in self.sources.items()}

    @property
    def copies(self) -> str:
        """How often the copies of each account have changed: the mark's last part."""
        return self.version.rpartition("/")[2]

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
        source = sources[trade["strategy"]] if trade["role"] == "master" else None
        if source is not None and source.follows:
            source.show(trade)
    return Snapshot(raw["mark"], sources, raw["trades"])


@functools.lru_cache(maxsize=2048)
def _cached(_database: str, account_id: int, _version: str) -> Snapshot:
    return read([account_id], using=database.BOT)


def cached(account_id: int, version: str) -> Snapshot:
    """Kept by its mark, which changes in the transaction of any change. One read while it changed is newer: as good."""
    return _cached(connections[database.BOT].settings_dict["NAME"], account_id, version)


def current_version(call: SignedCall) -> str:
    """The mark of the caller's snapshot as it is now. Raises where the key may not call."""
    answered = database.ask(
        database.BOT,
        "select signed_read($1, $2, $3::inet)::text",
        call.credential.generation_id,
        call.signable.seq,
        call.ip,
    )
    state = orjson.loads(answered)
    if "refused" in state:
        raise errors.of_code(state.pop("refused"), **state)
    version: str = state["mark"]
    return version


def _source(row: dict[str, Any]) -> Source:
    return Source(
        strategy_id=row["id"],
        name=row["name"],
        seq=row["seq"],
        sub_id=row["sub_id"],
        status=row["status"],
        paused_for=row["paused_for"],
        generation=row["generation"],
        number=row["number"],
        closes=row["closes"],
        terms=tuple((since_ms, sizing.settings(text)) for since_ms, text in row["terms"] or ()),
    )


def _text(value: Decimal | None) -> str | None:
    return None if value is None else money.text(value)


def etag(version: str) -> str:
    """Of a snapshot's mark. The epoch is in it: after a restore no old answer counts."""
    return f'"{hashlib.sha256(f"{settings.STREAM_EPOCH}|{version}".encode()).hexdigest()[:32]}"'
