"""Copy receipts: what a subscription made of a provider's trade, which is a copy, or the reason why there is none."""

import bisect
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any

from django.db import models
from django.db.models.functions import Coalesce

from core import uuid7
from market.models import Instrument
from strategies import explanations, sizing
from strategies.models import Subscription, Terms
from trades import corrections
from trades.models import ActiveTrade, CopyOrder, CopySkip, Reason, TradeHistory
from trades.reasons import SkipReason

LATEST = 40
WITH_PROVIDER = "with the provider"
REPORTED_AFTER = timedelta(seconds=60)  # by then a running copier has copied the trade or reported why not

Trade = ActiveTrade | TradeHistory


def is_closed(trade: Trade) -> bool:
    return isinstance(trade, TradeHistory)


def as_opened(trade: Trade) -> sizing.ProviderTrade:
    """The provider's trade as it was opened, which is what a copy is sized by."""
    opened = trade.volume if isinstance(trade, TradeHistory) else trade.opened_volume
    return sizing.ProviderTrade(
        symbol=trade.symbol or "",
        type=trade.type or "",
        opened_volume=opened or sizing.NOTHING,
        volume=opened or sizing.NOTHING,
        open_price=trade.open_price or sizing.NOTHING,
        opened_sl=trade.opened_sl,
        first_sl=trade.first_sl,
        sl=trade.sl,
        tp=trade.tp,
    )


# --- the outcome of each trade


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one provider's trade in one subscription. Without a copy and without `why_not` it is pending."""

    subscription: Subscription
    provider_trade: Trade
    copy: Trade | None
    why_not: str = ""
    detail: str = ""

    @property
    def known_at(self) -> datetime:
        """When the desk learned of the provider's trade."""
        return uuid7.time_of(self.provider_trade.pk)

    @property
    def state(self) -> str:
        if self.copy is not None:
            return "overdue" if self.is_overdue else "closed" if self.copy_closed else "open"
        return "not copied" if self.why_not else "pending"

    @property
    def provider_closed(self) -> bool:
        return is_closed(self.provider_trade)

    @property
    def copy_closed(self) -> bool:
        return self.copy is not None and is_closed(self.copy)

    @property
    def is_overdue(self) -> bool:
        return self.copy is not None and self.provider_closed and not self.copy_closed

    @property
    def close_reason(self) -> str:
        """Why the copy was closed. A bot reports MANUAL also where it follows the provider's close."""
        provider, copy = self.provider_trade, self.copy
        if not isinstance(copy, TradeHistory):
            return ""
        follows = isinstance(provider, TradeHistory) and provider.closed_at <= copy.closed_at
        return WITH_PROVIDER if follows and copy.reason == Reason.MANUAL else str(copy.get_reason_display())

    @property
    def provider_lots(self) -> Decimal:
        return as_opened(self.provider_trade).opened_volume

    @property
    def copied_lots(self) -> Decimal:
        return sizing.NOTHING if self.copy is None else as_opened(self.copy).opened_volume

    @property
    def copy_known_at(self) -> datetime | None:
        return None if self.copy is None else uuid7.time_of(self.copy.pk)

    @property
    def why_not_text(self) -> str:
        return str(SkipReason(self.why_not).label) if self.why_not else ""


def recent(subscriptions: Sequence[Subscription], *, now: datetime, limit: int = LATEST) -> list[Outcome]:
    """The outcomes of the latest trades of the strategies that these subscriptions follow, newest first.

    Those that `is_shown` keeps from a paused follower are left out. Subscriptions come with account and strategy. The
    number of queries does not depend on how many there are.
    """
    if not subscriptions:
        return []
    strategies = {subscription.strategy_id for subscription in subscriptions}
    since = min(subscription.created_at for subscription in subscriptions)
    pairs = [
        (subscription, trade)
        for trade in latest_provider_trades(strategies, limit, since=since)
        for subscription in subscriptions
        if subscription.strategy_id == trade.strategy_id and _overlaps(subscription, trade)
    ][:limit]
    return [outcome for outcome in _outcomes(pairs, now) if is_shown(outcome)]


