"""What a subscriber's copies of a strategy have brought, up to a moment of the past that never changes again.

Closes carry the database's own time, and a trade's id (UUID of version 7) says when the desk learned of it: neither can
be told otherwise later. What was open is valued at the last bar before; where there is none, there is no result.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet, Sum

from core import money, uuid7
from market.models import Candle, Instrument
from trades.models import ActiveTrade, TradeHistory, TradeReduction
from wallets import fees
from wallets.models import FeeAgreement

STALE = timedelta(days=4)  # a weekend with a holiday beside it
NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Result:
    """`closed` and `floating` add up to the base of a fee. `unpriced` says what could not be valued, if anything."""

    closed: Decimal
    floating: Decimal
    trades: int
    mark_prices: list[dict[str, str]]
    unpriced: str = ""

    @property
    def cumulative_pnl(self) -> Decimal:
        return self.closed + self.floating


@dataclass(frozen=True, slots=True)
class _Open:
    trade_id: uuid.UUID
    symbol: str
    side: str
    volume: Decimal
    open_price: Decimal


def result(agreement: FeeAgreement, *, at: datetime, mark_prices: list[dict[str, str]] | None = None) -> Result:
    """The cumulative net result at that moment. With `mark_prices`: at the prices that were taken then."""
    closed = closed_trades(agreement, at=at)
    still_open = _open_at(agreement, at)
    parts = TradeReduction.objects.filter(trade_id__in=[trade.trade_id for trade in still_open], closed_at__lte=at)
    booked = _sum(closed, "profit") + _sum(parts, "profit")
    count = closed.count() + len(still_open)
    known = {mark_price["trade"]: Decimal(mark_price["price"]) for mark_price in mark_prices or []}
    valued: list[dict[str, str]] = []
    for trade in still_open:
        price = known.get(str(trade.trade_id)) if mark_prices is not None else _price(trade.symbol, at)
        result_at_price = None if price is None else _floating(trade, price, agreement.currency)
        if price is None or result_at_price is None:
            return Result(booked, NOTHING, count, [], f"no price of {trade.symbol} in {agreement.currency}")
        valued.append(
            {
                "trade": str(trade.trade_id),
                "symbol": trade.symbol,
                "type": trade.side,
                "volume": money.text(trade.volume),
                "open_price": money.text(trade.open_price),
                "price": money.text(price),
                "result": money.text(result_at_price),
            }
        )
    return Result(booked, sum((Decimal(mark_price["result"]) for mark_price in valued), NOTHING), count, valued)


def closed_trades(agreement: FeeAgreement, *, at: datetime) -> QuerySet[TradeHistory]:
    return TradeHistory.objects.filter(**_copies(agreement), kind=TradeHistory.Kind.TRADE, closed_at__lte=at)


def _copies(agreement: FeeAgreement) -> dict[str, Any]:
    return {
        "account__owner": agreement.subscriber_id,
        "account__currency": agreement.currency,
        "strategy": agreement.strategy_id,
        "master_trade__isnull": False,
        "trade_id__gte": uuid7.first_at(agreement.started_at),
    }


def _open_at(agreement: FeeAgreement, at: datetime) -> list[_Open]:
    """What was open then: some of it still is, some has been closed since, and parts may have been closed before."""
    copies = {**_copies(agreement), "trade_id__lt": uuid7.first_at(at)}
    shape = ("trade_id", "symbol", "type", "open_price", "master_trade")
    hot = ActiveTrade.objects.filter(**copies).values_list(*shape, "opened_volume")
    cold = TradeHistory.objects.filter(**copies, kind=TradeHistory.Kind.TRADE, closed_at__gt=at)
    found = [*hot, *cold.values_list(*shape, "volume")]
    parts = TradeReduction.objects.filter(trade_id__in=[row[0] for row in found], closed_at__lte=at)
    gone = dict(parts.values_list("trade_id").annotate(gone=Sum("volume")))
    named = _desk_names({row[4]: str(row[1]) for row in found})
    return [
        _Open(trade_id, named[master], str(side), volume - gone.get(trade_id, NOTHING), open_price)
        for trade_id, _, side, open_price, master, volume in sorted(found)
    ]


def _desk_names(copies: dict[uuid.UUID, str]) -> dict[uuid.UUID, str]:
    """The symbol to value each copy by, by its master's trade: its own, or where the desk knows none, the master's.

    A copier's broker may call XAUUSD "GOLD": the price is that of the one thing.
    """
    known = set(Instrument.objects.filter(symbol__in=copies.values()).values_list("symbol", flat=True))
    strange = [master for master, symbol in copies.items() if symbol not in known]
    homes: tuple[QuerySet[Any], ...] = (ActiveTrade.objects.all(), TradeHistory.objects.all())
    masters = {pk: symbol for home in homes for pk, symbol in home.filter(pk__in=strange).values_list("pk", "symbol")}
    return {master: symbol if symbol in known else masters.get(master) or symbol for master, symbol in copies.items()}


def _price(symbol: str, at: datetime) -> Decimal | None:
    """The close of the last bar that was over then, unless it is stale."""
    bars = Candle.objects.filter(instrument_id=symbol, opened_at__lt=at, opened_at__gt=at - STALE).order_by(
        "-opened_at"
    )
    for bar in bars[:100]:
        if bar.opened_at + timedelta(minutes=bar.minutes) <= at:
            price: Decimal = bar.close
            return price
    return None


def _floating(trade: _Open, price: Decimal, currency: str) -> Decimal | None:
    """In the account's currency; None where the symbol is not known, or is priced in two others."""
    known = Instrument.objects.filter(symbol=trade.symbol).first()
    if known is None or currency not in (trade.symbol[:3], trade.symbol[3:6]):
        return None
    return fees.floating(
        side=trade.side,
        volume=trade.volume,
        open_price=trade.open_price,
        price=price,
        contract_size=known.contract_size,
        inverse=currency == trade.symbol[:3],
    )


def _sum(rows: QuerySet[Any], field: str) -> Decimal:
    found: Decimal | None = rows.aggregate(found=Sum(field))["found"]
    return found or NOTHING
