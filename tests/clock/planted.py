"""A date-bound test, which `tests/test_dates.py` must find: it fails on the last day of a month."""

from datetime import timedelta

from django.utils import timezone

from wallets import fees


def test_takes_tomorrow_for_a_day_of_this_month() -> None:
    now = timezone.now()

    assert now + timedelta(days=1) < fees.month_after(now)
