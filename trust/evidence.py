"""What is known of a provider, read for the detector. Only what is proven to be their own is held against them."""

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
from market.models import Candle, Instrument
from strategies.models import Strategy
from trades.models import ActiveTrade, CopyOrder, TradeHistory, TradeReduction
from trust import detector, evidence_types

WINDOW = timedelta(days=365)
EPOCH = datetime.fromtimestamp(0, UTC)
MOST_DEALS, MOST_OTHERS = 5_000, 20_000
MOST_REPORTS = 50_000  # of copiers, before one of each is taken
HOUR = 60  # minutes
ENOUGH = 10  # fewer matches than that are chance


def of_provider(strategy: Strategy, *, now: datetime) -> evidence_types.Evidence:
    """A provider's closed and open trades in one strategy, how they were copied, and the prices around them.

    A strategy has one account, so all its money is of one currency.
    """
    since = now - WINDOW
    mine = {"strategy": strategy, "master_trade": None}
    closed = TradeHistory.objects.filter(
        **mine, kind=TradeHistory.Kind.TRADE, closed_at__gte=since, closed_at__lte=now
    ).order_by("-closed_at", "-trade_id")
    deals = _deals(closed[:MOST_DEALS])[::-1]
    held = list(ActiveTrade.objects.filter(**mine))
    bars = {
        symbol: bars_of(symbol, since, now) for symbol in {one.symbol for one in deals} | {row.symbol for row in held}
    }
    positions = [_position(row, bars[row.symbol], now) for row in held]
    return evidence_types.Evidence(
        deals=deals, positions=positions, fills=_fills(strategy, since, now), copies=_copies(strategy, since, now),
        bars=bars,
        others=_others(strategy.owner_id, deals), worth=worth_of(bars, strategy.account.currency, bars),
        since=since, until=now,
    )  # fmt: skip


def _fills(strategy: Strategy, since: datetime, until: datetime) -> list[evidence_types.Fill]:
    """One for each trade and account, of other people: whoever repeats a report is heard once."""
    executed = CopyOrder.objects.filter(
        strategy=strategy, status=CopyOrder.Status.EXECUTED, reported_at__gte=since, reported_at__lte=until
    )
    known = executed.exclude(account__owner=strategy.owner_id).exclude(symbol="")
    one_each = _one_each(known.order_by("-pk"), "account", "master_ticket")
    fields = ("reported_at", "symbol", "type", "requested_price", "executed_price", "account__owner")
    read: QuerySet[Any, Any] = one_each.order_by("-pk").values_list(*fields)[:MOST_DEALS]
    return [
        evidence_types.Fill(at, symbol, side, asked, got, str(owner)) for at, symbol, side, asked, got, owner in read
    ]


def _copies(strategy: Strategy, since: datetime, until: datetime) -> list[evidence_types.Copy]:
    """One for each trade and account, of other people."""
    closed = TradeHistory.objects.filter(
        strategy=strategy, kind=TradeHistory.Kind.TRADE, closed_at__gte=since, closed_at__lte=until
    )
    known = closed.exclude(master_trade=None).exclude(account__owner=strategy.owner_id)
    one_each = _one_each(known.order_by("-closed_at", "-trade_id"), "account", "master_trade")
    fields = ("master_trade", "type", "volume", "open_price", "average_close", "account__owner")
    lately = one_each.order_by("-closed_at", "-trade_id").annotate(average_close=AVERAGE_CLOSE)
    read: QuerySet[Any, Any] = lately.values_list(*fields)[:MOST_DEALS]
    return [
        evidence_types.Copy(str(master), side, volume, opened, closed, str(owner))
        for master, side, volume, opened, closed, owner in read
    ]


def _one_each(rows: "QuerySet[Any]", *key: str) -> "QuerySet[Any]":
    """Of the rows that come first, one for each key: the first that was told."""
    every: QuerySet[Any] = rows.model.objects.all()
    told = every.filter(pk__in=rows[:MOST_REPORTS].values("pk"))
    return every.filter(pk__in=told.order_by(*key, "pk").distinct(*key).values("pk"))


# Where a trade was closed on average: a part closed early may have won what the rest lost.
_PARTS = TradeReduction.objects.filter(trade=OuterRef("pk")).order_by().values("trade")
_IN_PARTS = _PARTS.annotate(sum=Sum(F("close_price") * F("volume"))).values("sum")
_WHOLE = F("close_price") * F("closed_volume") + Coalesce(Subquery(_IN_PARTS), Value(Decimal(0)))
AVERAGE_CLOSE = Case(
    When(closed_volume=F("volume"), then=F("close_price")),
    default=ExpressionWrapper(_WHOLE / F("volume"), output_field=DecimalField()),
)
_DEAL = ("trade_id", "closed_at", "symbol", "type", "volume", "open_price", "average_close", "profit")