def is_shown(outcome: Outcome) -> bool:
    """Whether the follower may see it. While nothing is copied, an open trade is shown only where its copy is open, or
    may be: the others are signals. The snapshot and the stream do the same.
    """
    if outcome.subscription.status == Subscription.Status.ACTIVE or outcome.provider_closed:
        return True
    return outcome.state in ("open", "pending") or outcome.why_not == SkipReason.NOT_REPORTED


def outcome(subscription: Subscription, trade_id: uuid.UUID, *, now: datetime) -> Outcome | None:
    """The outcome of one trade of the strategy; None where there is no such trade, or the follower may not see it."""
    filters = {"pk": trade_id, "strategy": subscription.strategy_id, "master_trade": None}
    trade: Trade | None = ActiveTrade.objects.filter(**filters).first()
    trade = trade or _closed(**filters).first()
    if trade is None or not _overlaps(subscription, trade):
        return None
    (result,) = _outcomes([(subscription, trade)], now)
    return result if is_shown(result) else None


def _closed(**filters: Any) -> "models.QuerySet[TradeHistory]":
    return corrections.with_corrections(TradeHistory.objects.filter(**filters, kind=TradeHistory.Kind.TRADE))


def _overlaps(subscription: Subscription, trade: Trade) -> bool:
    return not isinstance(trade, TradeHistory) or trade.closed_at >= subscription.created_at


def latest_provider_trades(
    strategies: Iterable[int], limit: int, *, since: datetime | None = None, with_open: bool = True
) -> list[Trade]:
    """The latest trades of these strategies, newest first: open ones, and those closed after `since`."""
    filters = {"strategy__in": set(strategies), "master_trade": None}
    closed = _closed(**filters)
    closed = closed if since is None else closed.filter(closed_at__gte=since)
    still_open = ActiveTrade.objects.filter(**filters).order_by("-pk")[: limit if with_open else 0]
    trades: list[Trade] = [*still_open, *closed.order_by("-closed_at", "-pk")[:limit]]
    return sorted(trades, key=attrgetter("pk"), reverse=True)[:limit]


def _outcomes(pairs: Sequence[tuple[Subscription, Trade]], now: datetime) -> list[Outcome]:
    copies, skips = _copies(pairs), _skips(pairs)
    unexplained = [
        (subscription, trade)
        for subscription, trade in pairs
        if (subscription.account_id, trade.pk) not in copies and (subscription.pk, trade.pk) not in skips
    ]
    keys = [(subscription.pk, trade.pk) for subscription, trade in unexplained]
    derived = dict(zip(keys, _derived_reasons(unexplained, now), strict=True))
    outcomes = []
    for subscription, trade in pairs:
        copy, skip = copies.get((subscription.account_id, trade.pk)), skips.get((subscription.pk, trade.pk))
        if copy is not None:
            outcomes.append(Outcome(subscription, trade, copy))
        elif skip is not None:
            outcomes.append(Outcome(subscription, trade, None, skip.reason, skip.detail))
        else:
            outcomes.append(Outcome(subscription, trade, None, derived[subscription.pk, trade.pk]))
    return outcomes


def _copies(pairs: Sequence[tuple[Subscription, Trade]]) -> dict[tuple[int, Any], Trade]:
    """Copies by account and provider's trade. An open copy goes before a closed one of the same trade."""
    if not pairs:
        return {}
    filters = {
        "account__in": {subscription.account_id for subscription, _ in pairs},
        "master_trade__in": [trade.pk for _, trade in pairs],
    }
    since = min(uuid7.time_of(trade.pk) for _, trade in pairs)
    closed = _closed(**filters, closed_at__gte=since).order_by("pk")
    rows: list[Trade] = [*closed, *ActiveTrade.objects.filter(**filters).order_by("pk")]
    return {(row.account_id, row.master_trade): row for row in rows}


def _skips(pairs: Sequence[tuple[Subscription, Trade]]) -> dict[tuple[int, Any], CopySkip]:
    skips = CopySkip.objects.filter(
        subscription__in={subscription.pk for subscription, _ in pairs},
        master_trade__in=[trade.pk for _, trade in pairs],
    )
    return {(skip.subscription_id, skip.master_trade): skip for skip in skips}


