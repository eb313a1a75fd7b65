"""Closed trades with the figures that count: those of the latest correction by staff, or else the bot's own."""

from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from trades.models import TradeCorrection, TradeHistory

_LATEST = TradeCorrection.objects.filter(trade=OuterRef("trade")).order_by("-pk")
_CLOSE_PRICE, _PROFIT = Subquery(_LATEST.values("close_price")[:1]), Subquery(_LATEST.values("profit")[:1])
# For queries that read only the figures that count.
CLOSE_PRICE, PROFIT = Coalesce(_CLOSE_PRICE, F("close_price")), Coalesce(_PROFIT, F("profit"))


def with_corrections(rows: QuerySet[TradeHistory]) -> QuerySet[Any]:
    """Each row annotated with the figures of its latest correction, or None. Its `counted_…` properties need them."""
    return rows.annotate(corrected_close_price=_CLOSE_PRICE, corrected_profit=_PROFIT)
