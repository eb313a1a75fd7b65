"""What became of a master's trade in a subscription: its copy and how that came about, or why there is none."""

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
from trades.models import ActiveTrade, CopyOrder, CopySkip, SkipReason, TradeHistory

LATEST = 40
REPORTED_AFTER = timedelta(seconds=60)  # by then a copier that runs has copied it or said why not

Trade = ActiveTrade | TradeHistory


def is_closed(trade: Trade) -> bool:
    return isinstance(trade, TradeHistory)


def provider_trade(trade: Trade) -> sizing.ProviderTrade:
    """The trade as it was opened."""
    opened = trade.volume if isinstance(trade, TradeHistory) else trade.opened_volume
    return sizing.ProviderTrade(
        symbol=trade.symbol or "",
        type=trade.type or "",
        opened_volume=opened or sizing.NOTHING,
        volume=opened or sizing.NOTHING,
        open_price=trade.open_price or sizing.NOTHING,
        opened_sl=trade.opened_sl,
        sl=trade.sl,
        tp=trade.tp,
    )


# --- what became of each trade


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one master's trade in one subscription. Neither a copy nor `why_not`: it may still be copied."""

    subscription: Subscription
    master: Trade
    copy: Trade | None
    why_not: str = ""
    detail: str = ""

    @property
    def born(self) -> datetime:
        return uuid7.time_of(self.master.pk)

    @property
    def state(self) -> str:
        if self.copy is not None:
            return "owed" if self.is_overdue else "closed" if self.copy_closed else "open"
        return "not copied" if self.why_not else "pending"

    @property
    def master_closed(self) -> bool:
        return is_closed(self.master)

    @property
    def copy_closed(self) -> bool:
        return self.copy is not None and is_closed(self.copy)

    @property
    def is_overdue(self) -> bool:
        return self.copy is not None and self.master_closed and not self.copy_closed

    @property
    def opened_lots(self) -> Decimal:
        return provider_trade(self.master).opened_volume

    @property
    def copied_lots(self) -> Decimal:
        return sizing.NOTHING if self.copy is None else provider_trade(self.copy).opened_volume

    @property
    def copy_born(self) -> datetime | None:
        return None if self.copy is None else uuid7.time_of(self.copy.pk)

    @property
    def says(self) -> str:
        return str(SkipReason(self.why_not).label) if self.why_not else ""


def recent(subscriptions: Sequence[Subscription], *, now: datetime, limit: int = LATEST) -> list[Outcome]:
    """What became of the latest trades of the strategies that these subscriptions follow, the newest first.

    Subscriptions come with account and strategy. As many queries for many as for one.
    """
    if not subscriptions:
        return []
    followed = {one.strategy_id for one in subscriptions}
    masters = latest_masters(followed, limit, since=min(one.created_at for one in subscriptions))
    pairs = [
        (one, master)
        for master in masters
        for one in subscriptions
        if one.strategy_id == master.strategy_id and _was_there(one, master)
    ][:limit]
    return _outcomes(pairs, now)


def outcome(subscription: Subscription, trade_id: uuid.UUID, *, now: datetime) -> Outcome | None:
    """What became of one trade of the strategy; None where there is no such trade."""
    whose = {"pk": trade_id, "strategy": subscription.strategy_id, "master_trade": None}
    found: Trade | None = ActiveTrade.objects.filter(**whose).first()
    found = found or TradeHistory.objects.filter(**whose, kind=TradeHistory.Kind.TRADE).first()
    return _outcomes([(subscription, found)], now)[0] if found and _was_there(subscription, found) else None


def _was_there(subscription: Subscription, master: Trade) -> bool:
    return not isinstance(master, TradeHistory) or master.closed_at >= subscription.created_at


def latest_masters(strategies: Iterable[int], limit: int, *, since: datetime | None = None) -> list[Trade]:
    """The latest trades of these strategies, the newest first: those that are open, and those closed since."""
    whose = {"strategy__in": set(strategies), "master_trade": None}
    closed = TradeHistory.objects.filter(**whose, kind=TradeHistory.Kind.TRADE)
    closed = closed if since is None else closed.filter(closed_at__gte=since)
    still_open = ActiveTrade.objects.filter(**whose).order_by("-pk")[:limit]
    found: list[Trade] = [*still_open, *closed.order_by("-closed_at", "-pk")[:limit]]
    return sorted(found, key=attrgetter("pk"), reverse=True)[:limit]


