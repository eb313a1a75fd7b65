"""Statistics of copying: how trades were copied, overdue closes, latency and slippage. No subscriber is named."""

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
from trades.models import CopyOrder
from trades.reasons import SkipReason
from trades.services import overdue_closes

NOT_COPYABLE = {SkipReason.SYMBOL_NOT_ALLOWED, SkipReason.VOLUME_TOO_SMALL, SkipReason.NOT_SIZABLE}
MOST_ORDERS = 10_000  # the latest ones, from which latency and slippage are calculated


@dataclass(slots=True)
class TradeCoverage:
    """In how many subscriptions one provider's trade was copied, and in how many it was not, by reason."""

    provider_trade: receipts.Trade
    copied: int = 0
    pending: int = 0
    why_not: dict[str, int] = field(default_factory=dict)

    @property
    def known_at(self) -> datetime:
        """When the desk learned of the provider's trade."""
        return uuid7.time_of(self.provider_trade.pk)

    @property
    def provider_lots(self) -> Decimal:
        return receipts.as_opened(self.provider_trade).opened_volume

    @property
    def subscriptions(self) -> int:
        return self.copied + self.pending + sum(self.why_not.values())

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return reasons_in_words(self.why_not)


def reasons_in_words(counts: Mapping[str, int]) -> list[tuple[int, str]]:
    """Count and text of each reason, the most frequent first."""
    return sorted(((count, str(SkipReason(reason).label)) for reason, count in counts.items()), reverse=True)


@dataclass(frozen=True, slots=True)
class Summary:
    """Over all pairs of a trade and a subscription: how many were copied, and how many were not, by reason."""

    pairs: int
    copied: int
    not_copyable: int  # excluded by the subscription's settings, or no volume follows from them
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
        return [(reason, count, self.share(count)) for count, reason in self.reasons]


def summary(coverage: Iterable[TradeCoverage]) -> Summary:
    rows = list(coverage)
    why_not: Counter[str] = Counter()
    for row in rows:
        why_not.update(row.why_not)
    return Summary(
        pairs=sum(row.subscriptions for row in rows),
        copied=sum(row.copied for row in rows),
        not_copyable=sum(why_not[reason] for reason in NOT_COPYABLE),
        reasons=reasons_in_words(why_not),
    )


_PAIRS = 60_000  # trades times subscriptions that one page counts

# Each trade with each subscription that existed then. Subscriptions without a copy and without a reported reason come
# with their terms, grouped by equal terms, so that a reason is derived once for each group.
_COVERAGE = """
    with pair as (
      select t.id as trade, u.id as subscription, u.account_id, u.status, a.currency,
             to_timestamp(uuid_v7_ms(t.id) / 1000.0) as known_at
        from unnest(%(trades)s::uuid[]) as t (id)
        join subscriptions u on u.strategy_id = %(strategy)s and u.created_at <= to_timestamp(uuid_v7_ms(t.id) / 1000.0)
        join trading_accounts a on a.id = u.account_id
    ), copy as (
      select account_id, master_trade from active_trades where master_trade = any(%(trades)s::uuid[])
      union
      select account_id, master_trade from trade_history
       where strategy_id = %(strategy)s and closed_at >= %(since)s and master_trade = any(%(trades)s::uuid[])
    ), reported as (
      select pair.*, copy.account_id is not null as copied, skip.reason
        from pair left join copy on copy.account_id = pair.account_id and copy.master_trade = pair.trade
        left join copy_skips skip on skip.subscription_id = pair.subscription and skip.master_trade = pair.trade
    )
    select trade, case when copied then 'copied' else coalesce(reason, '') end as outcome,
           case when not copied and reason is null then
             (select sizing_of(m, currency) from subscription_terms m
               where m.subscription_id = subscription and m.since <= known_at order by m.since desc, m.id desc
               limit 1) end as terms,
           count(*)
      from reported where status <> 'ENDED' or copied or reason is not null
     group by 1, 2, 3"""


