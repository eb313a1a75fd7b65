"""Which positions are young enough to be published: those that appear between two syncs, and those just opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from copybot.tests.publisher_harness import SECOND, World


def test_a_position_older_than_the_limit_is_not_published_and_listed() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.sync(61 * SECOND)

    assert world.desk.log == []
    assert world.position_sync.findings["1"].kind == "too_old"


def test_a_terminal_clock_that_is_ahead_publishes_new_positions_only() -> None:
    world = World(max_age_ms=60 * SECOND)
    with terminals_clock_ahead(world):
        world.terminal.open("1", "1", "1.1")
    world.sync()
    with terminals_clock_ahead(world):
        world.terminal.open("2", "1", "1.1")
    world.sync()
    world.sync(3600 * SECOND)

    assert list(world.desk.active_rows) == ["2"]
    assert "opened_at" not in world.desk.active_rows["2"]
    assert world.position_sync.findings["1"].kind == "too_old"


@contextmanager
def terminals_clock_ahead(world: Any) -> Iterator[None]:
    world.terminal.now += 2 * 3600 * SECOND
    yield
    world.terminal.now -= 2 * 3600 * SECOND


def test_a_terminal_that_connects_while_we_look_shows_old_positions() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.terminal.now += 3600 * SECOND
    held, world.terminal.held, world.terminal.settled = world.terminal.held, {}, False
    world.sync()
    world.terminal.held, world.terminal.settled = held, True
    world.sync()

    assert world.desk.log == []


def test_a_terminal_that_shows_its_positions_late_shows_old_ones() -> None:
    """At its start a terminal loads history and positions gradually; old positions must not look new."""
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.terminal.now += 3600 * SECOND
    held, books, world.terminal.settled = world.terminal.held, world.terminal.books, False
    world.terminal.held, world.terminal.books = {}, {}
    world.sync()
    world.terminal.held = held
    world.sync()
    world.terminal.settled = True
    world.sync()
    world.terminal.books = books
    world.sync()

    assert world.desk.log == []


def test_a_trade_that_could_not_be_published_in_time_is_not_published() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.sync()
    real, world.desk.active = world.desk.active, lambda: (_ for _ in ()).throw(ConnectionError)
    world.position_sync.forget()
    world.terminal.open("1", "1", "1.1")
    for _ in range(7):
        world.sync(10 * SECOND)
    world.desk.active = real
    world.sync()

    assert world.desk.log == []
    assert world.position_sync.findings["1"].kind == "too_old"


def test_a_restart_within_the_limit_loses_no_trade_and_an_old_one_goes_on_being_closed() -> None:
    world = World(max_age_ms=60 * SECOND)
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.terminal.now += 3600 * SECOND
    world.terminal.open("2", "1", "1.1")
    world.position_sync = world.fresh()
    world.sync(30 * SECOND)
    assert set(world.desk.active_rows) == {"1", "2"}

    world.terminal.close("1", "1", "1.2", "5")
    world.sync()
    assert set(world.desk.active_rows) == {"2"}