def _outcomes(pairs: Sequence[tuple[Subscription, Trade]], now: datetime) -> list[Outcome]:
    copies, skips = _copies(pairs), _skips(pairs)
    unexplained = [
        (one, master)
        for one, master in pairs
        if (one.account_id, master.pk) not in copies and (one.pk, master.pk) not in skips
    ]
    derived = dict(zip(((one.pk, master.pk) for one, master in unexplained), _derived(unexplained, now), strict=True))
    found = []
    for one, master in pairs:
        copy, skip = copies.get((one.account_id, master.pk)), skips.get((one.pk, master.pk))
        if copy is not None:
            found.append(Outcome(one, master, copy))
        elif skip is not None:
            found.append(Outcome(one, master, None, skip.reason, skip.detail))
        else:
            found.append(Outcome(one, master, None, derived[one.pk, master.pk]))
    return found


def _copies(pairs: Sequence[tuple[Subscription, Trade]]) -> dict[tuple[int, Any], Trade]:
    """By account and master's trade. One that is open hides one that is closed."""
    if not pairs:
        return {}
    whose = {
        "account__in": {one.account_id for one, _ in pairs},
        "master_trade__in": [master.pk for _, master in pairs],
    }
    since = min(uuid7.time_of(master.pk) for _, master in pairs)
    closed = TradeHistory.objects.filter(**whose, closed_at__gte=since).order_by("pk")
    rows: list[Trade] = [*closed, *ActiveTrade.objects.filter(**whose).order_by("pk")]
    return {(row.account_id, row.master_trade): row for row in rows}


def _skips(pairs: Sequence[tuple[Subscription, Trade]]) -> dict[tuple[int, Any], CopySkip]:
    told = CopySkip.objects.filter(
        subscription__in={one.pk for one, _ in pairs}, master_trade__in=[master.pk for _, master in pairs]
    )
    return {(skip.subscription_id, skip.master_trade): skip for skip in told}


def _derived(pairs: Sequence[tuple[Subscription, Trade]], now: datetime) -> list[str]:
    """Why there is no copy though nobody said so; nothing where there may still be one."""
    if not pairs:
        return []
    book = Book.of([one for one, _ in pairs], since=min(uuid7.time_of(master.pk) for _, master in pairs))
    return [_why_not(one, master, book, now) for one, master in pairs]


def _why_not(subscription: Subscription, master: Trade, book: "Book", now: datetime) -> str:
    if uuid7.time_of(master.pk) < subscription.created_at:
        return SkipReason.NEW_INSTALL
    return nobody_said(master, book.settings(subscription, uuid7.time_of(master.pk)), now)


def nobody_said(master: Trade, settings: sizing.Settings, now: datetime) -> str:
    """Why a trade was not copied under these settings, for all the desk knows; nothing where it may be yet."""
    why_not = sizing.plan(settings, provider_trade(master)).why_not
    if why_not:
        return why_not
    is_late = is_closed(master) or now - uuid7.time_of(master.pk) > REPORTED_AFTER
    return SkipReason.NOT_REPORTED if is_late else ""


@dataclass(frozen=True, slots=True)
class Book:
    """The terms that subscriptions had, and since when."""

    kept: Mapping[int, Sequence[Terms]]
    contracts: Mapping[str, Decimal]

    @classmethod
    def of(cls, subscriptions: Iterable[Subscription], *, since: datetime) -> "Book":
        """All that held at that time or later."""
        first = Terms.objects.filter(subscription=models.OuterRef("subscription"), since__lte=since).order_by("-since")
        rows = Terms.objects.filter(subscription__in={one.pk for one in subscriptions}).annotate(
            first=Coalesce(models.Subquery(first.values("since")[:1]), models.F("since"))
        )
        kept: dict[int, list[Terms]] = defaultdict(list)
        for terms in rows.filter(since__gte=models.F("first")).order_by("since", "pk"):
            kept[terms.subscription_id].append(terms)
        is_sized_by_risk = any(terms.mode == Terms.Mode.RISK for rows in kept.values() for terms in rows)
        return cls(kept, contracts() if is_sized_by_risk else {})

    def terms(self, subscription: Subscription, at: datetime) -> Terms:
        rows = self.kept[subscription.pk]
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
    """One part of the way from the master's broker to the copier's. `ms`: none where nobody told."""

    who: str
    what: str
    ms: int | None
    counts: bool = True  # to the desk's own latency: before the desk knew, it could do nothing


