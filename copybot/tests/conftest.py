"""Fixtures that several modules of tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copybot.tests.copier_harness import CopierHarness
from copybot.tests.fake_mt5 import FakeMT5
from copybot.tests.guard_fixtures import Clock
from copybot.tests.guard_harness import Desk


@pytest.fixture
def office(tmp_path: Path) -> Iterator[CopierHarness]:
    """A copier with a lease, a stream and a first snapshot."""
    harness = CopierHarness(tmp_path)
    harness.step()
    yield harness
    harness.copier.close()


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    """A running guard, after a snapshot without trades."""
    harness = Desk(tmp_path)
    harness.snapshot(0)
    yield harness
    harness.guard.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeMT5:
    """A terminal whose server's time is the clock's."""
    fake = FakeMT5(balance=1e7)
    monkeypatch.setattr(fake, "_now_ms", clock)
    return fake
