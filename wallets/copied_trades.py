"""The provider's trades that a subscriber copied, as fees count them: by what the subscriber's bot cannot decide.

A fee is a share of what the provider's trade made, at the size that the subscription's terms ask for. Symbol, side,
prices and partial closes are the provider's, the lots are those of the terms, and the contract size is the desk's. Of
what the subscriber's bot reports two facts count, each only at the time at which the desk learned of it: that the trade
is copied, and that no copy is open any more.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from accounts.models import AccountSymbol
from core import uuid7
from strategies import sizing
from strategies.models import Subscription
from trades import receipts
from trades.models import ActiveTrade, TradeHistory, TradeReduction
from wallets.models import FeeAgreement

# A report within this time of the provider's own event counts as at the event: by then nobody knows how it goes on.
IN_TIME = timedelta(minutes=2)
STEP = Decimal("0.01")  # lots: brokers round down to such a step, so fees do too

Copy = ActiveTrade | TradeHistory


@dataclass(frozen=True, slots=True)
class Deal:
    """A close of `share` of the provider's lots, in part or the rest, at the provider's price."""

    at: datetime
    price: Decimal
    share: Decimal


@dataclass(frozen=True, slots=True)
class CopiedTrade:
    """A provider's trade that one account copied. `ticket`: of the first copy. `side`: the copy's own.

    `known_at`: when the desk learned of the provider's trade. `copied_at`, `left_at`: when it learned that there is a
    copy, and that none is open any more. `deals`: of the provider until then, the final close last, at `closed_at`.
    `profit`: the provider's own by then. `later_close`: the provider's close price, even if the copy was left before.
    """

    account: int
    trade: uuid.UUID
    copies: tuple[uuid.UUID, ...]
    ticket: str
    symbol: str
    side: str
    lots: Decimal
    open_price: Decimal
    known_at: datetime
    copied_at: datetime
    left_at: datetime | None
    deals: tuple[Deal, ...]
    closed_at: datetime | None
    later_close: Decimal | None
    provider_lots: Decimal
    profit: Decimal | None
    is_reversed: bool

    @property
    def key(self) -> str:
        return f"{self.account}/{self.trade}"

    @property
    def is_late(self) -> bool:
        return self.copied_at > self.known_at + IN_TIME

    @property
    def is_left(self) -> bool:
        """Whether the copy was closed before the provider's trade, or before anybody could know of its close."""
        return self.left_at is not None and self.closed_at is None

    @property
    def is_over(self) -> bool:
        return self.is_left or self.closed_at is not None


def of(agreement: FeeAgreement, *, at: datetime) -> list[CopiedTrade]:
    """The trades of the strategy that the subscriber's accounts had copied by then, as they were known at that moment.

    A trade counts once for each account, whatever number of copies is reported.
    """
    copies = _copies(agreement, at)
    trades = _provider_trades({trade for _, trade in copies})
    parts = _parts(trades)
    subscriptions = _subscriptions(agreement)
    terms = receipts.TermsHistory.of(subscriptions.values(), since=min(map(uuid7.time_of, trades), default=at))
    contracts = _contract_sizes(agreement)
    copied = []
    for (account, trade), rows in sorted(copies.items()):
        if trade not in trades or account not in subscriptions:
            continue  # the provider's close came without an open, so nothing was copied
        settings = terms.settings(subscriptions[account], uuid7.time_of(trade))
        # Without the contract sizes that bots reported: as if both accounts had the desk's.
        settings = replace(settings, sizes=None, known=None, contracts=contracts)
        copied.append(_copied(trades[trade], rows, parts[trade], settings, at))
    return copied


