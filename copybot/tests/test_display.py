"""The live display: the state stays readable and the newest events visible, whatever the size of the terminal."""

import io
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from copybot import display
from copybot.display import Happening, Happenings, Line, Strategy, View
from copybot.errors import KeyRefused
from copybot.findings import KINDS, Finding
from copybot.tests.copier_harness import CopierHarness, raising
from copybot.views import CopierView, TimedClient

D = Decimal

VIEW = View(
    title="copybot follow", desk="desk.example", account="1001 on Paper", money="equity 10,538.20 USD",
    marks=[("stream in touch", True), ("lease lost", False)],
    strategies=[Strategy("lena-eurusd", "in sync", True, "number 17")],
    lines=[
        Line("EURUSD", "BUY", D("0.10"), D("0.05"), D("1.10523"), D("1.1"), None, "reducing", 61_000, D("-42.1")),
        Line("XAUUSD", "SELL", None, D("1"), None, None, None, "INTENT", 0, None),
    ],
    happenings=[Happening(0, "GBPUSD BUY 0.30", f"not copied: {display.why_not('slippage')}", "warning")],
    alarms=["another instance follows"], currency="USD",
)  # fmt: skip


def shown(view: Any, width: int = 100, height: int = 0) -> Any:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(display.page(view, width, height))
    return console.export_text()


def test_the_page_shows_held_volume_target_and_reasons() -> None:
    text = shown(VIEW)

    for words in (
        "lease lost", "lena-eurusd", "0.10 → 0.05", "1.10523", "1.10000", "reducing", "1 min", "-42.10", "ordering",
        "not copied: the price had moved too far", "another instance follows", "equity 10,538.20 USD",
    ):  # fmt: skip
        assert words in text


def test_positions_beyond_the_page_are_counted_and_the_total_includes_them() -> None:
    lines = [Line("EURUSD", "BUY", D(1), D(1), D("1.1"), None, None, "HELD", n * 1000, D(1)) for n in range(200)]
    text = shown(View("t", "d", "a", "m", [], lines=lines), height=30)

    assert len(text.splitlines()) <= 30
    assert re.search(r"\+1\d\d older", text)
    assert "+200.00" in text


def test_every_skip_reason_of_the_protocol_has_words() -> None:
    closed_list = {
        "missed", "slippage", "symbol_unknown", "market_closed", "no_money", "volume_too_small", "too_many_open",
        "rejected", "lost", "new_install", "halted", "magic_taken", "closed", "not_leased", "paused", "unpaid", "trust",
        "drawdown", "symbol_not_allowed", "not_sizable",
    }  # fmt: skip
    assert closed_list <= display.WHY_NOT.keys()


def test_the_log_says_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = display.Log(Console(highlight=False, width=200))
    for _ in range(3):
        log.show(VIEW)
    log.happened(Happening(0, "", "stream lost", "alarm"))

    output = capsys.readouterr().out.splitlines()
    assert len(output) == 2
    assert output[0].endswith("lena-eurusd in sync; lease lost; another instance follows; 2 open")
    assert output[1].endswith("ALARM stream lost")


# --- small terminals


def busy(copies: int = 12, alarms: int = 0, strategies: int = 2, events: int = 40) -> View:
    """A copier as on a busy day: copies in several states, long names, events that would wrap."""
    lines = [
        Line(
            ("EURUSD", "XAUUSD", "US30.cash")[number % 3], ("BUY", "SELL")[number % 2], D("0.10"), D("0.05"),
            D("1.10523"), D("1.10000"), D("1.12000"), ("HELD", "reducing", "closing")[number % 3], 60_000 * number,
            D("-42.10"),
        )
        for number in range(copies)
    ]  # fmt: skip
    happenings = [
        Happening(
            number * 1000,
            "EURUSD BUY 0.30",
            f"event {number}: not copied: {display.why_not('market_closed')}",
            "warning",
        )
        for number in range(events)
    ]
    return replace(
        VIEW,
        account="5001234567 on MetaQuotes-Demo",
        marks=[("stream connected", True), ("lease held", True), ("clock +12 ms", True), ("answers in 31 ms", True),
               ("terminal ready", True)],
        strategies=[Strategy(f"lena-eurusd-{number}", "in sync", True, "6 open") for number in range(strategies)],
        lines=lines, happenings=happenings,
        alarms=[f"55{number}: its close has arrived, but it is still open. Close it" for number in range(alarms)],
    )  # fmt: skip


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (80, 16), (60, 24), (200, 60)])
@pytest.mark.parametrize(
    "view", [busy(), busy(0), busy(alarms=2), busy(3, 9), busy(60, 1, 9), busy(events=1), busy(events=0)]
)
def test_the_page_fits_and_shows_the_newest_events_and_the_state(view: View, size: tuple[int, int]) -> None:
    width, height = size
    text = shown(view, width, height)

    assert len(text.splitlines()) <= height
    for happening in view.happenings[-3:]:
        assert happening.words.split(":")[0] + ":" in text
    assert "lena-eurusd-0" in text
    assert "in sync" in text
    assert "stream connected" in text
    if view.alarms:
        assert "550: its close has arrived" in text
    if view.lines:
        assert "EURUSD" in text
        assert f"{D('-42.10') * len(view.lines):,.2f}" in text


def test_at_80_by_24_twelve_copies_leave_room_for_events_and_are_counted() -> None:
    text = shown(busy(), 80, 24)

    assert text.count("-42.10") >= 6
    assert "older" in text
    assert "event 39" in text.splitlines()[-1]


def test_a_large_terminal_shows_all_copies() -> None:
    text = shown(busy(), 120, 40)

    assert text.count("-42.10") == 12
    assert "older" not in text
    assert text.count("event ") == display.EVENTS_SHOWN


def test_alarms_that_do_not_fit_are_counted() -> None:
    text = shown(busy(12, alarms=30), 80, 24)

    assert "more" in text
    assert "event 39" in text


def test_no_mark_is_broken_over_two_lines() -> None:
    for width in range(60, 130):
        assert "● terminal ready" in shown(busy(), width, 24)


def test_what_needs_attention_stands_first() -> None:
    view = replace(busy(), marks=[("stream connected", True), ("lease lost", False)])
    text = shown(view, 80, 24)

    assert text.index("lease lost") < text.index("stream connected")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_alarm_names_its_ticket_and_what_to_do(kind: str) -> None:
    words = display.alarm(Finding("5551234", kind, "what is wrong", "lena-eurusd"))

    assert words.startswith("5551234 lena-eurusd: what is wrong")
    assert kind in display.WHAT_TO_DO


def test_a_refused_key_and_the_tickets_that_it_leaves_alone_are_an_alarm(tmp_path: Path) -> None:
    office = CopierHarness(tmp_path)
    office.step()
    office.copied()
    office.step(2)
    (position,) = office.broker.positions()
    client = TimedClient("http://127.0.0.1:1", "ck_0123456789abcdef.1", "0" * 64)
    shows = CopierView(office.copier, client, display.Log(Console(file=io.StringIO())), Happenings())
    assert shows.view().alarms == []
    office.line.send = office.line.active = raising(KeyRefused(401, {"code": "key_revoked", "retry": "rotate"}))
    office.step(20)

    alarms = [words for words in shows.view().alarms if "refuses this key" in words]
    assert len(alarms) == 1
    assert position.id in alarms[0]
    assert "Close it at your broker" in alarms[0]
    office.copier.close()
