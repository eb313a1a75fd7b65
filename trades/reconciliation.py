"""What copiers hold against what they must hold: the beat's answer."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from core import database
from strategies import services as strategies
from trades.snapshot import Snapshot, Source

MAX_OPEN_AGE_MS = 5_000  # an open that is older was made at a price that is gone

IN_SYNC, BEHIND, DIFFERS = "in_sync", "behind", "differs"
Holdings = Mapping[str, str]  # lots by master trade, as text


@dataclass(frozen=True, slots=True)
class Difference:
    """What to mend: held though the master is out; not held and not explained; held with another volume."""

    orphans: list[str]
    missing: list[str]
    volume: list[dict[str, str]]

    def as_dict(self) -> dict[str, Any]:
        return {"orphans": self.orphans, "missing": self.missing, "volume": self.volume}


def digest(holdings: Holdings) -> str:
    """The SHA-256 of the sorted lines `<trade id> <lots with 8 decimals>`, each ended by a line feed."""
    return hashlib.sha256("".join(sorted(f"{ref} {lots}\n" for ref, lots in holdings.items())).encode()).hexdigest()


def difference(held: Holdings, must: Holdings) -> Difference:
    both = sorted(held.keys() & must.keys())
    return Difference(
        orphans=sorted(held.keys() - must.keys()),
        missing=sorted(must.keys() - held.keys()),
        volume=[
            {"trade_ref": ref, "is": held[ref], "must": must[ref]}
            for ref in both
            if Decimal(held[ref]) != Decimal(must[ref])
        ],
    )


@dataclass(frozen=True, slots=True)
class CopierRecord:
    """What is known of a copier's account besides its snapshot: master trades that it did not copy or has closed, and
    the limits that its bot keeps, by `sub_id`.
    """

    skipped: frozenset[str]
    closed: frozenset[str]
    limits: Mapping[str, Mapping[str, Any]]


def copier_record(account_id: int, found: Snapshot) -> CopierRecord:
    """Asked as bots ask: by a function, for they read no table."""
    masters = [trade["trade_id"] for trade in found.trades if trade["role"] == "master"]
    known = orjson.loads(
        database.ask(
            database.BOT, "select copier_standing($1, $2::uuid[])::text", account_id, f"{{{','.join(masters)}}}"
        )
    )
    return CopierRecord(frozenset(known["skipped"]), frozenset(known["closed"]), known["limits"])


def answers(found: Snapshot, known: CopierRecord, told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each subscription of the account: where the desk is, whether its copier is in sync, and what it may do."""
    by_strategy = {one["strategy"]: one for one in told}
    sources = [source for source in found.sources.values() if source.sub_id in known.limits]
    must = _must_hold(found, known, sources)
    return [
        _answer(source, known.limits[source.sub_id or ""], by_strategy.get(source.name), must[source.name])
        for source in sources
    ]


def _answer(
    source: Source, limits: Mapping[str, Any], told: Mapping[str, Any] | None, must: Holdings
) -> dict[str, Any]:
    sync, found = _compared(source, told, must)
    return {
        "strategy": source.name,
        "sub_id": source.sub_id,
        "status": source.status,
        "generation": source.generation,
        "as_of": str(source.seq),
        "sync": sync,
        "difference": None if found is None else found.as_dict(),
        "max_open_trades": limits["max_open_trades"],
        "max_slippage_bps": limits["max_slippage_bps"],
        "max_open_age_ms": MAX_OPEN_AGE_MS,
    }


def _compared(source: Source, told: Mapping[str, Any] | None, must: Holdings) -> tuple[str, Difference | None]:
    if told is None or int(told["seq"]) != source.seq:
        return BEHIND, None
    if told["digest"] == digest(must):
        return IN_SYNC, None
    return DIFFERS, None if told["copies"] is None else difference(told["copies"], must)


def _must_hold(found: Snapshot, known: CopierRecord, sources: Iterable[Source]) -> Mapping[str, Holdings]:
    """Lots by master trade for each source: what is active, less what was not copied or is closed."""
    must: dict[str, dict[str, str]] = {source.name: {} for source in sources}
    held = {trade["copies"] for trade in found.trades if trade["role"] == "copy"}
    out = (known.skipped | known.closed) - held
    for trade in found.trades:
        if trade["role"] != "master" or trade["strategy"] not in must:
            continue
        ref, copy = trade["trade_id"], trade["copy"]
        if Decimal(copy["volume"]) and ref not in out and (copy["opens"] or ref in held):
            must[trade["strategy"]][ref] = copy["volume"]
    return must


def activate_next_secrets(known: CopierRecord, found: Snapshot, told: Sequence[Mapping[str, Any]]) -> None:
    """Let the packet secrets sign that the bot says it has."""
    has = {one["strategy"]: one["generation"] for one in told}
    for source in found.sources.values():
        limits = known.limits.get(source.sub_id or "")
        if limits is not None and has.get(source.name) and has[source.name] == limits["next_generation"]:
            strategies.activate_next_secrets(subscription_ids=[limits["id"]], generation=has[source.name])


def summary(answered: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What staff and subscribers are shown of a beat."""
    copier_record = {one["strategy"]: one["standing"] for one in told}
    return [
        {
            "strategy": one["strategy"],
            "standing": copier_record.get(one["strategy"], ""),
            "sync": one["sync"],
            **{name: len(found) for name, found in (one["difference"] or {}).items()},
        }
        for one in answered
    ]
