"""Amounts: exact in the API, short for people."""

from decimal import Decimal

import pytest

from core import money


@pytest.mark.parametrize(
    ("amount", "places", "shown"),
    [
        ("100", 0, "100"),
        ("100", 2, "100.00"),
        ("0.50000000", 0, "0.5"),
        ("0.50000000", 2, "0.50"),
        ("0.12345678", 2, "0.12345678"),
        ("-1.10", 0, "-1.1"),
        ("1E+3", 0, "1000"),
        ("0", 0, "0"),
        ("0.00000001", 0, "0.00000001"),
        ("0.123456785", 0, "0.12345678"),
    ],
)
def test_an_amount_is_shown_without_trailing_zeros(amount: str, places: int, shown: str) -> None:
    assert money.plain(Decimal(amount), places) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("1234567.5", "1,234,567.50"),
        ("999.99", "999.99"),
        ("-0.5", "-0.50"),
        ("-1000", "-1,000.00"),
        ("1000.125", "1,000.125"),
    ],
)
def test_money_separates_its_thousands(amount: str, shown: str) -> None:
    assert money.grouped(Decimal(amount)) == shown
