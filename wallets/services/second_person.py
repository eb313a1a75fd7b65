"""The limits of what one person moves alone. The database holds them and decides; `manage.py migrate` writes them."""

from decimal import Decimal

import orjson
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections

from accounts.models import User
from audit import services as audit
from core import money
from core.transactions import part, use_case
from wallets import limits
from wallets.models import MoneySetting, Wallet


def configured() -> limits.Limits:
    """The limits of this process's settings."""
    return limits.of_settings(settings)


def in_force(using: str = DEFAULT_DB_ALIAS) -> dict[tuple[str, str], Decimal]:
    """The rows by which the database decides: (name, currency) → value."""
    rows = MoneySetting.objects.using(using).values_list("name", "currency", "value")
    return {(name, currency): value for name, currency, value in rows}


def above(currency: str) -> Decimal:
    """The largest amount in this currency that one person moves at once. Zero where the limits were never written."""
    rows = in_force()
    return rows.get(("above", currency), rows.get(("above", limits.EVERY_OTHER), Decimal(0)))


def write(rows: dict[tuple[str, str], Decimal], *, using: str) -> bool:
    """Write the limits into the database, with an audit row; whether they changed. For the tables' owner only."""
    with use_case(using), connections[using].cursor() as cursor:
        before = in_force(using)
        if before == rows:
            return False
        cursor.execute("delete from money_settings")
        cursor.executemany(
            "insert into money_settings (name, currency, value) values (%s, %s, %s)",
            [(name, currency, value) for (name, currency), value in rows.items()],
        )
        detail = {"before": _described(before), "after": _described(rows)}
        caller = orjson.dumps(audit.SYSTEM.caller()).decode()
        cursor.execute(
            "select audit(%s::jsonb, 'limits.changed', 'settings', '', %s::jsonb)",
            [caller, orjson.dumps(detail).decode()],
        )
        return True


def _described(rows: dict[tuple[str, str], Decimal]) -> dict[str, str]:
    return {f"{name} {currency}".strip(): money.plain(value) for (name, currency), value in sorted(rows.items())}


@part
def reason(*, wallet: Wallet, kind: str, amount: Decimal, by: User) -> str:
    """Return why this movement needs a second person, as the database finds; empty where it needs none.

    Locks the owner and `by` as movers until the commit, so that the answer stays true.
    """
    with connection.cursor() as cursor:
        cursor.execute("select second_person_reason(%s, %s, %s, %s)", [wallet.pk, kind, abs(amount), by.pk])
        (found,) = cursor.fetchone() or (None,)
    return found or ""
