"""What copiers hold against what they must hold: the beat's answer."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from core import money
from strategies import services as strategies
from strategies.models import Subscription, Terms
from trades.models import CopySkip, TradeHistory
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

    def told(self) -> dict[str, Any]:
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


def answers(account_id: int, found: Snapshot, told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each subscription of the account: where the desk is, whether its copier is in sync, and what it may do."""
    by_strategy = {one["strategy"]: one for one in told}
    terms = {
        one.subscription.sub_id: one for one in Terms.objects.latest_of_each().filter(subscription__account=account_id)
    }
    sources = [source for source in found.sources.values() if source.sub_id in terms]
    must = _must_hold(account_id, found, sources)
    return [
        _answer(source, terms[source.sub_id or ""], by_strategy.get(source.name), must[source.name])
        for source in sources
    ]


def _answer(source: Source, terms: Terms, told: Mapping[str, Any] | None, must: Holdings) -> dict[str, Any]:
    if told is not None:
        _take_up_secret(terms.subscription, told["generation"])
    sync, found = _compared(source, told, must)
    return {
        "strategy": source.name,
        "sub_id": source.sub_id,
        "status": source.status,
        "generation": source.generation,
        "as_of": str(source.seq),
        "sync": sync,
        "difference": None if found is None else found.told(),
        "max_open_trades": terms.max_open_trades,
        "max_slippage_bps": None if terms.max_slippage_bps is None else money.text(terms.max_slippage_bps),
        "max_open_age_ms": MAX_OPEN_AGE_MS,
    }


def _compared(source: Source, told: Mapping[str, Any] | None, must: Holdings) -> tuple[str, Difference | None]:
    if told is None or int(told["seq"]) != source.seq:
        return BEHIND, None
    if told["digest"] == digest(must):
        return IN_SYNC, None
    return DIFFERS, None if told["copies"] is None else difference(told["copies"], must)


def _must_hold(account_id: int, found: Snapshot, sources: Iterable[Source]) -> dict[str, Holdings]:
    """Lots by master trade for each source: what is active, less what was not copied or is closed."""
    sub_ids = {source.name: source.sub_id for source in sources}
    masters = [trade for trade in found.trades if trade["role"] == "master" and trade["strategy"] in sub_ids]
    held = {trade["copies"] for trade in found.trades if trade["role"] == "copy"}
    refs = [trade["trade_id"] for trade in masters]
    skipped = CopySkip.objects.filter(subscription__account=account_id, master_trade__in=refs)
    gone = TradeHistory.objects.filter(account=account_id, master_trade__in=refs)
    out = {str(ref) for ref in skipped.values_list("master_trade", flat=True)} - held
    out |= {str(ref) for ref in gone.values_list("master_trade", flat=True)}
    must: dict[str, dict[str, str]] = {name: {} for name in sub_ids}
    for trade in masters:
        ref, copy = trade["trade_id"], trade["copy"]
        if Decimal(copy["volume"]) and ref not in out and (copy["opens"] or ref in held):
            must[trade["strategy"]][ref] = copy["volume"]
    return must  # type: ignore[return-value]


def _take_up_secret(subscription: Subscription, generation: int) -> None:
    if subscription.next_generation == generation:
        strategies.take_up_secrets(subscription_ids=[subscription.pk], generation=generation)


def summary(answered: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What staff and subscribers are shown of a beat."""
    standing = {one["strategy"]: one["standing"] for one in told}
    return [
        {
            "strategy": one["strategy"],
            "standing": standing.get(one["strategy"], ""),
            "sync": one["sync"],
            **{name: len(found) for name, found in (one["difference"] or {}).items()},
        }
        for one in answered
    ]
