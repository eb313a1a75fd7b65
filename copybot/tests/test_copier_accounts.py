"""A copier at accounts and brokers of some character: they lead as well, show orders late, hold no small volumes."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.desk_model import COPIER, STRATEGY
from copybot.tests.copier_harness import LIMITS, CopierHarness

D = Decimal


@pytest.fixture
def office(tmp_path: Path) -> Iterator[CopierHarness]:
    """A copier with a lease, a stream and a first snapshot."""
    harness = CopierHarness(tmp_path)
    harness.step()
    yield harness
    harness.copier.close()


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
