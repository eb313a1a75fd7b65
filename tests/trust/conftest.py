"""Lena is judged: as a provider, and for her bot."""

import pytest


@pytest.fixture
def user(lena):
    return lena.owner
