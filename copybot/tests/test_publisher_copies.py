"""A copier's own rows at the desk, by the same sync."""

from decimal import Decimal
from typing import Any

from copybot.broker import Position
from copybot.desk_model import COPIER, MASTER, STRATEGY
from copybot.magic import magic_of
from copybot.position_sync import PositionSync
from copybot.tests.publisher_harness import Crash, Provider, World


def copies(position: Any) -> dict[str, Any]:
    return {"strategy": "lena-eurusd", "trade_ref": f"ref-{position.id}"}


def test_a_copy_is_reported_with_its_trade_and_the_providers_rows_are_ignored() -> None:
    world = World(of=copies, role="copy")
    world.desk.active_rows["9"] = {
        "role": "master",
        "ticket_id": "9",
        "volume": "1",
        "sl": None,
        "tp": None,
        "seq": "1",
    }
    world.terminal.open("1", "1", "1.1")
    world.settle()
    row = world.desk.active_rows["1"]
    assert (row["strategy"], row["trade_ref"]) == ("lena-eurusd", "ref-1")

    world.terminal.close("1", "1", "1.2", "5")
    world.settle()
    assert list(world.desk.active_rows) == ["9"]


def test_a_copy_that_opened_and_closed_unseen_is_reported_once_whatever_is_lost() -> None:
    for dies_at in range(1, 12):
        world = World(dies_at, of=copies, role="copy")
        world.terminal.open("1", "1", "1.1", fee="-2")
        world.terminal.close("1", "0.5", "1.2", "5")
        world.terminal.close("1", "0.5", "1.3", "10")
        done = False
        while not done:
            try:
                done = world.position_sync.note_gone("1", copies(Position("1", 0, "", "", Decimal(1), None, None)))
            except Crash:
                world.position_sync = world.fresh()
        assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("reduce", "1"), ("close", "1")]
        assert world.desk.profit("1") == 13
        assert world.desk.zombies == 0
        world.dies_at = -1
        world.position_sync = world.fresh()
        assert world.position_sync.note_gone("1", {"strategy": "lena-eurusd", "trade_ref": "ref-1"})


def test_a_copy_whose_row_was_closed_before_a_crash_is_not_opened_again() -> None:
    world = World(of=copies, role="copy")
    world.terminal.open("1", "1", "1.1")
    world.terminal.stops("1", "1.0")
    world.sync()
    world.terminal.close("1", "1", "1.2", "5")
    world.sync()
    world.position_sync = world.fresh()

    assert world.position_sync.note_gone("1", {"strategy": "lena-eurusd", "trade_ref": "ref-1"})
    assert (world.desk.zombies, world.desk.times("open", "1")) == (0, 1)


def test_a_copy_whose_open_the_desk_refused_is_not_closed_there() -> None:
    world = World(of=copies, role="copy")
    world.desk.status = "CLOSE_ONLY"
    world.terminal.open("1", "1", "1.1")
    world.terminal.close("1", "1", "1.2", "5")

    assert not world.position_sync.note_gone("1", {"strategy": "lena-eurusd", "trade_ref": "ref-1"})
    assert world.desk.closed == {}


# --- an account that leads and follows


class BothSides(Provider):
    """A copier's account that also publishes: one terminal, one sync for each role."""

    def __init__(self) -> None:
        super().__init__(kind=self._sync_of)
        self.magic = magic_of(7, "ref")

    def _sync_of(self, _: Any, terminal: Any, **more: Any) -> Any:
        self.copies = PositionSync(self.line(COPIER), terminal, of=self._copied_trade, role="copy", **more)
        return PositionSync(self.line(COPIER), terminal, **more)

    def _copied_trade(self, position: Position) -> Any:
        is_copy = position.magic == self.magic
        return {"strategy": STRATEGY, "trade_ref": self.ref} if is_copy else None

    def wait(self, seconds: float = 0.5) -> None:
        for _ in range(round(seconds * 2)):
            super().wait()
            self.copies.sync()

    def lead(self) -> None:
        """The followed provider opens a trade."""
        fields = {"ticket_id": "77", "symbol": "EURUSD", "type": "BUY", "volume": "1.00000000", "open_price": "1.1"}
        row = self.desk.send(MASTER, "POST", "/api/v2/trades/active", fields, "opened-by-the-provider")["trade"]
        self.ref = row["trade_id"]

    def rows(self) -> dict[str, str]:
        return {ticket: row["role"] for (owner, ticket), row in self.desk.state.rows.items() if owner == COPIER}


def test_the_own_trades_and_the_copies_of_one_account_do_not_touch_each_other() -> None:
    account = BothSides()
    account.lead()
    copy, own = account.trade(magic=account.magic), account.trade(sl=1.05)
    account.wait(120)
    assert account.rows() == {str(copy): "copy", str(own): "master"}
    assert account.position_sync.rows.keys() == {str(own)}  # the followed provider's row 77 is nobody's here
    assert account.copies.rows.keys() == {str(copy)}
    assert (account.position_sync.findings, account.copies.findings) == ({}, {})
    shown = [row for row in account.desk.active(COPIER)["trades"] if row["ticket_id"] == str(own)]
    assert [(row["role"], row["copy"]) for row in shown] == [("master", None)]

    account.fake.by_hand(copy)
    account.wait(1)
    assert account.rows() == {str(own): "master"}

    account.fake.by_hand(own)
    account.wait(120)
    assert account.rows() == {}
    assert +account.position_sync.counts == +account.copies.counts == {"open": 1, "close": 1}
    assert ("master", "77") in account.desk.state.rows
