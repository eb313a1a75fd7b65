"""What a user's bots did wrong, read for `endpoint.fold`. Only what is proven to be their own is held against them."""

import json
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from accounts.models import BotKeyGeneration, TradingAccount, User
from trust import endpoint

SPAN = timedelta(days=90)
SLOW_MS = 1_000  # a late signal is the copier's own fault only where its own leg took that long

# A refusal that only the key's owner can have caused: its signature was right. What somebody else can send in a user's
# name (a bad signature, another address) is never held against that user.
_REFUSED = {"seq_replayed": "DUPLICATE_SEQ", "trade_closed": "REPLAY_ATTACK"}
REFUSALS = {"action__in": ["request.refused", "zombie.refused"], "code__in": list(_REFUSED)}
INCIDENT = timedelta(hours=1)  # the same fault of one key within that time is one: a bot that restarts repeats itself
ENOUGH_OF = {"DUPLICATE_SEQ": 3}  # so many make it one: a retry after a lost answer, or a captured copy, looks the same

# One row an incident, however often a bot repeats itself: from the first fault of a kind, step by step, to the first
# that is no longer within its hour (`width_bucket` finds it in the sorted times). The late open of a trade whose close
# came first, or that staff closed, is left out: its bot could not know.
_INCIDENTS = """
    with recursive told as (
      select r.actor as who, %(refused)s::jsonb ->> r.code as reason, r.at, '' as symbol from audit_log r
       where r.actor_kind = 'bot' and r.actor = any(%(keys)s) and r.action in ('request.refused', 'zombie.refused')
         and %(refused)s::jsonb ? r.code and r.at between %(since)s and %(until)s
         and not exists (
           select from trade_history h where r.code = 'trade_closed' and (h.kind = 'TOMBSTONE' or h.reason = 'STAFF')
              and h.trade_id = case when r.subject ~ '^trade:[0-9a-f-]{36}$' then substr(r.subject, 7)::uuid end)
      union all
      select o.account_id::text, o.failed_reason, o.reported_at, o.symbol from copy_orders o
       where o.account_id = any(%(accounts)s) and o.status = 'failed' and o.reported_at between %(since)s and %(until)s
         and (o.failed_reason = 'INSUFFICIENT_FUNDS'
              or o.failed_reason in ('TTL_EXPIRED', 'PRICE_DEVIATION') and o.latency_ms >= %(slow)s)),
    faults as materialized (
      select who, reason, array_agg(at order by at, symbol) as times, array_agg(symbol order by at, symbol) as symbols
        from told group by who, reason),
    incidents (who, reason, first, next) as (
      select who, reason, 1, 1 + width_bucket(times[1] + %(within)s, times) from faults
      union all
      select who, reason, i.next, 1 + width_bucket(times[i.next] + %(within)s, times)
        from incidents i join faults using (who, reason) where i.next <= cardinality(times))
    select times[first + enough - 1] as at, reason, symbols[first + enough - 1] as symbol
      from (select *, coalesce((%(enough)s::jsonb ->> reason)::int, 1) as enough
              from incidents join faults using (who, reason)) found
     where next - first >= enough order by at, reason, who"""


def has_bots(user: User) -> bool:
    return BotKeyGeneration.objects.filter(key__account__owner=user).exists()


def events_of(user: User, *, now: datetime) -> list[endpoint.Event]:
    """What the user's bots did wrong: refusals from the audit log, failed orders as they reported them."""
    keys = BotKeyGeneration.objects.filter(key__account__owner=user).values_list("key__key_id", "generation")
    asked: dict[str, Any] = {
        "keys": [f"{key}.{generation}" for key, generation in keys],
        "accounts": list(TradingAccount.objects.filter(owner=user).values_list("pk", flat=True)),
        "since": now - SPAN,
        "until": now,
        "refused": json.dumps(_REFUSED),
        "enough": json.dumps(ENOUGH_OF),
        "within": INCIDENT - timedelta(microseconds=1),
        "slow": SLOW_MS,
    }
    with connection.cursor() as cursor:
        cursor.execute(_INCIDENTS, asked)
        return [endpoint.Event(number, *row) for number, row in enumerate(cursor.fetchall(), 1)]
