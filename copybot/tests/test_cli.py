"""The programs as they are run: a trade goes from one account to the other; how they stop, and how they say no."""

import contextlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from copybot import cli, display
from copybot.desk_model import SECRET as PACKET_SECRET
from copybot.desk_model import SUB_ID
from copybot.display import Happening, Line, Strategy, View
from copybot.settings import SettingsError, load
from copybot.terminals import check_kind, terminal_of, zone_of
from copybot.tests.desk_server import COPIER, KEYS, MASTER, SECRET, DeskServer

ROOT = Path(__file__).resolve().parent.parent.parent
D = Decimal


@pytest.fixture
def office() -> Iterator[Any]:
    with DeskServer() as office:
        yield office


def bars(folder: Any) -> Any:
    """A week without a night or a weekend, over and over: the market is always open."""
    file = folder / "bars.csv"
    rows = [
        f"2026-01-{5 + hour // 24:02d}T{hour % 24:02d}:00:00+00:00,1.10000,1.10100,1.09900,1.10000"
        for hour in range(168)
    ]
    file.write_text("\n".join(["time,open,high,low,close", *rows]), encoding="ascii")
    return file


def config(folder: Any, office: Any, account: Any, extra: str = "") -> Any:
    folder.mkdir(exist_ok=True)
    file = folder / "copybot.toml"
    followed = f'[subscriptions.lena-eurusd]\nsub_id = "{SUB_ID}"\nsecrets = {{ 1 = "{PACKET_SECRET}" }}\n'
    file.write_text(
        f'url = "{office.url}"\nkey = "{KEYS[account]}"\nsecret = "{SECRET}"\n'
        f'[broker]\nkind = "paper"\n[broker.symbols.EURUSD]\nbars = "{bars(folder)}"\n'
        f"{followed if account == COPIER else ''}[publish]\npoll_ms = 100\n{extra}",
        encoding="utf-8",
    )
    file.chmod(0o600)
    return file


