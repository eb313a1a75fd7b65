"""Alarms of the bots: all that is present is reported, at once, again each minute, and never at the cost of a close."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from copybot.alarm_report import ALARMS, AlarmReport, LateCloses
from copybot.desk_model import ModelAnswer
from copybot.errors import refusal
from copybot.findings import KINDS, Finding
from copybot.position_sync import PositionSync
from copybot.publisher import Publisher
from copybot.tests.copier_harness import CopierHarness
from copybot.tests.publisher_harness import Terminal

SECOND = 1_000
ZOMBIE = Finding("7001", "zombie", "open at the broker")
GREW = Finding("7002", "grew", "has 2 lots")


class Desk:
    """Takes alarms; `fault` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.fault: Exception | None = None

    def active(self) -> Any:
        return {"stream_epoch": "1", "trades": []}

    def send(self, method: str, path: str, fields: Any = None, **more: Any) -> Any:
        if path != ALARMS:
            return ModelAnswer({"status": "told"})
        if self.fault is not None:
            raise self.fault
        self.sent.append([(alarm["kind"], alarm.get("ticket", "")) for alarm in fields["alarms"]])
        return None


class Reporting:
    """A report at a desk, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.desk = 0, Desk()
        self.report = AlarmReport(self.desk, lambda: self.now)

    def after(self, ms: int, *findings: Finding) -> list[Any]:
        """What was sent by then."""
        self.now += ms
        before = len(self.desk.sent)
        self.report.report(findings)
        return self.desk.sent[before:]


@pytest.fixture
def reporting() -> Reporting:
    return Reporting()


def test_the_first_report_clears_what_an_earlier_process_left(reporting: Reporting) -> None:
    assert reporting.after(0) == [[]]
    assert reporting.after(10 * 60 * SECOND) == []


def test_a_change_of_the_set_is_sent_at_once(reporting: Reporting) -> None:
    reporting.after(0, ZOMBIE)

    assert reporting.after(100, ZOMBIE, GREW) == [[("grew", "7002"), ("zombie", "7001")]]
    assert reporting.after(100) == [[]]


def test_other_words_wait_five_seconds_and_an_unchanged_set_a_minute(reporting: Reporting) -> None:
    reporting.after(0, GREW)
    other = Finding("7002", "grew", "has 3 lots")

    assert reporting.after(4 * SECOND, other) == []
    assert len(reporting.after(SECOND, other)) == 1
    assert reporting.after(59 * SECOND, other) == []
    assert len(reporting.after(SECOND, other)) == 1


def test_a_report_that_fails_is_tried_again_after_a_pause(reporting: Reporting) -> None:
    reporting.desk.fault = ConnectionError("no answer")
    with pytest.raises(ConnectionError):
        reporting.after(0, ZOMBIE)
    reporting.desk.fault = None

    assert reporting.after(SECOND, ZOMBIE) == []
    assert reporting.after(4 * SECOND, ZOMBIE) == [[("zombie", "7001")]]


def test_an_older_desk_is_asked_again_after_an_hour(reporting: Reporting) -> None:
    reporting.desk.fault = refusal(404, {"code": "not_found"})
    reporting.after(0, ZOMBIE)
    reporting.desk.fault = None

    assert reporting.after(30 * 60 * SECOND, ZOMBIE) == []
    assert len(reporting.after(31 * 60 * SECOND, ZOMBIE)) == 1


def test_words_are_cut_to_what_the_desk_takes(reporting: Reporting) -> None:
    sent: list[Any] = []
    reporting.desk.send = lambda method, path, fields, **more: sent.append(fields)

    reporting.after(0, Finding("1", "waiting", "line\n\x00two " + "x" * 400), *(
        Finding(str(number), "grew", "") for number in range(1, 400)
    ))  # fmt: skip

    (alarms,) = [fields["alarms"] for fields in sent]
    assert len(alarms) == 200
    assert all(alarm["kind"] in KINDS for alarm in alarms)
    assert all(len(alarm.get("detail", "")) <= 300 for alarm in alarms)


# --- the copier


def test_a_copy_that_stays_open_after_its_close_is_reported_with_its_ticket(tmp_path: Path) -> None:
    harness = CopierHarness(tmp_path)
    harness.step(2)
    ticket = harness.copied()
    position = harness.broker.positions()[0].id
    harness.broker.close = lambda *_: (_ for _ in ()).throw(ConnectionError("no answer"))
    harness.close(ticket)
    harness.hear()
    harness.step(10)
    assert harness.desk.alarms.get("copier") == []

    harness.step(10)

    (alarm,) = harness.desk.alarms["copier"]
    assert (alarm["kind"], alarm["ticket"], alarm["strategy"]) == ("closing", position, "lena-eurusd")
    del harness.broker.close
    harness.step(20)
    assert harness.broker.positions() == []
    assert harness.desk.alarms["copier"] == []


def test_a_desk_that_refuses_alarms_delays_no_close(tmp_path: Path) -> None:
    harness = CopierHarness(tmp_path)
    harness.step(2)
    ticket = harness.copied()

    def refuses(findings: Any) -> None:
        raise refusal(503, {"code": "unavailable", "retry": "after"})

    harness.copier.alarm_report.report = refuses
    harness.step(5)
    harness.close(ticket)
    harness.hear()
    harness.step()

    assert harness.broker.positions() == []
    assert "alarms" in harness.copier.faults


def test_a_halted_guard_is_an_alarm(tmp_path: Path) -> None:
    from copybot.state_store import GuardMode

    harness = CopierHarness(tmp_path)
    harness.step(2)

    harness.guard._stop(GuardMode.HALT, "two packets are numbered 7")
    harness.step()

    (alarm,) = harness.desk.alarms["copier"]
    assert (alarm["kind"], alarm["strategy"]) == ("halted", "lena-eurusd")
    assert "two packets are numbered 7" in alarm["detail"]


def test_a_late_close_is_found_although_the_clock_was_set_back() -> None:
    held = SimpleNamespace(position=SimpleNamespace(id="7"), extra={"trade_ref": "t1", "strategy": "lena-eurusd"})
    guard = SimpleNamespace(copy=lambda ref: SimpleNamespace(volume=0))
    late: Any = LateCloses()
    assert late.findings([held], [("lena-eurusd", guard)], 3_600_000) == []
    assert late.findings([held], [("lena-eurusd", guard)], 0) == []
    assert [finding.kind for finding in late.findings([held], [("lena-eurusd", guard)], 15_000)] == ["closing"]


# --- the publisher


def test_a_publisher_reports_its_findings_and_a_failed_report_fails_no_sync() -> None:
    terminal, desk = Terminal(), Desk()
    terminal.open("501", "0.10", "1.1")
    sync = PositionSync(desk, terminal, max_age_ms=SECOND, clock_ms=lambda: terminal.now + 60 * SECOND)
    publisher = Publisher(sync)

    assert publisher._sync() == ""
    assert desk.sent == [[("too_old", "501")]]
    desk.fault = ConnectionError("no answer")
    publisher.alarm_report.begin_anew()
    assert publisher._sync() == ""
    assert len(desk.sent) == 1


def test_a_publisher_without_its_terminal_says_so() -> None:
    terminal, desk = Terminal(), Desk()
    terminal.open("501", "0.10", "1.1")
    publisher = Publisher(PositionSync(desk, terminal))

    def cut_off() -> Any:
        raise ConnectionError("the terminal is gone")

    terminal.positions, terminal.settled = cut_off, False

    assert publisher._sync() == "the terminal is gone"
    assert desk.sent == [[("terminal", "")]]
