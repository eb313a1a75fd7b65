"""Compares the copies that a copier holds with those that it should hold: the answer to a heartbeat."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from core import database
from strategies import services as strategies
from trades.snapshot import Snapshot, Source

MAX_OPEN_AGE_MS = 5_000  # older opens were made at a price that no longer exists

IN_SYNC, BEHIND, DIFFERS = "in_sync", "behind", "differs"
Holdings = Mapping[str, str]  # lots, as text, by the id of the provider's trade


@dataclass(frozen=True, slots=True)
class Difference:
    """What the copier has to correct, by the ids of provider's trades.

    `orphans`: copies that should not be open; `missing`: copies that should be; `volume`: copies with other lots.
    """

    orphans: list[str]
    missing: list[str]
    volume: list[dict[str, str]]

    def as_dict(self) -> dict[str, Any]:
        return {"orphans": self.orphans, "missing": self.missing, "volume": self.volume}


def digest(holdings: Holdings) -> str:
    """The SHA-256 of the sorted lines `<trade id> <lots with 8 decimals>`, each ended by a line feed."""
    return hashlib.sha256("".join(sorted(f"{ref} {lots}\n" for ref, lots in holdings.items())).encode()).hexdigest()


def difference(held: Holdings, expected: Holdings) -> Difference:
    return Difference(
        orphans=sorted(held.keys() - expected.keys()),
        missing=sorted(expected.keys() - held.keys()),
        volume=[
            {"trade_ref": ref, "is": held[ref], "must": expected[ref]}
            for ref in sorted(held.keys() & expected.keys())
            if Decimal(held[ref]) != Decimal(expected[ref])
        ],
    )


@dataclass(frozen=True, slots=True)
class CopierRecord:
    """What the desk knows of an account's copies besides the snapshot.

    `skipped`, `closed`: ids of provider's trades that were not copied, or whose copies are closed. `limits`: the
    settings that the bot applies, by `sub_id`.
    """

    skipped: frozenset[str]
    closed: frozenset[str]
    limits: Mapping[str, Mapping[str, Any]]


def copier_record(account_id: int, snapshot: Snapshot) -> CopierRecord:
    """Read through a function as the role of bots, which may read no table."""
    masters = [trade["trade_id"] for trade in snapshot.trades if trade["role"] == "master"]
    fields = orjson.loads(
        database.ask(
            database.BOT, "select copier_standing($1, $2::uuid[])::text", account_id, f"{{{','.join(masters)}}}"
        )
    )
    return CopierRecord(frozenset(fields["skipped"]), frozenset(fields["closed"]), fields["limits"])


def answers(snapshot: Snapshot, record: CopierRecord, reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The heartbeat's answer for each subscription: the stream's position, the copier's sync, and its limits."""
    by_strategy = {report["strategy"]: report for report in reports}
    sources = [source for source in snapshot.sources.values() if source.sub_id in record.limits]
    expected = _expected(snapshot, record, sources)
    return [
        _answer(source, record.limits[source.sub_id or ""], by_strategy.get(source.name), expected[source.name])
        for source in sources
    ]


def _answer(
    source: Source, limits: Mapping[str, Any], report: Mapping[str, Any] | None, expected: Holdings
) -> dict[str, Any]:
    sync, differences = _compared(source, report, expected)
    return {
        "strategy": source.name,
        "sub_id": source.sub_id,
        "status": source.status,
        "generation": source.generation,
        "as_of": str(source.seq),
        "sync": sync,
        "difference": None if differences is None else differences.as_dict(),
        "max_open_trades": limits["max_open_trades"],
        "max_slippage_bps": limits["max_slippage_bps"],
        "max_open_age_ms": MAX_OPEN_AGE_MS,
    }


def _compared(source: Source, report: Mapping[str, Any] | None, expected: Holdings) -> tuple[str, Difference | None]:
    if report is None or int(report["seq"]) != source.seq:
        return BEHIND, None
    if report["digest"] == digest(expected):
        return IN_SYNC, None
    return DIFFERS, None if report["copies"] is None else difference(report["copies"], expected)


def _expected(snapshot: Snapshot, record: CopierRecord, sources: Iterable[Source]) -> Mapping[str, Holdings]:
    """The copies that should be open, by strategy: active trades less those that were not copied or are closed."""
    expected: dict[str, dict[str, str]] = {source.name: {} for source in sources}
    held = {trade["copies"] for trade in snapshot.trades if trade["role"] == "copy"}
    excluded = (record.skipped | record.closed) - held
    for trade in snapshot.trades:
        if trade["role"] != "master" or trade["strategy"] not in expected:
            continue
        ref, copy = trade["trade_id"], trade["copy"]
        if Decimal(copy["volume"]) and ref not in excluded and (copy["opens"] or ref in held):
            expected[trade["strategy"]][ref] = copy["volume"]
    return expected


def activate_next_secrets(record: CopierRecord, snapshot: Snapshot, reports: Sequence[Mapping[str, Any]]) -> None:
    """Activate the next signal secret of each subscription whose bot reports that it has it."""
    generations = {report["strategy"]: report["generation"] for report in reports}
    for source in snapshot.sources.values():
        limits, generation = record.limits.get(source.sub_id or ""), generations.get(source.name)
        if limits is not None and generation and generation == limits["next_generation"]:
            strategies.activate_next_secrets(subscription_ids=[limits["id"]], generation=generation)


def summary(answered: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The part of the answers that is stored and shown to staff and subscribers."""
    standings = {report["strategy"]: report["standing"] for report in reports}
    return [
        {
            "strategy": answer["strategy"],
            "standing": standings.get(answer["strategy"], ""),
            "sync": answer["sync"],
            **{name: len(refs) for name, refs in (answer["difference"] or {}).items()},
            **({"still_held": answer["difference"]["orphans"]} if answer["difference"] else {}),
        }
        for answer in answered
    ]
