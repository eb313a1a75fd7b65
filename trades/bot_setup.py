"""What a bot's owner needs to check its setup: the account, its lease and subscriptions. Reading it changes nothing."""

from collections.abc import Mapping
from typing import Any

import orjson
from django.db import connection

from accounts.models import TradingAccount
from core.responses import iso
from strategies import packets
from strategies import services as strategies
from strategies.models import Subscription
from trades.models import Copier
from trades.snapshot import Snapshot


def of_account(account_id: int, snapshot: Snapshot) -> dict[str, Any]:
    account = TradingAccount.objects.get(pk=account_id)
    copier = Copier.objects.filter(account=account_id).first()
    subscriptions = Subscription.objects.live().filter(account=account_id).select_related("strategy")
    return {
        "account": account.name,
        "currency": account.currency,
        "publishes": next((source.name for source in snapshot.sources.values() if not source.follows), None),
        "copier": None if copier is None else _copier(copier),
        "subscriptions": [_subscription(row) for row in subscriptions.order_by("strategy__name")],
        "symbols": _symbols(account_id),
    }


def _symbols(account_id: int) -> Any:
    """The contract sizes that the desk knows of the account's symbols, and of the provider's where it copies them."""
    with connection.cursor() as cursor:
        cursor.execute("select account_symbols_wanted(%s)::text", [account_id])
        (text,) = cursor.fetchone() or ("[]",)
    return orjson.loads(text)


def _copier(copier: Copier) -> Mapping[str, Any]:
    return {
        "instance": copier.instance,
        "heartbeat_at": iso(copier.heartbeat_at),
        "leased_until": iso(copier.leased_until),
    }


def _subscription(subscription: Subscription) -> Mapping[str, Any]:
    """`checks`: for each signal secret, by generation, the value by which a bot checks that it has it."""
    sub_id = subscription.sub_id
    secrets = strategies.packet_secrets(subscription)
    return {
        "strategy": subscription.strategy.name,
        "sub_id": sub_id,
        "status": subscription.status,
        "generation": subscription.packet_generation,
        "checks": {
            str(generation): packets.secret_check(secret, sub_id=sub_id, generation=generation)
            for generation, secret in secrets.items()
        },
    }
