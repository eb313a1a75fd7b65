"""Times of a trade server that say nothing: the hour that clocks repeat when they go back."""

from datetime import UTC, datetime, timedelta

import pytest

from copybot.server_clock import is_repeated
from copybot.tests.publisher_harness import SECOND, Provider

HOUR = timedelta(hours=1)
EUROPE = datetime(2026, 10, 25, 1, tzinfo=UTC)  # the last Sunday of October
NEW_YORK = datetime(2026, 11, 1, 6, tzinfo=UTC)  # the first Sunday of November


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


@pytest.mark.parametrize("change", [EUROPE, NEW_YORK], ids=["Europe", "New York"])
def test_the_hour_after_the_change_is_ambiguous(change: datetime) -> None:
    assert not is_repeated(ms(change) - 1)
    assert is_repeated(ms(change))
    assert is_repeated(ms(change + HOUR) - 1)
    assert not is_repeated(ms(change + 2 * HOUR))  # Chicago follows New York


@pytest.mark.parametrize("change", [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 8, 7, tzinfo=UTC)])
def test_no_hour_is_ambiguous_when_clocks_go_forward(change: datetime) -> None:
    assert not any(is_repeated(ms(change + minutes * timedelta(minutes=1))) for minutes in range(-120, 121))


def test_no_hour_is_ambiguous_on_a_day_without_a_change() -> None:
    day = datetime(2026, 10, 20, tzinfo=UTC)

    assert not any(is_repeated(ms(day + hours * HOUR)) for hours in range(48))


def test_all_changes_of_a_year_take_a_few_hours() -> None:
    """Any other young trade is published."""
    year = datetime(2026, 1, 1, tzinfo=UTC)

    assert sum(is_repeated(ms(year + hours * HOUR)) for hours in range(365 * 24)) <= 9


@pytest.mark.parametrize("change", [EUROPE, NEW_YORK], ids=["Europe", "New York"])
def test_a_trade_of_an_hour_ago_is_not_published_as_new_by_a_publisher_that_starts_in_the_repeated_hour(
    change: datetime,
) -> None:
    provider = Provider(ahead_ms=lambda: 2 * 3_600 * SECOND)  # the server is at UTC+2 now and was at UTC+3 before
    provider.now = ms(change) - 1_700 * SECOND
    provider.trade()
    provider.now += 3_600 * SECOND + 10 * SECOND
    provider.restart()
    provider.wait(30)
    assert (provider.active, provider.kinds()) == ({}, ["too_old"])

    young = provider.trade()
    provider.wait(1)
    assert list(provider.active) == [str(young)]
    assert not any("opened_at" in text for text, _ in provider.desk.state.answers.values())


def test_a_publisher_that_starts_on_another_day_publishes_a_young_trade() -> None:
    provider = Provider()
    provider.trade()
    provider.restart()
    provider.wait(1)

    assert len(provider.active) == 1
    assert any("opened_at" in text for text, _ in provider.desk.state.answers.values())


def test_a_time_before_1970_and_a_missing_one_are_no_repeated_hour() -> None:
    assert not any(is_repeated(at_ms) for at_ms in (0, -3 * 3_600_000, -1))
