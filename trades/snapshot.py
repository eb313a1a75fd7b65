"""The snapshot of active trades: read at one instant of the database and encoded once."""

import bisect
import dataclasses
import functools
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from operator import itemgetter
from typing import Any

import orjson
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from accounts import protocol
from accounts.protocol import SignedCall
from core import database, errors, money, uuid7
from strategies import sizing


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that an account sees: its own strategy, or (with `sub_id`) one that it follows.

    `terms`: the settings that open trades may have been opened under, each with the time from which they hold (ms),
    oldest first. `number` grows with each new row of terms. `closes`: the drawdown stop also closes open copies.
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
        """Why new trades are not copied; empty if they are."""
        return _PAUSED_FOR.get(self.paused_for, self.paused_for.lower())

    def settings_of(self, trade_id: str) -> sizing.Settings:
        """The settings in force when the trade was opened."""
        position = bisect.bisect_right(self.terms, uuid7.ms_of(trade_id), key=itemgetter(0))
        return self.terms[max(0, position - 1)][1]

    def add_plan(self, trade: dict[str, Any], *, is_ordered_closed: bool = False) -> sizing.Plan:
        """Return the plan of the follower's copy, and add it to the trade's row (`copy`, `copy_volume`) if it is open.

        `copy` holds the plan also where no copy is opened, for a copy that may already be open. `is_ordered_closed`:
        staff ordered the close of the copy, so its volume is zero.
        """
        plan = sizing.plan(self.settings_of(trade["trade_id"]), provider_trade(trade))
        if self.closes or is_ordered_closed:
            plan = dataclasses.replace(plan, volume=sizing.NOTHING)
        if trade["status"] == "CLOSED":
            return plan
        why_not = "closed" if is_ordered_closed else self._why_not(plan, trade["trade_id"])
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

    def _why_not(self, plan: sizing.Plan, trade_id: str) -> str:
        """Why no copy is opened. One that waits for a stop loss is not refused yet."""
        if not plan.why_not:
            return self.why_not or ("" if plan.volume else "volume_too_small")
        if plan.waits and time.time_ns() // 1_000_000 <= uuid7.ms_of(trade_id) + sizing.FIRST_STOP_MS:
            return self.why_not or AWAITING_STOP
        return plan.why_not


AWAITING_STOP = "awaiting_stop"
_PAUSED_FOR = dict.fromkeys(("HAND", "OWNER", "TERMS"), "paused")


def provider_trade(trade: dict[str, Any]) -> sizing.ProviderTrade:
    """The provider's trade in a row, as input for the plan of a copy. A closed trade has no volume left."""
    closed = trade["status"] == "CLOSED"
    return sizing.ProviderTrade(
        symbol=trade["symbol"],
        type=trade["type"],
        opened_volume=Decimal(trade["volume" if closed else "opened_volume"]),
        volume=sizing.NOTHING if closed else Decimal(trade["volume"]),
        open_price=_amount(trade, "open_price") or sizing.NOTHING,
        opened_sl=_amount(trade, "opened_sl"),
        first_sl=_amount(trade, "first_sl"),
        sl=_amount(trade, "sl"),
        tp=_amount(trade, "tp"),
    )


def _amount(trade: dict[str, Any], name: str) -> Decimal | None:
    return None if trade.get(name) is None else Decimal(trade[name])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of `GET /api/v2/trades/active` and of the stream's first message, without the envelope.

    `waits_until_ms`: when the last copy that waits for a stop loss gives up; 0 if none waits.
    """

    version: str
    sources: dict[str, Source]
    trades: list[dict[str, Any]] = field(repr=False)
    hidden: frozenset[str] = frozenset()  # ids of open trades that paused subscriptions do not see
    waits_until_ms: int = 0

    @property
    def as_of(self) -> dict[str, str]:
        return {name: str(source.seq) for name, source in self.sources.items()}

    @property
    def copies(self) -> str:
        """The counters of changed copies, account by account: the last part of the version."""
        return self.version.rpartition("/")[2]

    def body(self, **leading_fields: str) -> bytes:
        """The encoded JSON. `digest` is the SHA-256 of the bytes of the trades array."""
        trades = orjson.dumps(self.trades)
        head = {
            **leading_fields,
            "stream_epoch": settings.STREAM_EPOCH,
            "as_of": self.as_of,
            "count": len(self.trades),
            "digest": hashlib.sha256(trades).hexdigest(),
        }
        return orjson.dumps(head)[:-1] + b',"trades":' + trades + b"}"


def read(account_ids: Sequence[int], using: str = DEFAULT_DB_ALIAS) -> Snapshot:
    """Read the snapshot of these accounts: the streams that they lead or follow, and their own copies."""
    with connections[using].cursor() as cursor:
        cursor.execute("select snapshot_with(%s::bigint[], true)::text", [list(account_ids)])
        (text,) = cursor.fetchone() or ("{}",)
    raw = orjson.loads(text)
    sources = {row["name"]: _source(row) for row in raw["streams"]}
    ordered_closes = set(raw["ordered_closes"])
    hidden = set(raw.get("hidden", ()))
    held = {trade["copies"] for trade in raw["trades"] if trade["role"] == "copy"}
    for trade in raw["trades"]:
        source = sources[trade["strategy"]] if trade["role"] == "master" else None
        if source is not None and source.follows:
            plan = source.add_plan(trade, is_ordered_closed=trade["trade_id"] in ordered_closes)
            if source.paused and plan.why_not and trade["trade_id"] not in held:
                hidden.add(trade["trade_id"])  # its terms exclude it, so its copier cannot hold it
    trades = [trade for trade in raw["trades"] if trade["trade_id"] not in hidden]
    waiting = [trade for trade in trades if (trade["copy"] or {}).get("why_not") == AWAITING_STOP]
    ends_ms = max((uuid7.ms_of(trade["trade_id"]) + sizing.FIRST_STOP_MS for trade in waiting), default=0)
    return Snapshot(raw["mark"], sources, trades, frozenset(hidden), ends_ms)


@functools.lru_cache(maxsize=2048)
def _cached(_database: str, account_id: int, _version: str, _waits: bool) -> Snapshot:
    return read([account_id], using=database.BOT)


def cached(account_id: int, version: str) -> Snapshot:
    """The account's snapshot, cached by version; the version changes in the transaction of each change.

    A snapshot that is read after a further change is newer than its version, which does no harm. One with a copy that
    waits for a stop loss is read again when the wait is over.
    """
    name = connections[database.BOT].settings_dict["NAME"]
    snapshot = _cached(name, account_id, version, True)
    is_over = snapshot.waits_until_ms and time.time_ns() // 1_000_000 > snapshot.waits_until_ms
    return _cached(name, account_id, version, False) if is_over else snapshot


def current_version(call: SignedCall) -> str:
    """The current version of the caller's snapshot. Raises a refusal if the key may not call."""
    answer = database.ask(
        database.BOT,
        "select signed_read($1, $2, $3::inet)::text",
        call.credential.generation_id,
        call.signable.seq,
        call.ip,
    )
    state = orjson.loads(answer)
    if "refused" in state:
        protocol.refuse(call, errors.of_code(state.pop("refused"), **state))
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
    """The ETag of a snapshot's version. It includes the epoch, so that no ETag from before a restore matches."""
    return f'"{hashlib.sha256(f"{settings.STREAM_EPOCH}|{version}".encode()).hexdigest()[:32]}"'