def _derived_reasons(pairs: Sequence[tuple[Subscription, Trade]], now: datetime) -> list[str]:
    """Why there is no copy although no reason was reported; empty where the trade may still be copied."""
    if not pairs:
        return []
    since = min(uuid7.time_of(trade.pk) for _, trade in pairs)
    terms = TermsHistory.of([subscription for subscription, _ in pairs], since=since)
    return [_derived_reason(subscription, trade, terms, now) for subscription, trade in pairs]


def _derived_reason(subscription: Subscription, trade: Trade, terms: "TermsHistory", now: datetime) -> str:
    known_at = uuid7.time_of(trade.pk)
    if known_at < subscription.created_at:
        return SkipReason.NEW_INSTALL
    return unreported_reason(trade, terms.settings(subscription, known_at), now)


def unreported_reason(trade: Trade, settings: sizing.Settings, now: datetime) -> str:
    """Why a trade was not copied, derived from these settings; empty where it may still be copied."""
    plan, age = sizing.plan(settings, as_opened(trade)), now - uuid7.time_of(trade.pk)
    if plan.why_not and not (plan.waits and age <= timedelta(milliseconds=sizing.FIRST_STOP_MS)):
        return plan.why_not
    is_late = is_closed(trade) or age > REPORTED_AFTER
    return SkipReason.NOT_REPORTED if is_late else ""


@dataclass(frozen=True, slots=True)
class TermsHistory:
    """The terms of subscriptions over time. `contracts`: units in a lot by symbol, where risk sizes the copies."""

    terms_of: Mapping[int, Sequence[Terms]]
    contracts: Mapping[str, Decimal]

    @classmethod
    def of(cls, subscriptions: Iterable[Subscription], *, since: datetime) -> "TermsHistory":
        """All terms that were in force at `since` or later."""
        first = Terms.objects.filter(subscription=models.OuterRef("subscription"), since__lte=since).order_by("-since")
        pks = {subscription.pk for subscription in subscriptions}
        rows = Terms.objects.filter(subscription__in=pks).annotate(
            first=Coalesce(models.Subquery(first.values("since")[:1]), models.F("since"))
        )
        terms_of: dict[int, list[Terms]] = defaultdict(list)
        for terms in rows.filter(since__gte=models.F("first")).order_by("since", "pk"):
            terms_of[terms.subscription_id].append(terms)
        is_sized_by_risk = any(terms.mode == Terms.Mode.RISK for rows in terms_of.values() for terms in rows)
        return cls(terms_of, contracts() if is_sized_by_risk else {})

    def terms(self, subscription: Subscription, at: datetime) -> Terms:
        rows = self.terms_of[subscription.pk]
        return rows[max(0, bisect.bisect_right(rows, at, key=attrgetter("since")) - 1)]

    def settings(self, subscription: Subscription, at: datetime) -> sizing.Settings:
        terms = self.terms(subscription, at)
        return explanations.settings(terms, currency=subscription.account.currency, contracts=self.contracts)


def contracts() -> dict[str, Decimal]:
    """Units in a lot, by symbol."""
    return dict(Instrument.objects.values_list("symbol", "contract_size"))


