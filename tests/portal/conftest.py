"""finn, who follows lena-eurusd, in a browser."""

import pytest
from django.test import Client

from accounts.models import TradingAccount
from strategies.models import Subscription


@pytest.fixture
def follows(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


@pytest.fixture
def as_finn(client: Client, finn: TradingAccount) -> Client:
    client.force_login(finn.owner)
    return client
