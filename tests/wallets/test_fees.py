"""Fees against an oracle of exact fractions, and against published examples of other platforms."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.money import LIMIT, UNIT
from market.profit import profit
from wallets import fees

RESULTS = st.decimals(min_value=-(10**9), max_value=10**9, places=8)
BPS = st.integers(0, 5000)


def charged(rate_bps: Any, results: Any, high_water_mark: Decimal = Decimal(0)) -> list[Any]:
    """The fee of each consecutive period, for these cumulative results."""
    charges = []
    for result in results:
        due = fees.performance(cumulative_pnl=Decimal(result), high_water_mark=high_water_mark, rate_bps=rate_bps)
        high_water_mark = due.high_water_mark
        charges.append(due.fee)
    return charges


@pytest.mark.parametrize(
    ("rate_bps", "results", "expected"),
    [
        (2000, [1000, 500, 2000], [200, 0, 200]),
        (1000, [200, 50, 150, 300], [20, 0, 0, 10]),  # Binance's lead trading, its own table
        (2000, [500, 300, 900], [100, 0, 80]),  # as Darwinex charges
        (2000, [100, 200, 300, -50, 50, 150], [20, 20, 20, 0, 0, 0]),  # settled at every trade
        (2000, [150], [30]),  # the same trades, settled at the period's end
        (2000, [300 - 400], [0]),  # a floating loss counts
    ],
)
def test_matches_the_published_examples(rate_bps: int, results: list[Any], expected: list[Any]) -> None:
    assert charged(rate_bps, results) == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(RESULTS, max_size=12), BPS)
def test_a_fee_is_at_most_one_unit_too_low_and_never_too_high(results: Any, rate_bps: Any) -> None:
    mark = Fraction(0)
    for result, fee in zip(results, charged(rate_bps, results), strict=True):
        exact = max(Fraction(0), Fraction(result) - mark) * rate_bps / 10_000
        mark = max(mark, Fraction(result))
        assert 0 <= exact - Fraction(fee) < Fraction(UNIT)


@settings(max_examples=200, deadline=None)
@given(st.lists(RESULTS, max_size=12), BPS)
def test_the_sum_of_all_fees_is_at_most_the_share_of_the_highest_result(results: Any, rate_bps: Any) -> None:
    best = max([Fraction(0), *map(Fraction, results)])

    assert sum(map(Fraction, charged(rate_bps, results))) <= best * rate_bps / 10_000


@settings(max_examples=200, deadline=None)
@given(st.decimals(min_value=0, max_value=10**9, places=8), st.integers(0, 10_000))
def test_the_provider_share_is_at_most_one_unit_too_low(fee: Any, platform_bps: Any) -> None:
    share = fees.provider_share(fee, platform_bps)

    assert 0 <= share <= fee
    assert 0 <= Fraction(fee) * (10_000 - platform_bps) / 10_000 - Fraction(share) < Fraction(UNIT)


MOMENTS = st.integers(0, 20 * 365 * 86_400).map(lambda s: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=s))


@settings(max_examples=200, deadline=None)
@given(st.decimals(min_value=0, max_value=10**6, places=8), MOMENTS)
def test_part_of_a_month_costs_its_whole_days(monthly: Any, begins: Any) -> None:
    ends = fees.month_after(begins)
    fee = fees.subscription(monthly=monthly, begins=begins, ends=ends)
    days = (ends - begins) // timedelta(days=1)
    in_month = (ends - fees.month_of(begins)) // timedelta(days=1)

    assert 0 <= Fraction(monthly) * days / in_month - Fraction(fee) < Fraction(UNIT)


def test_a_whole_month_costs_the_monthly_fee() -> None:
    begins = datetime(2026, 2, 1, tzinfo=UTC)

    assert fees.subscription(monthly=Decimal("9.99"), begins=begins, ends=fees.month_after(begins)) == Decimal("9.99")


@settings(max_examples=200, deadline=None)
@given(MOMENTS)
def test_months_follow_one_another(at: Any) -> None:
    first, following = fees.month_of(at), fees.month_after(at)

    assert first <= at < following
    assert fees.month_of(following) == following
    assert fees.month_after(first) == following


PRICES = st.decimals(min_value="0.00001", max_value=10**5, places=5)
LOTS = st.decimals(min_value="0.01", max_value=100, places=2)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["BUY", "SELL"]),
    PRICES,
    PRICES,
    st.decimals(min_value="0.01", max_value=100, places=2),
    st.booleans(),
)
def test_the_floating_result_is_what_a_close_would_realise(
    side: Any, opened: Any, price: Any, volume: Any, inverse: Any
) -> None:
    floating = profit(
        symbol="EURUSD", currency="EUR" if inverse else "USD", side=side, volume=volume, open_price=opened,
        price=price, contract_size=Decimal(100_000),
    )  # fmt: skip
    moved = (Fraction(price) - Fraction(opened)) * (1 if side == "BUY" else -1) * Fraction(volume) * 100_000
    exact = moved / Fraction(price) if inverse else moved

    if floating is None:
        assert abs(exact) >= LIMIT
    else:
        assert 0 <= exact - Fraction(floating) < Fraction(UNIT)