def _deals(rows: "QuerySet[TradeHistory]") -> list[evidence_types.Deal]:
    """Read as tuples: to make a model of each row would take as long as to judge it."""
    read: QuerySet[Any, Any] = rows.annotate(average_close=AVERAGE_CLOSE).values_list(*_DEAL)
    return [
        evidence_types.Deal(
            min(uuid7.time_of(pk), closed_at), closed_at, symbol, side, volume, opened, closed, profit, str(pk)
        )
        for pk, closed_at, symbol, side, volume, opened, closed, profit in read
    ]


def worth_of(
    symbols: Iterable[str], currency: str, bars: Mapping[str, Sequence[evidence_types.Bar]]
) -> dict[str, Decimal]:
    """What a move by one brings for a lot, of the symbols that the desk knows and that are priced in this currency."""
    found = {}
    for symbol, size in Instrument.objects.filter(symbol__in=symbols).values_list("symbol", "contract_size"):
        if symbol[3:6] == currency:
            found[symbol] = size
        elif symbol[:3] == currency and bars[symbol]:
            found[symbol] = size / bars[symbol][-1].close
    return found


def bars_of(symbol: str, since: datetime, until: datetime) -> Sequence[evidence_types.Bar]:
    """The symbol's bars: of those lengths that reach at least half as far as the furthest, that nearest to an hour.

    The process keeps them for as long as none is added. None is shorter than an hour: a year of minutes would be half a
    million.
    """
    since = since.replace(hour=0, minute=0, second=0, microsecond=0)
    kept = Candle.objects.filter(instrument_id=symbol, opened_at__gte=since, opened_at__lte=until)
    lengths = kept.values_list("minutes").annotate(Min("opened_at"), Max("opened_at"), Count("opened_at"))
    series = [(latest - first, minutes, latest, count) for minutes, first, latest, count in lengths]
    if not series:
        return ()
    furthest = max(series)[0]
    far = [one for one in series if 2 * one[0] >= furthest]
    _, minutes, latest, count = min(far, key=lambda one: (abs(math.log(one[1] / HOUR)), one[1]))
    return _bars(symbol, minutes, since, latest, count)


# Shorter bars are gathered to hours.
_BARS = """
    select case when minutes < %(hour)s then date_bin('1 hour', opened_at, 'epoch') else opened_at end as begins,
           (array_agg(open order by opened_at))[1], max(high), min(low), (array_agg(close order by opened_at desc))[1]
      from candles
     where instrument_id = %(symbol)s and minutes = %(minutes)s and opened_at between %(since)s and %(latest)s
     group by begins order by begins"""


@functools.lru_cache(maxsize=16)
def _bars(symbol: str, minutes: int, since: datetime, latest: datetime, count: int) -> Sequence[evidence_types.Bar]:
    asked: dict[str, Any] = {"symbol": symbol, "minutes": minutes, "since": since, "latest": latest, "hour": HOUR}
    with connection.cursor() as cursor:
        cursor.execute(_BARS, asked)
        return tuple(evidence_types.Bar(at, max(minutes, HOUR), *prices) for at, *prices in cursor.fetchall())


def _position(row: ActiveTrade, bars: Sequence[evidence_types.Bar], now: datetime) -> evidence_types.Position:
    price = bars[-1].close if bars and bars[-1].opened_at > now - timedelta(days=4) else None
    floating = None
    if price is not None:
        moved: Decimal = price - row.open_price if row.type == "BUY" else row.open_price - price
        floating = moved * row.volume
    return evidence_types.Position(uuid7.time_of(row.pk), row.symbol, row.type, row.volume, row.open_price, floating)


# Masters' trades of other people that the desk learned of beside one of these. Copies are meant to be alike.
# (The fence, "offset 0", makes it a look into the key of each trade's few seconds; without it the planner would rather
# read all trades of the symbol, for each trade.)
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
    """Other people's trades beside these, the latest where there are too many."""
    if not deals:
        return {}
    found: dict[uuid.UUID, list[evidence_types.Deal]] = {}
    asked: dict[str, Any] = {
        "symbols": [one.symbol for one in deals],
        "first": [uuid7.first_at(one.opened_at - detector.TOGETHER) for one in deals],
        "last": [uuid7.first_at(one.opened_at + detector.TOGETHER) for one in deals],
        "owner": owner_id,
        "most": MOST_OTHERS,
    }
    with connection.cursor() as cursor:
        cursor.execute(_BESIDE, asked)
        owners = dict(cursor.fetchall())
    for one in _deals(TradeHistory.objects.filter(trade_id__in=owners).order_by("trade_id")):
        found.setdefault(owners[uuid.UUID(one.ref)], []).append(one)
    return {str(owner): theirs for owner, theirs in found.items() if len(theirs) >= ENOUGH}