# --- the receipt of one copy


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the way from the provider's broker to the copier's. `ms` is None where it was not reported."""

    actor: str
    action: str
    ms: int | None
    counts: bool = True  # in the total, which begins when the desk learned of the trade


@dataclass(frozen=True, slots=True)
class Slippage:
    """How much worse than requested the copy was filled; negative is better. `money` is in the quote `currency`."""

    points: Decimal | None
    bps: Decimal | None
    money: Decimal | None
    currency: str

    @property
    def direction(self) -> str:
        amount = self.points if self.bps is None else self.bps
        return "worse" if amount and amount > 0 else "better" if amount and amount < 0 else "at the requested price"

    @property
    def size(self) -> "Slippage":
        """The same amounts without their sign, to be shown beside the direction."""
        points, bps, money = (None if amount is None else abs(amount) for amount in (self.points, self.bps, self.money))
        return Slippage(points, bps, money, self.currency)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One outcome in full: the size of the copy with its calculation, times, prices, and how it ended."""

    outcome: Outcome
    terms: Terms
    lines: list[explanations.Line]
    order: CopyOrder | None
    stages: list[Stage] = field(default_factory=list)
    slippage: Slippage | None = None

    @property
    def planned_lots(self) -> Decimal | None:
        return self.lines[-1].lots

    @property
    def is_rounded(self) -> bool:
        return self.outcome.copy is not None and self.outcome.copied_lots != self.planned_lots

    @property
    def terms_text(self) -> str:
        return explanations.terms(self.terms)

    @property
    def total_ms(self) -> int | None:
        lengths = [stage.ms for stage in self.stages if stage.counts]
        return None if not lengths or None in lengths else sum(length or 0 for length in lengths)

    @property
    def bars(self) -> list[tuple[float, float]]:
        """Start and length of each stage that counts, in percent of all."""
        lengths = [max(0, stage.ms or 0) for stage in self.stages if stage.counts]
        whole = sum(lengths) or 1
        return [(100 * sum(lengths[:at]) / whole, 100 * length / whole) for at, length in enumerate(lengths)]

    @property
    def close_lag_ms(self) -> int | None:
        """From the provider's close to the copy's; None where the copy is open or was closed first."""
        provider, copy = self.outcome.provider_trade, self.outcome.copy
        if not isinstance(provider, TradeHistory) or not isinstance(copy, TradeHistory):
            return None
        lag = copy.closed_at - provider.closed_at
        return int(lag / timedelta(milliseconds=1)) if lag >= timedelta(0) else None


def receipt(outcome: Outcome) -> Receipt:
    """The copy receipt of an outcome. Without a copy it holds the calculation of the size alone."""
    subscription, known_at = outcome.subscription, outcome.known_at
    terms = TermsHistory.of([subscription], since=known_at)
    order = _order(outcome)
    return Receipt(
        outcome=outcome,
        terms=terms.terms(subscription, known_at),
        lines=explanations.arithmetic(terms.settings(subscription, known_at), as_opened(outcome.provider_trade)),
        order=order,
        stages=_stages(outcome, order),
        slippage=None if order is None else _slippage(order),
    )


def _order(outcome: Outcome) -> CopyOrder | None:
    """The order that opened the copy; without a copy the last that failed."""
    orders = CopyOrder.objects.filter(
        account=outcome.subscription.account_id, master_trade=outcome.provider_trade.pk
    ).order_by("-pk")
    if outcome.copy is None:
        return orders.first()
    executed = orders.filter(status=CopyOrder.Status.EXECUTED)
    return executed.filter(ticket_id=outcome.copy.ticket_id).first() or executed.filter(ticket_id="").first()


def _stages(outcome: Outcome, order: CopyOrder | None) -> list[Stage]:
    known_at = outcome.known_at
    first = Stage(
        "Provider's bot", "until it reported the trade",
        _reported_after_ms(outcome.provider_trade.opened_at, known_at), counts=False,
    )  # fmt: skip
    if order is None:
        return [first]
    return [
        first,
        Stage("Desk and network", "until your copier received the signal", ms(known_at, order.heard_at)),
        Stage("Your copier", "until it sent the order", ms(order.heard_at, order.sent_at)),
        Stage("Your broker", "until the order was filled", ms(order.sent_at, order.filled_at)),
    ]


def _reported_after_ms(opened_at: datetime | None, known_at: datetime) -> int | None:
    """None where the broker's clock, which the desk does not control, gives a time that cannot be."""
    length = ms(opened_at, known_at)
    return length if length is not None and 0 <= length <= 3_600_000 else None


def ms(since: datetime | None, until: datetime | None) -> int | None:
    """Milliseconds between two times; None where one of them was not reported."""
    if since is None or until is None:
        return None
    return round((until - since) / timedelta(milliseconds=1))


def _slippage(order: CopyOrder) -> Slippage | None:
    if order.slippage_bps is None and order.slippage_points is None:
        return None
    instrument = Instrument.objects.filter(symbol=order.symbol).first()
    money = None
    if instrument is not None and order.slippage_points is not None:
        money = order.slippage_points * instrument.point * order.volume * instrument.contract_size
    return Slippage(order.slippage_points, order.slippage_bps, money, order.symbol[3:6])
