"""Gaps between bars, and weekends, which do not count as missing."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts.models import User
from market import gaps, services
from market.hours import Hours, sessions_of, zone_of
from market.models import Holiday
from tests.market.conftest import HEADER, MONDAY, hours

HOUR = timedelta(hours=1)


def at(*when: Any) -> Any:
    return datetime(*when, tzinfo=UTC)


def gap_rows(minutes: int = 60, **between: Any) -> list[Any]:
    return [
        (gap.since, gap.until, gap.missing) for gap in services.gaps_of(symbol="EURUSD", minutes=minutes, **between)
    ]


CURRENCIES = Hours(zone_of("America/New_York"), sessions_of("Sun-Thu 17:00-17:00"))


@pytest.mark.parametrize(
    ("friday", "sunday"),
    [
        (at(2024, 1, 12, 22), at(2024, 1, 14, 22)),
        (at(2024, 7, 12, 21), at(2024, 7, 14, 21)),
        (at(2024, 3, 8, 22), at(2024, 3, 10, 21)),
        (at(2024, 11, 1, 21), at(2024, 11, 3, 22)),
        (at(2005, 3, 18, 22), at(2005, 3, 20, 22)),
    ],
    ids=["winter", "summer", "into summer", "into winter", "the older rule"],
)
def test_weekends_follow_new_york_time(friday: Any, sunday: Any) -> None:
    assert list(CURRENCIES.closures(friday - HOUR, sunday + HOUR)) == [(friday, sunday)]
    assert gaps.gap(friday, sunday, HOUR, CURRENCIES).is_closure
    assert gaps.gap(friday - HOUR, sunday, HOUR, CURRENCIES).missing == 1
    assert gaps.gap(friday, sunday + HOUR, HOUR, CURRENCIES).missing == 1


def test_a_gap_of_a_year_counts_only_trading_hours() -> None:
    gap = gaps.gap(at(2024, 1, 1), at(2025, 1, 1), HOUR, CURRENCIES)

    closed = sum((end - start for start, end in CURRENCIES.closures(gap.since, gap.until)), timedelta())
    assert gap.missing == (366 * 24 * HOUR - closed) / HOUR


SESSIONS = {
    "currencies": ("America/New_York", "Sun-Thu 17:00-17:00"),
    "metals": ("America/New_York", "Sun-Thu 18:00-17:00"),
    "a stock exchange with a break": ("Asia/Tokyo", "Mon-Fri 09:00-11:30, Mon-Fri 12:30-15:00"),
    "crypto currencies": ("UTC", "Sun-Sat 00:00-00:00"),
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_missing_bars_agree_with_a_count_by_the_minute(kind: str) -> None:
    """Each bar is looked at minute by minute, by the local clock: expected if a sixth of it is open."""
    name, text = SESSIONS[kind]
    zone, hours, rng = ZoneInfo(name), Hours(zone_of(name), sessions_of(text)), random.Random(7)
    minute = timedelta(minutes=1)

    def is_open(when: datetime) -> bool:
        local = when.astimezone(zone)
        clock = local.hour * 60 + local.minute
        weekday = local.weekday()
        if kind == "currencies":
            return not (weekday == 5 or (weekday == 4 and clock >= 1020) or (weekday == 6 and clock < 1020))
        if kind == "metals":
            closed = weekday == 5 or (weekday == 4 and clock >= 1020) or (weekday == 6 and clock < 1080)
            return not closed and not 1020 <= clock < 1080
        if kind.startswith("a stock"):
            return weekday < 5 and (540 <= clock < 690 or 750 <= clock < 900)
        return True

    for _ in range(40):
        step = rng.choice([5, 15, 60, 240, 1440]) * minute
        since = at(rng.choice([1995, 2006, 2007, 2024]), 1, 1) + rng.randrange(525_000) * minute
        count = rng.randrange(1, 20)
        missing = sum(
            sum(is_open(since + number * step + part * minute) for part in range(step // minute)) * 6 >= step // minute
            for number in range(count)
        )
        assert gaps.gap(since, since + count * step, step, hours).missing == missing, (since, step, count)


def test_there_is_no_gap_if_not_one_bar_fits() -> None:
    assert gaps.gap(MONDAY, MONDAY + timedelta(minutes=59), HOUR) is None
    assert gaps.gap(MONDAY, MONDAY - HOUR, HOUR) is None


def test_weekly_bars_have_no_weekends() -> None:
    assert gaps.gap(at(2024, 1, 7), at(2024, 1, 14), timedelta(days=7)).missing == 1


def test_daily_bars_may_lack_saturday_and_sunday() -> None:
    assert gaps.gap(at(2024, 1, 13), at(2024, 1, 15), timedelta(days=1), CURRENCIES).is_closure


def test_distinguishes_holes_from_weekends(import_lines: Callable[..., Any]) -> None:
    friday, sunday = at(2024, 1, 12, 20), at(2024, 1, 14, 22)
    import_lines(HEADER, *hours(5), *hours(2, MONDAY + 8 * HOUR), *hours(2, friday), *hours(3, sunday))

    assert gap_rows() == [
        (MONDAY + 5 * HOUR, MONDAY + 8 * HOUR, 3),
        (MONDAY + 10 * HOUR, friday, 106),
        (friday + 2 * HOUR, sunday, 0),
    ]


def test_gaps_at_the_edges_of_an_interval_count(import_lines: Callable[..., Any]) -> None:
    import_lines(HEADER, *hours(5))

    assert gap_rows(since=MONDAY - HOUR, until=MONDAY + 7 * HOUR) == [
        (MONDAY - HOUR, MONDAY, 1),
        (MONDAY + 5 * HOUR, MONDAY + 7 * HOUR, 2),
    ]
    assert gap_rows(since=MONDAY + HOUR, until=MONDAY + 3 * HOUR) == []
    assert gap_rows(since=MONDAY + 10 * HOUR, until=MONDAY + 12 * HOUR) == [
        (MONDAY + 10 * HOUR, MONDAY + 12 * HOUR, 2)
    ]  # fmt: skip


def test_without_bars_the_whole_interval_is_missing(desk_db: str) -> None:
    assert gap_rows() == []
    assert gap_rows(since=MONDAY, until=MONDAY + 4 * HOUR) == [(MONDAY, MONDAY + 4 * HOUR, 4)]


@pytest.mark.parametrize("slice_", [1, 2, 3, 7, 100])
def test_the_slice_size_does_not_change_the_result(
    import_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, slice_: int
) -> None:
    import_lines(
        HEADER, *hours(5), *hours(2, MONDAY + 8 * HOUR), *hours(1, MONDAY + 40 * HOUR), *hours(3, MONDAY + 42 * HOUR)
    )
    whole = gap_rows()

    monkeypatch.setattr(services, "SLICE", slice_)

    assert gap_rows() == whole
    assert [missing for *_, missing in whole] == [3, 30, 1]


def test_the_bundled_file_lacks_only_the_holidays(desk_db: str) -> None:
    call_command("import_candles", str(services.EURUSD_1H), "--symbol", "EURUSD", "--minutes", "60")
    assert [missing for *_, missing in gap_rows() if missing] == []

    Holiday.objects.all().delete()

    holes = [(since, missing) for since, _, missing in gap_rows() if missing]
    assert [(since.date().isoformat(), missing) for since, missing in holes] == [
        ("2017-12-22", 24),
        ("2017-12-29", 24),
    ]


# --- command and admin page


def test_the_command_lists_holes_and_counts_weekends(
    import_lines: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import_lines(HEADER, *hours(2, at(2024, 1, 12, 20)), *hours(1, at(2024, 1, 14, 22)), *hours(1, at(2024, 1, 15, 1)))

    call_command("candle_gaps", "--symbol", "EURUSD", "--minutes", "60")
    output = capsys.readouterr().out.splitlines()

    assert output == [
        "2024-01-14 23:00  2024-01-15 01:00  hole of 2 bars",
        "1 holes, 2 bars missing in them; 1 weekends.",
    ]
    call_command("candle_gaps", "--symbol", "EURUSD", "--minutes", "60", "--weekends")
    assert "2024-01-12 22:00  2024-01-14 22:00  weekend" in capsys.readouterr().out


def test_the_command_refuses_an_unknown_instrument(desk_db: str) -> None:
    with pytest.raises(CommandError, match="not_found"):
        call_command("candle_gaps", "--symbol", "EURGBP", "--minutes", "60")


def test_an_instruments_page_shows_its_bars(import_lines: Callable[..., Any], client: Client, staff: User) -> None:
    import_lines(HEADER, *hours(5), *hours(2, MONDAY + 8 * HOUR))
    import_lines(HEADER, *hours(3), minutes=15, is_sparse=True)
    client.force_login(staff)

    page = client.get(reverse("admin:market_instrument_change", args=["EURUSD"]))

    series = [(series.minutes, series.bars, series.holes, series.missing) for series in page.context["series"]]
    assert series == [(15, 3, 2, 6), (60, 7, 1, 3)]
    assert "2024-01-08 09:00" in page.content.decode()


def test_an_instrument_without_bars_says_so(desk_db: str, client: Client, staff: User) -> None:
    client.force_login(staff)

    page = client.get(reverse("admin:market_instrument_change", args=["XAUUSD"]))

    assert "No bars" in page.content.decode()


def test_too_many_bars_are_not_counted(import_lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import_lines(HEADER, *hours(5))

    monkeypatch.setattr(services, "MOST_COUNTED", 4)

    assert services.series_of(symbol="EURUSD")[0].bars is None
