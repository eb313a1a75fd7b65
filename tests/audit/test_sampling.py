"""Whatever refused callers send, they add a bounded number of rows to the audit log; what is not a row is counted."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from audit import sampling
from audit import services as audit
from audit.models import AuditLog
from audit.sampling import Sampler

NOBODY = audit.Actor(AuditLog.Actor.NOBODY, "", "192.0.2.1", "a-request")


def refuse(of: str, actor: audit.Actor = NOBODY, code: str = "signature_invalid") -> None:
    audit.record_sampled("request.refused", of=of, actor=actor, refused=code)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(sampling, "time", clock)
    return clock


@pytest.fixture
def narrow(clock: Any, monkeypatch: pytest.MonkeyPatch, desk_db: str) -> Any:
    monkeypatch.setattr(sampling, "of_nobody", Sampler(of_a_kind=2, of_all=5))
    monkeypatch.setattr(sampling, "of_the_verified", Sampler(of_a_kind=2, of_all=5))
    return clock


def rows() -> list[Any]:
    return list(AuditLog.objects.filter(action="request.refused").order_by("id"))


def test_beyond_the_first_of_a_minute_refusals_are_counted_and_the_next_row_has_their_number(narrow: Any) -> None:
    for _ in range(10):
        refuse("192.0.2.1")
    assert [row.detail for row in rows()] == [{}, {}]

    narrow.now += sampling.WINDOW_S
    refuse("192.0.2.1")
    refuse("192.0.2.1")
    assert [row.detail for row in rows()] == [{}, {}, {"unrecorded": 8}, {}]


def test_another_code_and_another_caller_have_rows_of_their_own(narrow: Any) -> None:
    for _ in range(3):
        refuse("192.0.2.1")
        refuse("192.0.2.1", code="request_malformed")
    refuse("192.0.2.2")

    assert [row.code for row in rows()] == ["signature_invalid", "request_malformed"] * 2 + ["signature_invalid"]


def test_callers_of_any_number_of_addresses_add_a_bounded_number_of_rows(narrow: Any) -> None:
    for number in range(1000):
        refuse(f"2001:db8:{number:x}::/64")
    assert len(rows()) == 5

    refuse("ck_0123456789abcdef.1", audit.Actor(AuditLog.Actor.BOT, "ck_0123456789abcdef.1"))
    assert len(rows()) == 6  # a flood of strangers hides no refusal of a verified key


def test_kinds_are_forgotten_in_their_order_and_their_counts_are_not(
    narrow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MOST_KINDS", 10)
    for number in range(200):
        refuse(str(number))
    narrow.now += sampling.WINDOW_S
    for number in range(1000, 1010):
        refuse(str(number))

    kinds = sampling.of_nobody._kinds
    assert len(kinds) == 10
    assert len(rows()) == 10
    told = sum(row.detail.get("unrecorded", 0) for row in rows())
    still_counted = sum(window.unrecorded for window in (*kinds.values(), sampling.of_nobody._all))
    assert told + still_counted == 200


def test_what_is_not_recorded_shows_in_the_metrics(narrow: Any) -> None:
    before = REGISTRY.get_sample_value("copydesk_refusals_unrecorded_total") or 0
    for _ in range(10):
        refuse("192.0.2.1")

    assert REGISTRY.get_sample_value("copydesk_refusals_unrecorded_total") == before + 8
