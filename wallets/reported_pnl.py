"""The P/L of copies from the profits that copiers' bots reported: how periods were settled before 0.2.0.

Only for the recalculation of those periods, with the mark prices that are stored with them (`Settlement.rule`).
"""

import uuid
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet, Sum

from core import uuid7
from market import profit
from market.models import Instrument
from trades.models import ActiveTrade, TradeCorrection, TradeHistory, TradeReduction
from wallets import copied_trades
from wallets.models import Settlement

ZERO = Decimal(0)


def again(settlement: Settlement) -> tuple[Decimal, Decimal, int]:
    """Realised and floating P/L at the end of the period, and the number of trades."""
    agreement, at = settlement.agreement, settlement.ends_at
    copies = copied_trades.copies_of(agreement)
    closed = TradeHistory.objects.filter(**copies, kind=TradeHistory.Kind.TRADE, closed_at__lte=at)
    still_open = _open_at(copies, settlement)
    parts = TradeReduction.objects.filter(trade_id__in=[row[0] for row in still_open], closed_at__lte=at)
    corrected = TradeCorrection.objects.filter(pk__in=settlement.corrections, trade_id__in=closed.values("trade_id"))
    changed = sum((row.profit - row.profit_before for row in corrected), ZERO)
    realised = _sum(closed, "profit") + _sum(parts, "profit") + changed
    closed_volumes = dict(parts.values_list("trade_id").annotate(closed_volume=Sum("volume")))
    stored = {mark_price["trade"]: mark_price for mark_price in settlement.mark_prices}
    floating = sum(
        (
            _floating(side, volume - closed_volumes.get(pk, ZERO), open_price, stored[str(pk)], agreement.currency)
            for pk, side, open_price, volume in still_open
            if str(pk) in stored
        ),
        ZERO,
    )
    return realised, floating, closed.count() + len(still_open)


def _open_at(copies: dict[str, Any], settlement: Settlement) -> list[tuple[uuid.UUID, str, Decimal, Decimal]]:
    """The copies open at the end of the period; some have been closed since. (id, side, open price, opened lots)"""
    early = {**copies, "trade_id__lt": uuid7.first_at(settlement.ends_at)}
    columns = ("trade_id", "type", "open_price")
    hot = ActiveTrade.objects.filter(**early).values_list(*columns, "opened_volume")
    cold = TradeHistory.objects.filter(**early, kind=TradeHistory.Kind.TRADE, closed_at__gt=settlement.ends_at)
    return sorted([*hot, *cold.values_list(*columns, "volume")])


def _floating(side: str, volume: Decimal, open_price: Decimal, mark: dict[str, str], currency: str) -> Decimal:
    """The first periods stored no contract size: they used the desk's."""
    size = Decimal(mark["contract_size"]) if "contract_size" in mark else _listed_size(mark["symbol"])
    result = profit.profit(
        symbol=mark["symbol"], currency=currency, side=side, volume=volume, open_price=open_price,
        price=Decimal(mark["price"]), contract_size=size,
    )  # fmt: skip
    return result or ZERO


def _listed_size(symbol: str) -> Decimal:
    listed = Instrument.objects.filter(symbol=symbol).values_list("contract_size", flat=True).first()
    return listed or ZERO


def _sum(rows: QuerySet[Any], field: str) -> Decimal:
    total: Decimal | None = rows.aggregate(total=Sum(field))["total"]
    return total or ZERO