def coverage(strategy: Strategy, *, now: datetime, days: int = 30, limit: int = receipts.LATEST) -> list[TradeCoverage]:
    """How the strategy's latest trades were copied, newest first. Counts alone: no subscriber is named."""
    followers = Subscription.objects.live().filter(strategy=strategy).count()
    limit = min(limit, max(5, _PAIRS // max(1, followers)))
    trades = receipts.latest_provider_trades([strategy.pk], limit, since=now - timedelta(days=days))
    rows = {trade.pk: TradeCoverage(trade) for trade in trades}
    for trade_id, outcome, terms, count in _counts(strategy, list(rows)):
        row = rows[trade_id]
        outcome = outcome or _derived_reason(row.provider_trade, terms, now)
        if outcome == "copied":
            row.copied += count
        elif outcome:
            row.why_not[outcome] = row.why_not.get(outcome, 0) + count
        else:
            row.pending += count
    return list(rows.values())


def _derived_reason(trade: receipts.Trade, terms: str | None, now: datetime) -> str:
    return receipts.unreported_reason(trade, sizing.settings(terms), now) if terms else SkipReason.NOT_REPORTED


def _counts(strategy: Strategy, trades: Sequence[uuid.UUID]) -> list[Any]:
    if not trades:
        return []
    with connection.cursor() as cursor:
        parameters: dict[str, Any] = {
            "trades": list(trades),
            "strategy": strategy.pk,
            "since": min(map(uuid7.time_of, trades)),
        }
        cursor.execute(_COVERAGE, parameters)
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class OverdueCount:
    """Copies that are still open although their provider's trades are closed; `since` the oldest of these closes."""

    count: int
    lots: Decimal
    since: datetime | None

    def age(self, now: datetime) -> timedelta:
        return now - self.since if self.since else timedelta(0)

    def is_late(self, now: datetime) -> bool:
        return self.age(now) >= overdue_closes.ESCALATED_AFTER[0]


def overdue(**filters: Any) -> OverdueCount:
    """The overdue closes now, by the hot table; filtered by `account__in`, `strategy` or the like."""
    totals = overdue_closes.overdue().filter(**filters).aggregate(
        count=models.Count("pk"), lots=models.Sum("volume"), since=models.Min("overdue_since")
    )  # fmt: skip
    return OverdueCount(totals["count"], totals["lots"] or sizing.NOTHING, totals["since"])


def overdue_by_subscription(accounts: Iterable[int]) -> dict[tuple[int, int], OverdueCount]:
    """The overdue closes now, by account and strategy."""
    rows = overdue_closes.overdue().filter(account__in=list(accounts)).values("account_id", "strategy_id")
    totals = rows.annotate(count=models.Count("pk"), lots=models.Sum("volume"), since=models.Min("overdue_since"))
    return {
        (row["account_id"], row["strategy_id"]): OverdueCount(row["count"], row["lots"], row["since"])
        for row in totals.order_by()
    }


# --- latency and slippage


class _Percentile(models.Aggregate):
    """PostgreSQL's `percentile_cont`."""

    template = "percentile_cont(%(share)s) within group (order by %(expressions)s)"
    output_field: Any = models.FloatField()

    def __init__(self, field_name: str, share: str) -> None:
        super().__init__(field_name, share=share)


def execution(orders: "models.QuerySet[CopyOrder]") -> dict[str, Any]:
    """Median and 95th percentile of latency (ms) and slippage (bps) of the latest executed orders, at most 10,000."""
    latest = orders.filter(status=CopyOrder.Status.EXECUTED).order_by("-pk")[:MOST_ORDERS]
    return latest.aggregate(
        count=models.Count("pk"),
        latency=_Percentile("latency_ms", "0.5"),
        latency_p95=_Percentile("latency_ms", "0.95"),
        slippage=_Percentile("slippage_bps", "0.5"),
        slippage_p95=_Percentile("slippage_bps", "0.95"),
    )