@contextlib.contextmanager
def running(command: Any, file: Any, *more: Any) -> Iterator[Any]:
    """The program, until it was asked to stop; what it wrote is in `written`."""
    bot: Any = subprocess.Popen(
        [sys.executable, "-u", "-m", "copybot", command, "--config", file, *more],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield bot
    finally:
        if bot.poll() is None:
            bot.send_signal(signal.SIGTERM)
        bot.written = bot.communicate(timeout=120)[0]


def until(condition: Any, for_s: int = 120) -> Any:
    ends = time.monotonic() + for_s
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come to that in time"
        time.sleep(0.05)
    return found


def account(file: Any) -> Any:
    return terminal_of(load(file, {}), copies=False)


def test_a_trade_is_published_copied_reduced_and_closed_on_both_accounts(office: Any, tmp_path: Path) -> None:
    provider, copier = config(tmp_path / "lena", office, MASTER), config(tmp_path / "finn", office, COPIER)
    lenas, finns = account(provider), account(copier)
    with running("publish", provider) as one, running("follow", copier) as other:
        until(lambda: office.worth.get(MASTER) and office.handshakes and office.desk.state.takeover_number)
        time.sleep(1.5)  # the copier has taken up its first snapshot: what comes now is new
        lenas.open(magic=1, symbol="EURUSD", side="BUY", volume=D(1), sl=D("1.05"), tp=None)
        (copied,) = until(finns.positions)
        assert (copied.volume, copied.sl) == (D("0.5"), D("1.05"))
        until(lambda: office.rows(COPIER))

        (held,) = lenas.positions()
        lenas.modify(held, sl=D("1.06"), tp=None)
        lenas.close(held, D("0.4"))
        until(lambda: [(each.volume, each.sl) for each in finns.positions()] == [(D("0.3"), D("1.06"))])

        lenas.close(lenas.positions()[0], D("0.6"))
        until(lambda: not finns.positions())
        until(lambda: office.closed(MASTER) and office.closed(COPIER))

    assert (one.returncode, other.returncode) == (0, 0)
    assert office.desk.state.leased_until <= time.time_ns() // 1_000_000  # given back, not left to end
    assert "published, 1.00 lots" in one.written
    assert re.search(r"opened at 1\.\d+", other.written)
    for written in (one.written, other.written):
        assert "stop 1.06, target none" in written
        assert "reduced to 0." in written
    assert re.search(r"closed at 1\.\d+ \(MANUAL\)", one.written)
    assert re.search(r"closed at 1\.\d+, [+-]\d", other.written)
    assert sum(office.desk.opened.values()) == 2
    assert "Traceback" not in one.written + other.written


def test_a_second_copier_on_the_same_folder_says_so_and_ends(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, COPIER)
    with running("follow", file):
        until(lambda: office.handshakes)
        second = subprocess.run(
            [sys.executable, "-m", "copybot", "follow", "--config", file], cwd=ROOT, capture_output=True, text=True
        )

    assert second.returncode == cli.CANNOT_START
    assert "is in use by another process" in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_key_that_is_not_let_in_ends_the_publisher_with_a_code_of_its_own(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    office.revoked.add(KEYS[MASTER])

    assert cli.main(["publish", "--config", str(config(tmp_path, office, MASTER))]) == cli.KEY_REFUSED
    assert "key_revoked" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["follow", "publish"])
def test_a_mistake_in_the_configuration_is_one_sentence_and_code_2(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = config(tmp_path, office, COPIER, "poll = 1\n")

    assert cli.main([command, "--config", str(file)]) == cli.MISUSED
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "poll in [publish] is unknown: did you mean poll_ms?" in said


def test_the_example_is_printed_to_begin_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["example"]) == 0
    assert "[broker]" in capsys.readouterr().out


def test_the_example_can_be_read_back_whatever_wrote_it_to_the_file(tmp_path: Path) -> None:
    """A console of Windows writes in its own code page, and PowerShell in UTF-16."""
    command = [sys.executable, "-m", "copybot", "example"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    text, file = said.stdout.decode("cp1252"), tmp_path / "copybot.toml"
    for encoding in ("cp1252", "utf-8-sig", "utf-16"):
        file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        file.chmod(0o600)
        assert load(file, {}).subscriptions[0].strategy == "lena-eurusd"


def test_the_doctor_speaks_also_where_its_marks_cannot_be_written(office: Any, tmp_path: Path) -> None:
    """Sent to a file on Windows, say."""
    said = subprocess.run(
        [sys.executable, "-m", "copybot", "doctor", "--config", config(tmp_path, office, COPIER)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")
    assert "ready" in said.stdout


def test_a_state_file_that_cannot_be_written_is_one_sentence_and_code_3(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state" / f"{SUB_ID}.sqlite3").mkdir(parents=True)

    assert cli.main(["follow", "--config", str(config(tmp_path, office, COPIER))]) == cli.CANNOT_START
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be written" in said


def test_an_account_of_another_kind_than_configured_is_not_copied_to(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a netting account without positions of their own, copies of a symbol would run together."""
    settings = load(config(tmp_path, office, COPIER), {})
    netting = replace(settings, broker=replace(settings.broker, netting=True))
    assert terminal_of(netting, copies=True).account().is_hedging is False
    with pytest.raises(SettingsError, match="this is a netting account: write netting = true"):
        check_kind(is_hedging=False, netting=False)
    with pytest.raises(SettingsError, match="this is a hedging account: write netting = false"):
        check_kind(is_hedging=True, netting=True)


def test_not_each_request_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Where somebody else has the log show all."""
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    cli.main(["example"])
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)


def test_follow_without_a_subscription_says_what_to_write(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["follow", "--config", str(config(tmp_path, office, MASTER))]) == cli.MISUSED
    assert "[subscriptions] is empty" in capsys.readouterr().err


def test_bars_that_are_not_there_say_so(office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, office, MASTER)
    (tmp_path / "bars.csv").unlink()

    assert cli.main(["publish", "--config", str(file)]) == cli.MISUSED
    assert "bars in [broker.symbols.EURUSD]" in capsys.readouterr().err


def test_a_trade_servers_zone_is_read_from_its_latest_price_or_not_at_all() -> None:
    hour, now = 3_600_000, 1_767_600_000_000
    assert zone_of(now + 3 * hour - 4_000, now) == 3 * hour
    assert zone_of(now - 5 * hour, now) == -5 * hour
    assert zone_of(now + 3 * hour - 400_000, now) is None  # the market is closed
    assert zone_of(0, now) is None


# --- the display

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
    console.print(display.page(view, height))
    return console.export_text()


def test_the_page_says_what_is_held_what_must_be_and_why_not() -> None:
    text = shown(VIEW)

    for words in (
        "lease lost", "lena-eurusd", "0.10 → 0.05", "1.10523", "1.10000", "reducing", "1 min", "-42.10", "ordering",
        "not copied: the price had moved too far", "another instance follows", "equity 10,538.20 USD",
    ):  # fmt: skip
        assert words in text


def test_more_positions_than_lines_are_counted_and_the_sum_is_of_all() -> None:
    lines = [Line("EURUSD", "BUY", D(1), D(1), D("1.1"), None, None, "HELD", n * 1000, D(1)) for n in range(200)]
    text = shown(View("t", "d", "a", "m", [], lines=lines), height=30)

    assert len(text.splitlines()) <= 30
    assert "and 1" in text
    assert "+200.00" in text


def test_every_reason_on_the_wire_has_words() -> None:
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

    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert said[0].endswith("lena-eurusd in sync; lease lost; another instance follows; 2 open")
    assert said[1].endswith("ALARM stream lost")
