"""What a broker is like, whatever the weather: the habits and rules of real brokers. Each schedule draws some."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

FINE, LARGEST = Decimal("0.00000001"), Decimal(100)


@dataclass(frozen=True)
class Character:
    """Times are ticks of the schedule; 0 means never, as do probabilities of 0.

    `lag`, `deal_lag`: ticks until the position list and the deals show an order that was DONE. `quiet`: ticks without a
    new deal until the history counts as complete. `hides`: a closing deal is never shown. `lots`: least volume and step
    from tick `lots_at` on; `largest`: the largest order from tick `largest_at` on. `shut`: the ticks in which the
    market is closed; orders are then refused, or queued, and a queued order can be cancelled or not. `feed`: by how
    much its price is above the provider's. `two_step`: an open is filled without its stops. `hour_at`: the broker's
    clock goes back an hour, an hour after the previous tick. `rebooks_at`: all positions are booked anew. `most_open`:
    the largest number of copies that the subscriber allows. `leads`: the copier's account publishes trades of its own.
    `unsized`: each trade of this number has no volume in the account's currency.
    """

    lag: int = 0
    deal_lag: int = 0
    quiet: int = 0
    hides: float = 0.0
    lots: Decimal = FINE
    lots_at: int = 0
    largest: Decimal = LARGEST
    largest_at: int = 0
    is_fifo: bool = False
    is_netting: bool = False
    two_step: bool = False
    requotes: float = 0.0
    partial_closes: float = 0.0
    shut: range = range(0)
    queues: bool = False
    cancels: bool = False
    renames_at: int = 0
    feed: Decimal = Decimal(0)
    hour_at: int = 0
    rebooks_at: int = 0
    most_open: int = 0
    leads: bool = False
    unsized: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether several copies share a position."""
        return self.is_netting or self.is_fifo


PLAIN = Character()


def _weekend(rng: random.Random) -> dict[str, Any]:
    start = rng.randint(3, 12)
    return {
        "shut": range(start, start + rng.randint(4, 12)), "queues": rng.random() < 0.6, "cancels": rng.random() < 0.8
    }  # fmt: skip


TRAITS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = MappingProxyType(
    {
        "lagging": lambda rng: {"lag": rng.randint(0, 2), "deal_lag": rng.randint(0, 2)},
        "quiet": lambda _: {"quiet": 5},
        "hiding": lambda _: {"hides": 0.3},
        "new_lots": lambda rng: {"lots": Decimal(rng.choice(("0.02", "0.1", "0.2"))), "lots_at": rng.randint(0, 12)},
        "largest": lambda rng: {"largest": Decimal(rng.choice(("0.2", "0.3"))), "largest_at": rng.randint(0, 12)},
        "fifo": lambda _: {"is_fifo": True},
        "netting": lambda _: {"is_netting": True},
        "two_step": lambda _: {"two_step": True},
        "requotes": lambda _: {"requotes": 0.3},
        "partial_closes": lambda _: {"partial_closes": 0.4},
        "weekend": _weekend,
        "renaming": lambda rng: {"renames_at": rng.randint(3, 12)},
        "other_feed": lambda rng: {"feed": Decimal(rng.choice(("-0.0035", "0.0035")))},
        "clock": lambda rng: {"hour_at": rng.randint(4, 12)},
        "rebooking": lambda rng: {"rebooks_at": rng.randint(4, 14)},
        "few_copies": lambda rng: {"most_open": rng.randint(1, 3)},
        "currency": lambda _: {"unsized": 3},
        "leading": lambda _: {"leads": True},
    }
)
# Where copies share positions, the owner has none of his own, deals keep the name of their symbol, each closing deal
# counts, what is left of a copy can be less than a new volume step, so that no order closes it, and an order without an
# answer is repeated only over a history that is complete.
_UNLIKE_SHARED = frozenset({"leading", "renaming", "rebooking", "new_lots", "quiet"})
_UNLIKE_REBOOKING = frozenset({"clock", "weekend", "hiding"})  # bookings are deals, in an open market


def drawn(rng: random.Random, traits: tuple[str, ...] = tuple(TRAITS)) -> Character:
    """A character with up to three of these traits."""
    names = rng.sample(traits, min(len(traits), rng.randint(0, 3)))
    return of(names, rng)


def of(names: Sequence[str], rng: random.Random) -> Character:
    fields: dict[str, Any] = {}
    unlike = set[str]()
    for kind, others in (
        ("netting", _UNLIKE_SHARED | {"fifo"}),
        ("fifo", _UNLIKE_SHARED),
        ("rebooking", _UNLIKE_REBOOKING),
    ):
        if kind in names and kind not in unlike:
            unlike |= others
    for name in names:
        if name not in unlike:
            fields |= TRAITS[name](rng)
    return Character(**fields)
