"""The evidence about a provider, read for the detector. Only proven trades of the provider count against them."""

import functools
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import (
    Case,
    Count,
    DecimalField,
    ExpressionWrapper,
    F,
    Max,
    Min,
    OuterRef,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from core import uuid7
from market import profit
from market.models import Candle, Instrument
from strategies.models import Strategy
from trades import corrections
from trades.models import ActiveTrade, CopyOrder, TradeHistory, TradeReduction
from trust import detector, evidence_types

WINDOW = timedelta(days=365)
EPOCH = datetime.fromtimestamp(0, UTC)
MOST_DEALS, MOST_OTHERS = 5_000, 20_000
MOST_REPORTS = 50_000  # of copiers, before one for each trade and account is selected
HOUR = 60  # minutes
MIN_MATCHES = 10  # fewer are chance


def of_provider(strategy: Strategy, *, now: datetime) -> evidence_types.Evidence:
    """Return a provider's closed and open trades in one strategy, their copies, and the prices around them.

    A strategy has one account, and so one currency.
    """
    since = now - WINDOW
    own_trades = {"strategy": strategy, "master_trade": None}
    closed = TradeHistory.objects.filter(
        **own_trades, kind=TradeHistory.Kind.TRADE, closed_at__gte=since, closed_at__lte=now
    ).order_by("-closed_at", "-trade_id")
    deals = _deals(closed[:MOST_DEALS])[::-1]
    active = list(ActiveTrade.objects.filter(**own_trades))
    bars = {
        symbol: bars_of(symbol, since, now)
        for symbol in {deal.symbol for deal in deals} | {row.symbol for row in active}
    }
    positions = [_position(row, bars[row.symbol], now) for row in active]
    return evidence_types.Evidence(
        deals=deals, positions=positions, fills=_fills(strategy, since, now), copies=_copies(strategy, since, now),
        bars=bars,
        others=_others(strategy.owner_id, deals), move_values=move_values(bars, strategy.account.currency, bars),
        since=since, until=now,
    )  # fmt: skip


def _fills(strategy: Strategy, since: datetime, until: datetime) -> list[evidence_types.Fill]:
    """One fill for each trade and account of other people, so that a repeated report counts once."""
    executed = CopyOrder.objects.filter(
        strategy=strategy, status=CopyOrder.Status.EXECUTED, reported_at__gte=since, reported_at__lte=until
    )
    of_others = executed.exclude(account__owner=strategy.owner_id).exclude(symbol="").exclude(requested_price=0)
    one_each = _one_each(of_others.order_by("-pk"), "account", "master_ticket")
    fields = ("reported_at", "symbol", "type", "requested_price", "executed_price", "account__owner")
    rows: QuerySet[Any, Any] = one_each.order_by("-pk").values_list(*fields)[:MOST_DEALS]
    return [
        evidence_types.Fill(at, symbol, side, requested, executed_price, str(owner))
        for at, symbol, side, requested, executed_price, owner in rows
    ]


def _copies(strategy: Strategy, since: datetime, until: datetime) -> list[evidence_types.Copy]:
    """One copy for each trade and account of other people."""
    closed = TradeHistory.objects.filter(
        strategy=strategy, kind=TradeHistory.Kind.TRADE, closed_at__gte=since, closed_at__lte=until
    )
    of_others = closed.exclude(master_trade=None).exclude(account__owner=strategy.owner_id)
    one_each = _one_each(of_others.order_by("-closed_at", "-trade_id"), "account", "master_trade")
    fields = ("master_trade", "type", "volume", "open_price", "average_close", "account__owner")
    latest = one_each.order_by("-closed_at", "-trade_id").annotate(average_close=AVERAGE_CLOSE)
    rows: QuerySet[Any, Any] = latest.values_list(*fields)[:MOST_DEALS]
    return [
        evidence_types.Copy(str(master), side, volume, opened, closed, str(owner))
        for master, side, volume, opened, closed, owner in rows
    ]


def _one_each(rows: "QuerySet[Any]", *key: str) -> "QuerySet[Any]":
    """Of the first MOST_REPORTS rows, the earliest report for each key."""
    table: QuerySet[Any] = rows.model.objects.all()
    reports = table.filter(pk__in=rows[:MOST_REPORTS].values("pk"))
    return table.filter(pk__in=reports.order_by(*key, "pk").distinct(*key).values("pk"))


# The average close price, as corrected: a part closed early may have won what the rest lost.
_PARTS = TradeReduction.objects.filter(trade=OuterRef("pk")).order_by().values("trade")
_IN_PARTS = _PARTS.annotate(sum=Sum(F("close_price") * F("volume"))).values("sum")
_WHOLE = corrections.CLOSE_PRICE * F("closed_volume") + Coalesce(Subquery(_IN_PARTS), Value(Decimal(0)))
AVERAGE_CLOSE = Case(
    When(closed_volume=F("volume"), then=corrections.CLOSE_PRICE),
    default=ExpressionWrapper(_WHOLE / F("volume"), output_field=DecimalField()),
)
_DEAL = ("trade_id", "closed_at", "symbol", "type", "volume", "open_price", "average_close", "profit_that_counts")


def _deals(rows: "QuerySet[TradeHistory]") -> list[evidence_types.Deal]:
    """Rows are read as tuples: creating model instances would take as long as the assessment."""
    tuples: QuerySet[Any, Any] = rows.annotate(
        average_close=AVERAGE_CLOSE, profit_that_counts=corrections.PROFIT
    ).values_list(*_DEAL)
    return [
        evidence_types.Deal(
            min(uuid7.time_of(pk), closed_at), closed_at, symbol, side, volume, opened, closed, profit, str(pk)
        )
        for pk, closed_at, symbol, side, volume, opened, closed, profit in tuples
    ]


def move_values(
    symbols: Iterable[str], currency: str, bars: Mapping[str, Sequence[evidence_types.Bar]]
) -> dict[str, Decimal]:
    """Return the value of a price move of 1 for one lot, by symbol, where the symbol is priced in this currency."""
    values = {}
    for symbol, size in Instrument.objects.filter(symbol__in=symbols).values_list("symbol", "contract_size"):
        price = bars[symbol][-1].close if bars[symbol] else None
        value = profit.value_of_move(symbol=symbol, currency=currency, contract_size=size, price=price)
        if value is not None:
            values[symbol] = value
    return values


def bars_of(symbol: str, since: datetime, until: datetime) -> Sequence[evidence_types.Bar]:
    """Return the symbol's bars of one length: the length nearest to an hour, of those that cover at least half as much
    time as the longest.

    Shorter bars are merged into hours, because a year of minutes is half a million bars. The process caches the bars
    until a new one is added.
    """
    since = since.replace(hour=0, minute=0, second=0, microsecond=0)
    candles = Candle.objects.filter(instrument_id=symbol, opened_at__gte=since, opened_at__lte=until)
    lengths = candles.values_list("minutes").annotate(Min("opened_at"), Max("opened_at"), Count("opened_at"))
    series = [(latest - first, minutes, latest, count) for minutes, first, latest, count in lengths]
    if not series:
        return ()
    longest = max(series)[0]
    candidates = [row for row in series if 2 * row[0] >= longest]
    _, minutes, latest, count = min(candidates, key=lambda row: (abs(math.log(row[1] / HOUR)), row[1]))
    return _bars(symbol, minutes, since, latest, count)


# Bars shorter than an hour are merged into hours.
_BARS = """
    select case when minutes < %(hour)s then date_bin('1 hour', opened_at, 'epoch') else opened_at end as begins,
           (array_agg(open order by opened_at))[1], max(high), min(low), (array_agg(close order by opened_at desc))[1]
      from candles
     where instrument_id = %(symbol)s and minutes = %(minutes)s and opened_at between %(since)s and %(latest)s
     group by begins order by begins"""


@functools.lru_cache(maxsize=16)
def _bars(symbol: str, minutes: int, since: datetime, latest: datetime, count: int) -> Sequence[evidence_types.Bar]:
    params: dict[str, Any] = {"symbol": symbol, "minutes": minutes, "since": since, "latest": latest, "hour": HOUR}
    with connection.cursor() as cursor:
        cursor.execute(_BARS, params)
        return tuple(evidence_types.Bar(at, max(minutes, HOUR), *prices) for at, *prices in cursor.fetchall())


def _position(row: ActiveTrade, bars: Sequence[evidence_types.Bar], now: datetime) -> evidence_types.Position:
    price = bars[-1].close if bars and bars[-1].opened_at > now - timedelta(days=4) else None
    floating = None
    if price is not None:
        move: Decimal = price - row.open_price if row.type == "BUY" else row.open_price - price
        floating = move * row.volume
    return evidence_types.Position(uuid7.time_of(row.pk), row.symbol, row.type, row.volume, row.open_price, floating)


# Trades of other providers that the desk learned of within seconds of one of these. Copies are excluded, because they
# are meant to be alike. ("offset 0" is an optimisation fence: with it the planner reads the few seconds around each
# trade by the key; without it, it reads all trades of the symbol for each trade.)
_BESIDE = """
    select distinct beside.trade_id, beside.owner_id
      from unnest(%(symbols)s::text[], %(first)s::uuid[], %(last)s::uuid[]) mine (symbol, first, last)
     cross join lateral (
       select h.trade_id, o.owner_id
         from (select * from trade_history where trade_id between mine.first and mine.last offset 0) h
         join trading_accounts o on o.id = h.account_id and o.owner_id <> %(owner)s
        where h.symbol = mine.symbol and h.master_trade is null and h.kind = 'TRADE'
        order by h.trade_id desc limit 500) beside
     order by beside.trade_id desc limit %(most)s"""


def _others(owner_id: uuid.UUID, deals: Sequence[evidence_types.Deal]) -> dict[str, list[evidence_types.Deal]]:
    """Other people's trades at the same times as these, by owner; the latest where there are too many."""
    if not deals:
        return {}
    by_owner: dict[uuid.UUID, list[evidence_types.Deal]] = {}
    params: dict[str, Any] = {
        "symbols": [deal.symbol for deal in deals],
        "first": [uuid7.first_at(deal.opened_at - detector.TOGETHER) for deal in deals],
        "last": [uuid7.first_at(deal.opened_at + detector.TOGETHER) for deal in deals],
        "owner": owner_id,
        "most": MOST_OTHERS,
    }
    with connection.cursor() as cursor:
        cursor.execute(_BESIDE, params)
        owners = dict(cursor.fetchall())
    for deal in _deals(TradeHistory.objects.filter(trade_id__in=owners).order_by("trade_id")):
        by_owner.setdefault(owners[uuid.UUID(deal.ref)], []).append(deal)
    return {str(owner): deals_beside for owner, deals_beside in by_owner.items() if len(deals_beside) >= MIN_MATCHES}
