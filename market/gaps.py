"""Gaps between bars. Bars that would lie in hours in which the instrument does not trade are not missing."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from market.hours import Hours

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Gap:
    """No bars from `since` until `until`. `missing`: the number of bars in trading hours, so zero for a weekend."""

    since: datetime
    until: datetime
    missing: int

    @property
    def is_closure(self) -> bool:
        return self.missing == 0


def gap(since: datetime, until: datetime, step: timedelta, hours: Hours | None = None) -> Gap | None:
    """The gap for bars of length `step` that begin from `since` on and end by `until`; None if not one bar fits.

    Without hours, and for bars of a week and longer, every bar counts as missing.
    """
    bars = (until - since) // step
    if bars < 1:
        return None
    if hours is not None and step < WEEK:
        bars = _expected(since, bars, step, hours)
    return Gap(since, until, bars)


def _expected(since: datetime, bars: int, step: timedelta, hours: Hours) -> int:
    """How many of the bars at since, since + step, … are expected.

    A bar wholly inside an open interval is counted without a look at it; one at an edge is looked at by itself.
    """
    expected = reached = 0  # bars before the number `reached` are decided
    for start, end in hours.open_intervals(since, since + bars * step):
        number = max((start - since) // step, reached)
        while (at := since + number * step) < end:
            inside = max((end - at) // step, 0) if at >= start else 0
            expected += inside or hours.expects_bar(at, step)
            number += inside or 1
        reached = number
    return expected
