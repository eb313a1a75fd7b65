"""SIGKILL of a copier between any two of its writes and orders: nothing is opened twice, nothing closed stays open."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Entry
from copybot.tests import guard_process
from tests.conftest import ROOT

KILLS = int(os.environ.get("COPYDESK_KILLS", "12"))
SIGNALS = 1_500


def copied(folder: Any, kills: Any, *kind: Any, enough: Callable[..., Any] = lambda opens: False) -> Any:
    """Opens by trade, what is held, and what should be, after so many lives that were cut short.

    It ends early, and what should be is not known, once the opens are `enough`.
    """
    files, done = [str(folder / name) for name in ("state", "broker")], folder / "done"
    command = [sys.executable, "-m", "copybot.tests.guard_process", *files, str(SIGNALS), str(done), *kind]
    killed = 0
    while not done.exists() and not enough(opens_in(files[1])):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            if killed < kills:
                if killed % 2:  # half of them at work, however long a start takes; the others may be starting still
                    process.stdout.readline()
                time.sleep(random.uniform(0.15, 0.7))
                process.kill()
                killed += process.wait() == -9
            assert process.wait(120) in (0, -9)
    assert killed >= min(kills, 3) or not done.exists()  # or it was done before anybody could kill it
    book = guard_process.broker(files[1])
    held = [position.magic for position in book.positions()]
    return opens_in(files[1]), held, json.loads(done.read_text())["active"] if done.exists() else None


def opens_in(book: Any) -> Counter:
    """How often each trade was opened at this broker."""
    return Counter(deal.magic for deal in guard_process.broker(book).history() if deal.entry is Entry.IN)


def has_doubles(opens: Any) -> Any:
    return max(opens.values(), default=0) > 1


@pytest.mark.crash
def test_no_trade_is_opened_twice_when_the_copier_is_killed(tmp_path: Path) -> None:
    opens, held, active = copied(tmp_path, KILLS)

    assert set(opens.values()) == {1}
    assert len(opens) > SIGNALS / 2 * 0.8  # at most an open is lost with each life
    assert set(held) <= set(active)
    assert len(held) == len(set(held))


@pytest.mark.crash
def test_one_that_does_not_look_before_it_sends_again_opens_twice(tmp_path: Path) -> None:
    """The control."""
    opens, _, _ = copied(tmp_path, 30, "blind", enough=has_doubles)

    assert has_doubles(opens)
