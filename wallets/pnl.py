"""The P/L of a subscriber's copies of a strategy up to a moment in the past, which later events never change.

It follows from the provider's trades, the subscription's terms and the market, never from a figure that the
subscriber's bot reports (wallets/copied_trades.py). Each settlement stores the lines of the trades that it counts for
the first time, so that what was settled stays. Trades that version 0.1.0 settled count as it settled them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import F, Q, QuerySet

from strategies.models import Subscription
from trades.models import ActiveTrade, TradeCorrection, TradeHistory
from wallets import copied_trades, lines, reported_pnl
from wallets.lines import Line
from wallets.models import FeeAgreement, Settlement

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Result:
    """Realised (`closed`) and `floating` P/L. `lines`: of the trades that no earlier settlement counted.

    `unpriced` says why there is no result yet: a trade without a price, or an account whose bot reports another
    currency. `corrections`: the ids of those that `closed` takes into account.
    """

    closed: Decimal
    floating: Decimal
    trades: int
    lines: tuple[Line, ...] = ()
    unpriced: str = ""
    corrections: tuple[int, ...] = ()

    @property
    def cumulative_pnl(self) -> Decimal:
        return self.closed + self.floating


class Settled:
    """What an agreement's settlements have counted. `settlements`: all, oldest first."""

    def __init__(self, agreement: FeeAgreement, settlements: Sequence[Settlement]) -> None:
        self.agreement, self.settlements = agreement, settlements
        # Up to then the profits count that bots reported.
        reported = [row.ends_at for row in settlements if row.rule == Settlement.Rule.REPORTED]
        copies = closed_trades(agreement, at=max(reported, default=agreement.started_at))
        self._by_reports = list(copies) if reported else []
        self.keys_by_reports = {f"{row.account_id}/{row.master_trade}" for row in self._by_reports}
        self.lines = {
            row.period_no: [line for line in stored_lines(row) if line.key not in self.keys_by_reports]
            for row in settlements
            if row.rule == Settlement.Rule.CALCULATED
        }

    def closed_lines(self, period_no: int) -> list[Line]:
        """The lines of the trades that were over by the end of this period."""
        return [line for number, rows in self.lines.items() if number <= period_no for line in rows if not line.is_open]

    def keys(self, period_no: int) -> set[str]:
        """What is counted by then: account and provider's trade."""
        return self.keys_by_reports | {line.key for line in self.closed_lines(period_no)}

    def realised(self, period_no: int, corrections: Sequence[Any]) -> Decimal:
        """The P/L of the trades that were over by the end of this period, with these corrections of theirs."""
        until = self.settlements[period_no].ends_at
        rows = [row for row in self._by_reports if row.closed_at <= until or period_no in self.lines]
        reported = sum((row.profit or ZERO for row in rows), ZERO)
        own = {row.pk for row in rows}
        changed = sum((row.profit - row.profit_before for row in corrections if row.trade_id in own), ZERO)
        return reported + changed + lines.realised(self.closed_lines(period_no), corrections, self.agreement.currency)

    def count(self, period_no: int) -> int:
        return len(self._by_reports) + len(self.closed_lines(period_no))


def result(
    agreement: FeeAgreement, *, at: datetime, settlements: Sequence[Settlement] = (), takes_any: bool = False
) -> Result:
    """The cumulative P/L at that moment. `settlements`: those before it, if they are read already.

    `takes_any`: a missing price is replaced by the last known one or the provider's, and it no longer matters that a
    bot reports another currency.
    """
    if not takes_any and (other_currency := _other_currency(agreement)):
        return Result(ZERO, ZERO, 0, unpriced=other_currency)
    settlements = settlements or list(agreement.settlements.order_by("period_no"))
    settled, last = Settled(agreement, settlements), settlements[-1].period_no
    counted, valuer = settled.keys(last), lines.Valuer(agreement, at, takes_any)
    copied = (trade for trade in copied_trades.of(agreement, at=at) if trade.key not in counted)
    new = tuple(valuer.line(trade) for trade in copied)
    corrected = corrections(agreement, at=at)
    closed = settled.realised(last, corrected) + lines.realised(new, corrected, agreement.currency)
    missing = next((line.missing for line in new if line.missing), "")
    return Result(
        closed, sum((line.floating(agreement.currency) for line in new), ZERO), settled.count(last) + len(new), new,
        missing, tuple(row.pk for row in corrected),
    )  # fmt: skip


def again(settlement: Settlement) -> Result:
    """The P/L of a settlement, calculated once more from the trades, and the market's prices in its lines."""
    agreement = settlement.agreement
    if settlement.rule == Settlement.Rule.REPORTED:
        return Result(*reported_pnl.again(settlement), corrections=tuple(settlement.corrections))
    before = list(agreement.settlements.filter(period_no__lt=settlement.period_no).order_by("period_no"))
    settled, last = Settled(agreement, before), before[-1].period_no
    trades = {trade.key: trade for trade in copied_trades.of(agreement, at=settlement.ends_at)}
    stored = [line for line in stored_lines(settlement) if line.key not in settled.keys(last)]
    recalculated = tuple(lines.again(line, trades[line.key]) for line in stored if line.key in trades)
    corrected = [row for row in corrections(agreement, at=settlement.ends_at) if row.pk in settlement.corrections]
    closed = settled.realised(last, corrected) + lines.realised(recalculated, corrected, agreement.currency)
    floating = sum((line.floating(agreement.currency) for line in recalculated), ZERO)
    return Result(
        closed, floating, settled.count(last) + len(recalculated), recalculated,
        corrections=tuple(row.pk for row in corrected),
    )  # fmt: skip


def stored_lines(settlement: Settlement) -> list[Line]:
    return [Line.from_json(row) for row in settlement.lines]


def _other_currency(agreement: FeeAgreement) -> str:
    """Which of the subscriber's accounts reports its profits in another currency; empty if none does."""
    followed = Subscription.objects.filter(
        strategy=agreement.strategy_id, account__owner=agreement.subscriber_id, account__currency=agreement.currency
    ).exclude(account__reported_currency__in=["", agreement.currency])
    for account in (subscription.account for subscription in followed.select_related("account")):
        return f"{account.name} reports {account.reported_currency}, registered is {account.currency}"
    return ""


def closed_trades(agreement: FeeAgreement, *, at: datetime) -> QuerySet[TradeHistory]:
    copies = copied_trades.copies_of(agreement)
    return TradeHistory.objects.filter(**copies, kind=TradeHistory.Kind.TRADE, closed_at__lte=at)


def corrections(agreement: FeeAgreement, *, at: datetime) -> list[Any]:
    """The corrections of copies and of the provider's trades that were copied, closed by then; oldest first.

    Each comes with its trade's `closed_at`.
    """
    copies_of = copied_trades.copies_of(agreement)
    homes = (ActiveTrade.objects.filter(**copies_of), TradeHistory.objects.filter(**copies_of))
    masters = {trade for home in homes for trade in home.values_list("master_trade", flat=True)}
    copies = {f"trade__history__{name}": value for name, value in copies_of.items()}
    rows = TradeCorrection.objects.filter(Q(**copies) | Q(trade__in=masters), trade__history__closed_at__lte=at)
    return list(rows.annotate(closed_at=F("trade__history__closed_at")).order_by("pk"))
