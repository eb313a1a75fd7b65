"""A copier at accounts and brokers of some character: they lead as well, show orders late, hold no small volumes."""

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from copybot.broker import Trace
from copybot.desk_model import COPIER, STRATEGY
from copybot.tests.copier_harness import LIMITS, SECOND, CopierHarness, raising

D = Decimal


def test_an_account_that_leads_too_closes_its_copies_by_snapshot(office: CopierHarness) -> None:
    """Its own trades are rows without a `copy`; they are neither targets nor copies."""
    ticket = office.copied()
    office.broker.open(magic=0, symbol="EURUSD", side="BUY", volume=D("0.30"), sl=None, tp=None)
    own = {"trade_id": "0190f0a2-7c11-7abc-8def-0123456789ab", "role": "master", "strategy": "finns-own", "seq": "1",
           "ticket_id": "77", "open_price": "1.10000000", "copy": None}  # fmt: skip
    real = office.line.active

    def leads_too() -> Any:
        body = real()
        as_of = body["as_of"] | {"finns-own": "1"}
        return body | {"count": body["count"] + 1, "trades": [*body["trades"], own], "as_of": as_of}

    office.line.active = leads_too
    office.close(ticket)  # and its packet is lost
    office.step(40)

    assert office.volumes == [D("0.30")]
    assert "snapshot" not in office.copier.faults


def test_findings_of_guard_and_reports_name_the_copied_trade(office: CopierHarness) -> None:
    spec = replace(office.broker.spec("EURUSD"), volume_min=D("0.5"))  # type: ignore[type-var]
    office.broker.spec = lambda symbol: spec
    ticket = office.copied()
    office.reduce(ticket, "0.90000000")
    office.hear()
    office.step(2)

    (finding,) = office.copier.findings()
    (copy,) = office.guard.copies()
    assert (finding.kind, finding.ticket) == ("kept_above_target", copy.position)
    assert (finding.strategy, finding.ref) == (STRATEGY, copy.ref)


def test_a_copy_closed_below_the_least_lot_is_reported_with_the_reason(office: CopierHarness) -> None:
    spec = replace(office.broker.spec("EURUSD"), volume_min=D("0.5"))  # type: ignore[type-var]
    office.broker.spec = lambda symbol: spec
    office.guard.limits = replace(LIMITS, closes_below_least=True)
    ticket = office.copied()
    office.reduce(ticket, "0.90000000")
    office.hear()
    office.step(3)

    assert office.volumes == []
    assert office.skips == ["volume_too_small"]
    (position,) = [ticket for owner, ticket in office.desk.state.closed if owner == COPIER]
    assert position == office.guard.copies()[0].position


class Late:
    """A broker whose books show an order 800 ms after its answer."""

    def __init__(self, office: CopierHarness) -> None:
        self.office, self.broker, self.due = office, office.broker, 0
        self.books: tuple[Any, set[int]] = [], set()
        names = ("positions", "trace", "position_under", "open", "close")
        self.real = SimpleNamespace(**{name: getattr(office.broker, name) for name in names})
        for name in names:
            setattr(office.broker, name, getattr(self, name))

    def _refresh(self) -> None:
        if self.office.now >= self.due:
            held = self.real.positions()
            self.books = held, {deal.magic for deal in self.broker.history()}

    def open(self, **order: Any) -> Any:
        return self._late(self.real.open, **order)

    def close(self, *order: Any) -> Any:
        return self._late(self.real.close, *order)

    def _late(self, do: Any, *args: Any, **more: Any) -> Any:
        self._refresh()
        self.due = self.office.now + 800
        return do(*args, **more)

    def positions(self) -> Any:
        self._refresh()
        return self.books[0]

    def trace(self, magic: int) -> Any:
        self._refresh()
        return self.real.trace(magic) if magic in self.books[1] else Trace.NONE

    def position_under(self, magic: int) -> str:
        self._refresh()
        return self.real.position_under(magic) if magic in self.books[1] else ""


def test_a_copy_that_shows_late_is_never_reported_as_lost(office: CopierHarness) -> None:
    Late(office)
    ticket = office.open()
    office.hear()
    for _ in range(8):
        office.now += SECOND // 2
        office.copier.step()
    assert (office.volumes, office.skips) == ([D("0.50")], [])
    assert len(office.rows) == len(office.asked("/api/v2/trades/orders")) == 1

    office.close(ticket)
    office.hear()
    for _ in range(8):
        office.now += SECOND // 2
        office.copier.step()
    assert (office.volumes, office.rows, office.skips) == ([], {}, [])


@pytest.mark.parametrize("is_late", [False, True])
def test_copies_that_show_late_count_as_open(office: CopierHarness, is_late: bool) -> None:
    office.desk.terms = {"max_open_trades": 1}
    office.step(20)
    if is_late:
        Late(office)
    for _ in range(2):
        office.open()
        office.hear()
        office.now += SECOND // 2
    office.step(3)

    assert (office.volumes, office.skips) == ([D("0.50")], ["too_many_open"])


def test_a_broker_that_does_not_answer_for_a_position_makes_no_copy_lost(office: CopierHarness) -> None:
    """A copy ended before its position was seen; the terminal fails as the copier asks for it."""
    real_positions, real_under = office.broker.positions, office.broker.position_under
    office.broker.positions = list
    office.open()
    office.hear()
    (position,) = real_positions()
    office.broker.close(position, position.volume)
    office.broker.position_under = raising(ConnectionError())
    office.step(3)
    assert office.skips == []

    office.broker.position_under, office.broker.positions = real_under, real_positions
    office.step(3)
    assert (office.skips, len([owner for owner, _ in office.desk.state.closed if owner == COPIER])) == ([], 1)
    assert office.copier is not None
    assert office.copier.event_reports._closed_at_desk == set()  # or it would grow with each such copy
