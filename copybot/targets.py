"""Targets: what a subscription's copies must be, as read from a signed snapshot or from a packet."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from copybot import packets
from copybot.broker import Position
from copybot.packets import Packet

AWAITING_STOP = "awaiting_stop"


class SnapshotRefused(Exception):
    """An answer that the desk signed but that is not a readable snapshot. No part of it is used."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a copy must be. `price`: the provider's open price. `born_ms`: when the desk learned of the trade.

    `opens` false: no new copy is opened, for the reason `why_not`. A copy that is held already follows the target.
    """

    ref: str
    symbol: str
    side: str
    volume: Decimal
    sl: Decimal | None
    tp: Decimal | None
    price: Decimal
    born_ms: int
    seq: int
    opens: bool = True
    why_not: str = ""

    @property
    def awaits_stop(self) -> bool:
        """Whether the copy can be sized and opened only after the provider has set a stop loss."""
        return not self.opens and self.why_not == AWAITING_STOP


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One strategy's active trades at one instant, from an answer that the desk signed."""

    epoch: str
    as_of: int
    targets: Mapping[str, Target]


def of_packet(packet: Packet) -> Target:
    volume = Decimal(0) if packet.action == packets.CLOSE else packet.volume
    return Target(
        packet.trade_ref, packet.symbol, packet.side, volume, packet.sl, packet.tp, packet.price, packet.at_ms,
        packet.seq,
    )  # fmt: skip


def of_unknown(position: Position, now_ms: int) -> Target:
    """The target of a position that copies no active trade: it is to be closed."""
    none = Decimal(0)
    return Target(f"unknown-{position.magic:x}", position.symbol, position.side, none, None, None, none, now_ms, 0)


def snapshots_of(body: Mapping[str, Any]) -> dict[str, Snapshot]:
    """The snapshot of each strategy in an answer's body. Raises SnapshotRefused if any part cannot be read.

    An account may lead a strategy as well: its own trades are the rows without a `copy`, and no targets.
    """
    try:
        if int(body["count"]) != len(body["trades"]):
            raise SnapshotRefused(f"the snapshot has {len(body['trades'])} trades, its count says {body['count']}")
        targets: dict[str, dict[str, Target]] = {strategy: {} for strategy in body["as_of"]}
        own = set()
        for row in body["trades"]:
            if row["role"] == "master" and row["copy"] is None:
                own.add(row["strategy"])
            elif row["role"] == "master":
                targets[row["strategy"]][row["trade_id"]] = _target(row)
        if mixed := sorted(name for name in own if targets.get(name)):
            raise SnapshotRefused(f"some trades of {mixed[0]} have a copy and some have none")
        epoch = str(body["stream_epoch"])
        return {name: Snapshot(epoch, int(seq), targets[name]) for name, seq in body["as_of"].items()}
    except (LookupError, TypeError, ValueError, ArithmeticError) as fault:
        raise SnapshotRefused(f"{type(fault).__name__}: {fault}") from fault


def born_ms(trade_ref: str) -> int:
    """When the desk made a trade's id, in ms: the time in a UUIDv7. Raises ValueError for any other text."""
    digits = trade_ref.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        raise ValueError(f"{trade_ref[:40]!r} is not a UUIDv7")
    return int(digits[:12], 16)


def _target(row: Mapping[str, Any]) -> Target:
    copy = row["copy"]
    return Target(
        ref=row["trade_id"],
        symbol=copy["symbol"],
        side=copy["type"],
        volume=Decimal(copy["volume"]),
        sl=_price(copy["sl"]),
        tp=_price(copy["tp"]),
        price=Decimal(row["open_price"]),
        born_ms=born_ms(row["trade_id"]),
        seq=int(row["seq"]),
        opens=bool(copy["opens"]),
        why_not=str(copy["why_not"]),
    )


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
