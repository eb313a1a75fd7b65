"""Fixtures for trust: lena has scores as a provider and for her bot."""

import pytest

from accounts.models import TradingAccount, User


@pytest.fixture
def user(lena: TradingAccount) -> User:
    return lena.owner
