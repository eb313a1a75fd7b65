"""Which rows of a snapshot are targets."""

from decimal import Decimal
from typing import Any

import pytest

from copybot.targets import SnapshotRefused, snapshots_of

REF = "019b8d2b-8c13-7a4e-9d21-5c7f0be1a6d4"
COPY = {
    "symbol": "EURUSD", "type": "BUY", "volume": "0.05000000", "sl": None, "tp": None, "opens": True, "why_not": "",
}  # fmt: skip


def row(strategy: str = "lena", copy: Any = COPY, role: str = "master", ref: str = REF) -> dict[str, Any]:
    return {
        "trade_id": ref, "role": role, "strategy": strategy, "open_price": "1.10000000", "seq": "3", "copy": copy,
    }  # fmt: skip


def body(*rows: Any, **as_of: str) -> dict[str, Any]:
    return {"stream_epoch": "1", "as_of": as_of, "count": len(rows), "trades": list(rows)}


def test_the_trades_of_a_followed_strategy_are_targets() -> None:
    snapshot = snapshots_of(body(row(), row(copy=None, role="copy"), lena="7"))["lena"]

    assert (snapshot.epoch, snapshot.as_of, list(snapshot.targets)) == ("1", 7, [REF])
    assert snapshot.targets[REF].volume == Decimal("0.05")


def test_the_accounts_own_trades_are_no_targets() -> None:
    """An account may lead one strategy and follow another."""
    snapshots = snapshots_of(body(row(), row("sam", None), lena="7", sam="2"))

    assert list(snapshots["lena"].targets) == [REF]
    assert (snapshots["sam"].as_of, snapshots["sam"].targets) == (2, {})


@pytest.mark.parametrize("rows", [(row(), row(copy=None)), (row(copy=None), row())])
def test_a_strategy_is_either_followed_or_the_accounts_own(rows: Any) -> None:
    with pytest.raises(SnapshotRefused, match="some have none"):
        snapshots_of(body(*rows, lena="7"))


@pytest.mark.parametrize(
    "wrong",
    [
        body(row(), lena="7") | {"count": 2},
        body(row(), lena="x"),
        body(row("nobody"), lena="7"),
        body(row(copy=COPY | {"volume": "much"}), lena="7"),
        body(row(ref="not-a-uuid"), lena="7"),
        {},
    ],
)
def test_a_snapshot_that_cannot_be_read_is_refused_whole(wrong: Any) -> None:
    with pytest.raises(SnapshotRefused):
        snapshots_of(wrong)
