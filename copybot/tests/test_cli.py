"""The programs in processes of their own: a trade is copied between accounts, exits, and refusals."""

import contextlib
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

from copybot import cli
from copybot.desk_model import SECRET as PACKET_SECRET
from copybot.desk_model import SUB_ID
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
    """Bars of a whole week, repeated, so that the market is always open."""
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
    """Run the program until it is asked to stop; `written` has its output."""
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
    while not (result := condition()):
        assert time.monotonic() < ends, "it did not come to that in time"
        time.sleep(0.05)
    return result


def account(file: Any) -> Any:
    return terminal_of(load(file, {}), copies=False)


def test_a_trade_is_published_copied_reduced_and_closed_on_both_accounts(office: Any, tmp_path: Path) -> None:
    provider, copier = config(tmp_path / "lena", office, MASTER), config(tmp_path / "finn", office, COPIER)
    lenas, finns = account(provider), account(copier)
    with running("publish", provider) as publishing, running("follow", copier) as following:
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

    assert (publishing.returncode, following.returncode) == (0, 0)
    assert office.desk.state.leased_until <= time.time_ns() // 1_000_000  # given back, not left to end
    assert "published, 1.00 lots" in publishing.written
    assert re.search(r"opened at 1\.\d+", following.written)
    for written in (publishing.written, following.written):
        assert "stop 1.06, target none" in written
        assert "reduced to 0." in written
    assert re.search(r"closed at 1\.\d+ \(MANUAL\)", publishing.written)
    assert re.search(r"closed at 1\.\d+, [+-]\d", following.written)
    assert sum(office.desk.opened.values()) == 2
    assert "Traceback" not in publishing.written + following.written


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


def test_a_refused_key_ends_the_publisher_with_its_own_exit_code(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    office.revoked.add(KEYS[MASTER])

    assert cli.main(["publish", "--config", str(config(tmp_path, office, MASTER))]) == cli.KEY_REFUSED
    assert "key_revoked" in capsys.readouterr().err


def follow(file: Any) -> Any:
    """Run `follow` until it ends by itself, and return its result."""
    command = [sys.executable, "-m", "copybot", "follow", "--plain", "--config", file]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda office, file: office.revoked.add(KEYS[COPIER]), "key_revoked: the key was revoked: create a new one"),
        (lambda office, file: changed(file, SECRET, "f" * 64), "key or secret is wrong"),
        (lambda office, file: changed(file, KEYS[COPIER], KEYS[MASTER]), "to follow, create a copier key"),
        (lambda office, file: changed(file, KEYS[COPIER], KEYS["readonly"]), "to follow, create a copier key"),
    ],
)
def test_follow_ends_within_seconds_if_the_key_is_not_right(
    office: Any, tmp_path: Path, break_it: Any, words: str
) -> None:
    file = config(tmp_path, office, COPIER)
    break_it(office, file)
    began_s = time.monotonic()
    ended = follow(file)

    assert ended.returncode == cli.KEY_REFUSED
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert time.monotonic() - began_s < 20  # most of it is the start of Python
    assert "Traceback" not in ended.stdout


def changed(file: Any, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_publish_with_a_copiers_key_says_why(office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, office, MASTER)
    changed(file, KEYS[MASTER], KEYS[COPIER])

    assert cli.main(["publish", "--config", str(file)]) == cli.KEY_REFUSED
    assert "this is a copier key; to publish, create a master key" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["follow", "publish"])
def test_a_mistake_in_the_configuration_is_one_sentence_and_code_2(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = config(tmp_path, office, COPIER, "poll = 1\n")

    assert cli.main([command, "--config", str(file)]) == cli.MISUSED
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "poll in [publish] is unknown: did you mean poll_ms?" in output


def test_the_example_command_prints_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["example"]) == 0
    assert "[broker]" in capsys.readouterr().out


def test_the_example_can_be_read_back_whatever_wrote_it_to_the_file(tmp_path: Path) -> None:
    """A Windows console writes in its own code page, PowerShell in UTF-16."""
    command = [sys.executable, "-m", "copybot", "example"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    text, file = output.stdout.decode("cp1252"), tmp_path / "copybot.toml"
    for encoding in ("cp1252", "utf-8-sig", "utf-16"):
        file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        file.chmod(0o600)
        assert load(file, {}).subscriptions[0].strategy == "lena-eurusd"


def test_the_doctor_reports_even_if_the_output_cannot_show_check_marks(office: Any, tmp_path: Path) -> None:
    """As when the output goes to a file on Windows."""
    output = subprocess.run(
        [sys.executable, "-m", "copybot", "doctor", "--config", config(tmp_path, office, COPIER)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert (output.returncode, output.stderr) == (0, "")
    assert "ready" in output.stdout


def test_a_state_file_that_cannot_be_written_is_one_sentence_and_code_3(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state" / f"{SUB_ID}.sqlite3").mkdir(parents=True)

    assert cli.main(["follow", "--config", str(config(tmp_path, office, COPIER))]) == cli.CANNOT_START
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "cannot be written" in output


def test_refuses_to_copy_to_an_account_of_another_kind_than_configured(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a netting account without virtual positions, copies of a symbol would be mixed up."""
    settings = load(config(tmp_path, office, COPIER), {})
    netting = replace(settings, broker=replace(settings.broker, netting=True))
    assert terminal_of(netting, copies=True).account().is_hedging is False
    with pytest.raises(SettingsError, match="this is a netting account: write netting = true"):
        check_kind(is_hedging=False, netting=False)
    with pytest.raises(SettingsError, match="this is a hedging account: write netting = false"):
        check_kind(is_hedging=True, netting=True)


def test_single_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Even if the root logger shows everything."""
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    cli.main(["example"])
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)


def test_follow_without_a_subscription_says_what_to_write(
    office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["follow", "--config", str(config(tmp_path, office, MASTER))]) == cli.MISUSED
    assert "[subscriptions] is empty" in capsys.readouterr().err


def test_a_missing_bars_file_is_named(office: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, office, MASTER)
    (tmp_path / "bars.csv").unlink()

    assert cli.main(["publish", "--config", str(file)]) == cli.MISUSED
    assert "bars in [broker.symbols.EURUSD]" in capsys.readouterr().err


def test_a_trade_servers_offset_is_read_from_a_current_price_only() -> None:
    hour, now = 3_600_000, 1_767_600_000_000
    assert zone_of(now + 3 * hour - 4_000, now) == 3 * hour
    assert zone_of(now - 5 * hour, now) == -5 * hour
    assert zone_of(now + 3 * hour - 400_000, now) is None  # the market is closed
    assert zone_of(0, now) is None
