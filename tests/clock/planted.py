"""A test of the kind that `tests/test_dates.py` must find: it passes on every day but the last one of a month."""

from datetime import timedelta

from django.utils import timezone

from wallets import fees


def test_takes_tomorrow_for_a_day_of_this_month() -> None:
    now = timezone.now()

    assert now + timedelta(days=1) < fees.month_after(now)