def _copied(
    trade: Copy, rows: Sequence[Copy], parts: Sequence[TradeReduction], settings: sizing.Settings, at: datetime
) -> CopiedTrade:
    opened = receipts.as_opened(trade)
    plan, left_at = sizing.plan(settings, opened), _left_at(rows, at)
    until = at if left_at is None else left_at + IN_TIME
    closed = trade if isinstance(trade, TradeHistory) else None
    final = closed if closed is not None and closed.closed_at <= until else None
    deals = [
        Deal(part.closed_at, part.close_price, part.volume / opened.opened_volume)
        for part in parts
        if part.closed_at <= until
    ]
    if final is not None:
        rest = Decimal(1) - sum((deal.share for deal in deals), Decimal(0))
        deals.append(Deal(final.closed_at, final.close_price, rest))
    return CopiedTrade(
        account=rows[0].account_id, trade=trade.pk, copies=tuple(row.pk for row in rows), ticket=rows[0].ticket_id,
        symbol=opened.symbol, side=plan.type, lots=counted(plan.volume), open_price=opened.open_price,
        known_at=uuid7.time_of(trade.pk), copied_at=uuid7.time_of(rows[0].pk), left_at=left_at, deals=tuple(deals),
        closed_at=None if final is None else final.closed_at,
        later_close=closed.close_price if closed is not None and closed.closed_at <= at else None,
        provider_lots=opened.opened_volume, profit=None if final is None else final.profit,
        is_reversed=settings.reverse,
    )  # fmt: skip


def counted(lots: Decimal) -> Decimal:
    """The lots that fees count: rounded down to a step, unless nothing would be left."""
    return lots.quantize(STEP, rounding=ROUND_DOWN) if lots >= STEP else lots


def _left_at(rows: Sequence[Copy], at: datetime) -> datetime | None:
    """When no copy was open any more. A later copy of the same trade does not count: it is reported with hindsight."""
    until: datetime | None = None
    for row in rows:
        if until is not None and uuid7.time_of(row.pk) > until + IN_TIME:
            break
        if not isinstance(row, TradeHistory) or row.closed_at > at:
            return None
        until = row.closed_at if until is None else max(until, row.closed_at)
    return until


def copies_of(agreement: FeeAgreement) -> dict[str, Any]:
    """The condition for rows of the agreement's copies, open or closed."""
    return {
        "account__owner": agreement.subscriber_id,
        "account__currency": agreement.currency,
        "strategy": agreement.strategy_id,
        "master_trade__isnull": False,
        "trade_id__gte": uuid7.first_at(agreement.started_at),
    }


def _copies(agreement: FeeAgreement, at: datetime) -> dict[tuple[int, uuid.UUID], list[Copy]]:
    """By account and provider's trade, the earliest report first."""
    condition = {**copies_of(agreement), "trade_id__lt": uuid7.first_at(at)}
    closed = TradeHistory.objects.filter(**condition, kind=TradeHistory.Kind.TRADE)
    rows: list[Copy] = [*ActiveTrade.objects.filter(**condition), *closed]
    by_trade: dict[tuple[int, uuid.UUID], list[Copy]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.pk):
        assert row.master_trade is not None
        by_trade[row.account_id, row.master_trade].append(row)
    return by_trade


def _provider_trades(pks: Iterable[uuid.UUID]) -> dict[uuid.UUID, Copy]:
    pks = set(pks)
    closed = TradeHistory.objects.filter(pk__in=pks, kind=TradeHistory.Kind.TRADE)
    rows: list[Copy] = [*ActiveTrade.objects.filter(pk__in=pks), *closed]
    return {row.pk: row for row in rows}


def _parts(trades: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[TradeReduction]]:
    by_trade: dict[uuid.UUID, list[TradeReduction]] = defaultdict(list)
    for part in TradeReduction.objects.filter(trade_id__in=trades).order_by("closed_at", "pk"):
        by_trade[part.trade_id].append(part)
    return by_trade


def _contract_sizes(agreement: FeeAgreement) -> dict[str, Decimal]:
    """Units in a lot, by symbol: the desk's, or the provider's of a symbol that the desk does not list."""
    rows = AccountSymbol.objects.filter(account=agreement.strategy.account_id)
    return {**dict(rows.values_list("symbol", "contract_size")), **receipts.contracts()}


def _subscriptions(agreement: FeeAgreement) -> dict[int, Subscription]:
    rows = Subscription.objects.filter(strategy=agreement.strategy_id, account__owner=agreement.subscriber_id)
    return {row.account_id: row for row in rows.select_related("account")}
