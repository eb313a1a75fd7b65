"""SIGKILL of a copier between any two of its writes and orders: nothing is opened twice, nothing closed stays open."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from copybot.broker import Entry
from copybot.paper import PaperBroker
from copybot.tests import guard_process
from tests.conftest import ROOT

KILLS = int(os.environ.get("COPYDESK_KILLS", "12"))
MOST_BLIND_LIVES = 500  # a kill falls between an order and its record in about one life of 20
SIGNALS = 1_500


@dataclass
class KilledCopier:
    """A copier's process, started again and again on the same state file and the same broker's file."""

    folder: Path
    kind: str = "guard"
    kills: int = 0

    def live(self, *, is_killed: bool) -> None:
        """One life. Every other kill is timed from the first signal, so that a slow start does not absorb them all."""
        files = [str(self.folder / name) for name in ("state", "broker")]
        command = [sys.executable, "-m", guard_process.__name__, *files, str(SIGNALS), str(self.done), self.kind]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if self.kills % 2 == 0:
                assert process.stdout.readline().decode().strip() == guard_process.WORKING
            if is_killed:
                time.sleep(random.uniform(0, 0.5))
                process.kill()
            assert process.wait(60) in (0, -9)
            self.kills += process.returncode == -9

    @property
    def done(self) -> Path:
        return self.folder / "done"

    @property
    def broker(self) -> PaperBroker:
        return guard_process.broker(self.folder / "broker")

    def opens(self) -> Counter[int]:
        """How many times each trade was opened at the broker, by magic number."""
        return Counter(deal.magic for deal in self.broker.history() if deal.entry is Entry.IN)


@pytest.mark.crash
def test_no_trade_is_opened_twice_when_the_copier_is_killed(tmp_path: Path) -> None:
    copier = KilledCopier(tmp_path)
    while not copier.done.exists():
        copier.live(is_killed=copier.kills < KILLS)
    opens = copier.opens()
    held = [position.magic for position in copier.broker.positions()]

    assert copier.kills >= min(KILLS, 3)  # else the process finished before it was killed
    assert set(opens.values()) == {1}
    assert len(opens) > SIGNALS / 2 * 0.8  # at most an open is lost with each life
    assert set(held) <= set(json.loads(copier.done.read_text())["active"])
    assert len(held) == len(set(held))


@pytest.mark.crash
def test_control_a_guard_that_resends_blindly_opens_twice(tmp_path: Path) -> None:
    copier = KilledCopier(tmp_path, "blind")
    for life in range(MOST_BLIND_LIVES):
        copier.live(is_killed=True)
        if max(copier.opens().values(), default=0) > 1:
            return
        if copier.done.exists():
            copier = KilledCopier(tmp_path / str(life), "blind")
            copier.folder.mkdir()
    pytest.fail(f"no trade was opened twice in {MOST_BLIND_LIVES} lives: the kills miss the moment they are meant for")
