"""The incidents of a user's bots, read for `endpoint.fold`. Only proven faults of the user's own bots count: a request
that anybody can send in a user's name (a bad signature, another address) does not. See sql/functions/incident.sql.
"""

from datetime import datetime, timedelta

from django.db import connection

from accounts.models import BotKeyGeneration, TradingAccount, User
from trust import endpoint

SPAN = timedelta(days=90)
REFUSALS = {"action__in": ["request.refused", "zombie.refused"], "code": "trade_closed"}
REPORT_DIFFERS = "copy.report_differs"  # wallets records it

_INCIDENTS = "select at, reason, symbol from trust_incidents(%s, %s, %s, %s) order by at, reason, symbol"


def has_bots(user: User) -> bool:
    return BotKeyGeneration.objects.filter(key__account__owner=user).exists()


def events_of(user: User, *, now: datetime) -> list[endpoint.Event]:
    """Return the incidents: refusals and wrong reports in the audit log, and copies that failed for want of money."""
    generations = BotKeyGeneration.objects.filter(key__account__owner=user).values_list("key__key_id", "generation")
    keys = [f"{key}.{generation}" for key, generation in generations]
    accounts = list(TradingAccount.objects.filter(owner=user).values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(_INCIDENTS, [keys, accounts, now - SPAN, now])
        return [endpoint.Event(number, *row) for number, row in enumerate(cursor.fetchall(), 1)]
