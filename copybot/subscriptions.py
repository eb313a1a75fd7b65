"""The subscriptions that a copier follows: their secrets, guards and terms, and the reports about their copies."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from copybot.guard import ExecutionGuard
from copybot.state_store import Copy, Event, State


class IndexTaken(Exception):
    """Two subscriptions would have the same magic numbers: one account cannot follow both."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """`secrets`: packet secrets by generation, so that the next one can be configured before the last one ends."""

    strategy: str
    sub_id: str
    secrets: Mapping[int, str] = field(repr=False)

    @property
    def index(self) -> int:
        return int.from_bytes(hashlib.sha256(self.sub_id.encode()).digest()[:2])


@dataclass(frozen=True, slots=True)
class Terms:
    """A subscription's terms and sync state, from the answer to the last heartbeat."""

    status: str = ""
    generation: int = 0
    sync: str = ""
    difference: Mapping[str, Any] | None = None
    max_open_trades: int | None = None
    max_slippage_bps: Decimal | None = None
    max_open_age_ms: int | None = None


@dataclass
class FollowedSubscription:
    """A followed strategy: its guard, and the terms that the desk sent last."""

    subscription: Subscription
    guard: ExecutionGuard
    terms: Terms = Terms()
    is_listed: bool = True

    @property
    def strategy(self) -> str:
        return self.subscription.strategy

    def digest(self) -> tuple[str, list[Copy]]:
        """The held copies, and a hash of them that the desk compares with its own."""
        held = [copy for copy in self.guard.unfinished() if copy.state is State.HELD and copy.volume]
        lines = sorted(f"{copy.ref} {copy.volume:.8f}\n" for copy in held)
        return hashlib.sha256("".join(lines).encode()).hexdigest(), held


def check_indexes(subscriptions: Sequence[Subscription]) -> None:
    """Raise IndexTaken unless the subscriptions have different magic numbers."""
    owners: dict[int, str] = {}
    for subscription in subscriptions:
        other = owners.setdefault(subscription.index, subscription.sub_id)
        if other != subscription.sub_id or sum(each.sub_id == subscription.sub_id for each in subscriptions) > 1:
            raise IndexTaken(
                f"subscriptions {subscription.sub_id} and {other} would have the same magic numbers: "
                "follow one of them on another trading account"
            )


def skip_of(followed: FollowedSubscription, copy: Copy, event: Event) -> dict[str, Any]:
    """The report that a trade was not copied, or that its copy ended early."""
    fields = {"strategy": followed.strategy, "trade_ref": copy.ref, "reason": event.why}
    if event.event == "closed":
        fields |= {"reason": "lost", "detail": "the broker answered that it opened, and its books show no position"}
    elif event.why == "volume_too_small" and copy.position:
        fields |= {"detail": "closed early: the broker cannot hold as little as is left of the provider's trade"}
    return fields


def for_older_desks(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """A report in the words of a desk older than version 0.2, whose list of reasons is shorter; None if it has them."""
    if fields.get("reason") != "stop_passed":
        return None
    detail = "the broker's price had already passed the stop loss or the target"
    return {**fields, "reason": "rejected", "detail": detail}


def receipt_of(followed: FollowedSubscription, copy: Copy) -> dict[str, Any]:
    """The execution report of the order that opened a copy. If its answer was lost, the fill time is unknown."""
    fields: dict[str, Any] = {
        "strategy": followed.strategy, "seq": str(copy.seq), "trade_ref": copy.ref, "type": copy.side,
        "status": "executed",
        "requested_price": f"{copy.price:.8f}", "executed_price": f"{copy.filled_price:.8f}",
        "volume": f"{copy.asked:.8f}", "ticket_id": copy.position, "heard_ms": str(copy.heard_ms),
        "sent_ms": str(copy.sent_ms),
    }  # fmt: skip
    return fields | ({"filled_ms": str(copy.filled_ms)} if copy.filled_ms else {})
