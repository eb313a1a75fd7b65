"""Copying in numbers: how trades were copied, what is owed, how fast and how much worse. Nobody is named."""

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, models

from core import uuid7
from strategies import sizing
from strategies.models import Strategy, Subscription
from trades import receipts
from trades.models import CopyOrder, SkipReason
from trades.services import overdue_closes

NOT_COPYABLE = {SkipReason.SYMBOL_NOT_ALLOWED, SkipReason.VOLUME_TOO_SMALL, SkipReason.NOT_SIZABLE}
PACE_OF = 10_000  # orders at most, the latest


@dataclass(slots=True)
class Spread:
    """How one trade was copied: by how many, and of how many others for which reason not."""

    master: receipts.Trade
    copied: int = 0
    pending: int = 0
    why_not: dict[str, int] = field(default_factory=dict)

    @property
    def born(self) -> datetime:
        return uuid7.time_of(self.master.pk)

    @property
    def opened_lots(self) -> Decimal:
        return receipts.provider_trade(self.master).opened_volume

    @property
    def of(self) -> int:
        return self.copied + self.pending + sum(self.why_not.values())

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return reasons_in_words(self.why_not)


def reasons_in_words(counts: Mapping[str, int]) -> list[tuple[int, str]]:
    """How many for which reason, in words, the most first."""
    return sorted(((count, str(SkipReason(reason).label)) for reason, count in counts.items()), reverse=True)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of every trade with every subscription: how many were copied, and how many not for which reason."""

    pairs: int
    copied: int
    not_copyable: int  # the settings left it out, or no size came of them: no copier could have copied it
    reasons: list[tuple[int, str]]

    def share(self, count: int) -> Decimal:
        return Decimal(100 * count) / self.pairs if self.pairs else Decimal(0)

    @property
    def copied_pct(self) -> Decimal:
        return self.share(self.copied)

    @property
    def not_copyable_pct(self) -> Decimal:
        return self.share(self.not_copyable)

    @property
    def bars(self) -> list[tuple[str, int, Decimal]]:
        return [(says, count, self.share(count)) for count, says in self.reasons]


def summary(spread: Iterable[Spread]) -> Summary:
    rows = list(spread)
    why_not: Counter[str] = Counter()
    for one in rows:
        why_not.update(one.why_not)
    return Summary(
        pairs=sum(one.of for one in rows),
        copied=sum(one.copied for one in rows),
        not_copyable=sum(why_not[reason] for reason in NOT_COPYABLE),
        reasons=reasons_in_words(why_not),
    )


_PAIRS = 60_000  # trades times subscriptions that one page counts

# Each trade with each subscription of the time. One that said nothing comes with the settings it had, and those who had
# the same are counted together, so that why-not is worked out once for all of them.
_SPREAD = """
    with pair as (
      select t.id as trade, u.id as subscription, u.account_id, u.status, a.currency,
             to_timestamp(uuid_v7_ms(t.id) / 1000.0) as born
        from unnest(%(trades)s::uuid[]) as t (id)
        join subscriptions u on u.strategy_id = %(strategy)s and u.created_at <= to_timestamp(uuid_v7_ms(t.id) / 1000.0)
        join trading_accounts a on a.id = u.account_id
    ), copy as (
      select account_id, master_trade from active_trades where master_trade = any(%(trades)s::uuid[])
      union
      select account_id, master_trade from trade_history
       where strategy_id = %(strategy)s and closed_at >= %(since)s and master_trade = any(%(trades)s::uuid[])
    ), told as (
      select pair.*, copy.account_id is not null as copied, skip.reason
        from pair left join copy on copy.account_id = pair.account_id and copy.master_trade = pair.trade
        left join copy_skips skip on skip.subscription_id = pair.subscription and skip.master_trade = pair.trade
    )
    select trade, case when copied then 'copied' else coalesce(reason, '') end as outcome,
           case when not copied and reason is null then
             (select settings_of(m, currency) from subscription_terms m
               where m.subscription_id = subscription and m.since <= born order by m.since desc, m.id desc
               limit 1) end as terms,
           count(*)
      from told where status <> 'ENDED' or copied or reason is not null
     group by 1, 2, 3"""


def spread(strategy: Strategy, *, now: datetime, days: int = 30, limit: int = receipts.LATEST) -> list[Spread]:
    """How the strategy's latest trades were copied, the newest first. Numbers alone: nobody is named."""
    followers = Subscription.objects.live().filter(strategy=strategy).count()
    few_enough = min(limit, max(5, _PAIRS // max(1, followers)))
    masters = receipts.latest_masters([strategy.pk], few_enough, since=now - timedelta(days=days))
    found = {master.pk: Spread(master) for master in masters}
    for trade_id, told, terms, count in _counted(strategy, list(found)):
        one = found[trade_id]
        told = told or (
            receipts.nobody_said(one.master, sizing.settings(terms), now) if terms else SkipReason.NOT_REPORTED
        )
        if told == "copied":
            one.copied += count
        elif told:
            one.why_not[told] = one.why_not.get(told, 0) + count
        else:
            one.pending += count
    return list(found.values())


def _counted(strategy: Strategy, trades: Sequence[uuid.UUID]) -> list[Any]:
    if not trades:
        return []
    with connection.cursor() as cursor:
        asked: dict[str, Any] = {
            "trades": list(trades),
            "strategy": strategy.pk,
            "since": min(map(uuid7.time_of, trades)),
        }
        cursor.execute(_SPREAD, asked)
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class OverdueCount:
    """Closes that copiers owe: masters are out, and these copies are not."""

    count: int
    lots: Decimal
    since: datetime | None

    def age(self, now: datetime) -> timedelta:
        return now - self.since if self.since else timedelta(0)

    def is_late(self, now: datetime) -> bool:
        return self.age(now) >= overdue_closes.ESCALATED_AFTER[0]


def overdue(**whose: Any) -> OverdueCount:
    """What is owed now, as the hot table says; by `account__in`, `strategy` or the like."""
    found = overdue_closes.overdue().filter(**whose).aggregate(
        count=models.Count("pk"), lots=models.Sum("volume"), since=models.Min("overdue_since")
    )  # fmt: skip
    return OverdueCount(found["count"], found["lots"] or sizing.NOTHING, found["since"])


def overdue_by_subscription(accounts: Iterable[int]) -> dict[tuple[int, int], OverdueCount]:
    """By account and strategy."""
    rows = overdue_closes.overdue().filter(account__in=list(accounts)).values("account_id", "strategy_id")
    counted = rows.annotate(count=models.Count("pk"), lots=models.Sum("volume"), since=models.Min("overdue_since"))
    return {
        (row["account_id"], row["strategy_id"]): OverdueCount(row["count"], row["lots"], row["since"])
        for row in counted.order_by()
    }


# --- how fast, and how much worse


class _Percentile(models.Aggregate):
    """`percentile_cont`: what so large a share of the rows stays below."""

    template = "percentile_cont(%(share)s) within group (order by %(expressions)s)"
    output_field: Any = models.FloatField()

    def __init__(self, of: str, share: str) -> None:
        super().__init__(of, share=share)


def pace(orders: "models.QuerySet[CopyOrder]") -> dict[str, Any]:
    """Median and 95th percentile of latency (ms) and slippage (bps) of what was executed, at most the latest 10,000."""
    latest = orders.filter(status=CopyOrder.Status.EXECUTED).order_by("-pk")[:PACE_OF]
    return latest.aggregate(
        count=models.Count("pk"),
        latency=_Percentile("latency_ms", "0.5"),
        latency_p95=_Percentile("latency_ms", "0.95"),
        slippage=_Percentile("slippage_bps", "0.5"),
        slippage_p95=_Percentile("slippage_bps", "0.95"),
    )