@dataclass(frozen=True, slots=True)
class Slippage:
    """How much worse than asked the copy was filled; negative is better. `money` is in the quoted `currency`."""

    points: Decimal | None
    bps: Decimal | None
    money: Decimal | None
    currency: str

    @property
    def word(self) -> str:
        told = self.points if self.bps is None else self.bps
        return "worse" if told and told > 0 else "better" if told and told < 0 else "neither worse nor better"

    @property
    def size(self) -> "Slippage":
        """The same without its sign, for beside the word."""
        points, bps, money = (None if one is None else abs(one) for one in (self.points, self.bps, self.money))
        return Slippage(points, bps, money, self.currency)


@dataclass(frozen=True, slots=True)
class Receipt:
    """All that is known of one copy: what it had to be and why, when, at which price, and how it ended."""

    outcome: Outcome
    terms: Terms
    lines: list[explanations.Line]
    order: CopyOrder | None
    stages: list[Stage] = field(default_factory=list)
    slippage: Slippage | None = None

    @property
    def planned(self) -> Decimal | None:
        return self.lines[-1].lots

    @property
    def is_rounded(self) -> bool:
        return self.outcome.copy is not None and self.outcome.copied_lots != self.planned

    @property
    def says(self) -> str:
        return explanations.terms(self.terms)

    @property
    def total_ms(self) -> int | None:
        known = [stage.ms for stage in self.stages if stage.counts]
        return None if not known or None in known else sum(ms or 0 for ms in known)

    @property
    def bars(self) -> list[tuple[float, float]]:
        """Of the stages that count: where each begins and how long it is, in hundredths of all."""
        lengths = [max(0, stage.ms or 0) for stage in self.stages if stage.counts]
        whole = sum(lengths) or 1
        return [(100 * sum(lengths[:at]) / whole, 100 * length / whole) for at, length in enumerate(lengths)]

    @property
    def close_lag_ms(self) -> int | None:
        """From the master's close to the copy's; none where the copy is open or was closed first."""
        master, copy = self.outcome.master, self.outcome.copy
        if not isinstance(master, TradeHistory) or not isinstance(copy, TradeHistory):
            return None
        lag = copy.closed_at - master.closed_at
        return int(lag / timedelta(milliseconds=1)) if lag >= timedelta(0) else None


def receipt(found: Outcome) -> Receipt:
    """The copy receipt of an outcome. Where nothing was copied: the arithmetic alone."""
    one = found.subscription
    book = Book.of([one], since=found.born)
    order = _order(found)
    return Receipt(
        outcome=found,
        terms=book.terms(one, found.born),
        lines=explanations.arithmetic(book.settings(one, found.born), provider_trade(found.master)),
        order=order,
        stages=_stages(found, order),
        slippage=None if order is None else _slippage(order),
    )


def _order(found: Outcome) -> CopyOrder | None:
    """The order that opened the copy; without a copy the last that failed."""
    whose = CopyOrder.objects.filter(account=found.subscription.account_id, master_trade=found.master.pk).order_by(
        "-pk"
    )
    if found.copy is None:
        return whose.first()
    executed = whose.filter(status=CopyOrder.Status.EXECUTED)
    return executed.filter(ticket_id=found.copy.ticket_id).first() or executed.filter(ticket_id="").first()


def _stages(found: Outcome, order: CopyOrder | None) -> list[Stage]:
    opened_at = found.master.opened_at
    first = Stage(
        "The master's bot", "from its fill until the desk knew", _reported_after_ms(opened_at, found.born), counts=False
    )
    if order is None:
        return [first]
    return [
        first,
        Stage("Desk and network", "until your copier heard of it", ms(found.born, order.heard_at)),
        Stage("Your copier", "until it sent the order", ms(order.heard_at, order.sent_at)),
        Stage("Your broker", "until the order was filled", ms(order.sent_at, order.filled_at)),
    ]


def _reported_after_ms(opened_at: datetime | None, known_at: datetime) -> int | None:
    """The broker's clock is another: what it cannot mean is not shown."""
    length = ms(opened_at, known_at)
    return length if length is not None and 0 <= length <= 3_600_000 else None


def ms(since: datetime | None, until: datetime | None) -> int | None:
    """Milliseconds between two times; none where one of them was not told."""
    if since is None or until is None:
        return None
    return round((until - since) / timedelta(milliseconds=1))


def _slippage(order: CopyOrder) -> Slippage | None:
    if order.slippage_bps is None and order.slippage_points is None:
        return None
    known = Instrument.objects.filter(symbol=order.symbol).first()
    money = None
    if known is not None and order.slippage_points is not None:
        money = order.slippage_points * known.point * order.volume * known.contract_size
    return Slippage(order.slippage_points, order.slippage_bps, money, order.symbol[3:6])
