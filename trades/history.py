"""The trade history for people: filtered, in pages, as rows or CSV."""

from datetime import UTC, datetime
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django_filters.fields import IsoDateTimeField

from accounts.models import User
from core import money, paging, responses
from core.errors import Invalid
from trades import corrections
from trades.models import Reason, Side, TradeHistory


class _MomentField(IsoDateTimeField):
    """Converted to UTC, because PostgreSQL refuses offsets of 16 hours or more."""

    def clean(self, value: Any) -> datetime | None:
        moment: datetime | None = super().clean(value)
        try:
            return None if moment is None else moment.astimezone(UTC)
        except OverflowError:
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None


class _MomentFilter(django_filters.IsoDateTimeFilter):
    field_class = _MomentField


class Filter(django_filters.FilterSet):
    """The filters of the route. An invalid value is a fault of its field."""

    symbol = django_filters.CharFilter()
    account = django_filters.CharFilter(field_name="account__name")
    strategy = django_filters.CharFilter(field_name="strategy__name")
    type = django_filters.ChoiceFilter(choices=Side.choices)
    reason = django_filters.ChoiceFilter(choices=Reason.choices)
    closed_after = _MomentFilter(field_name="closed_at", lookup_expr="gte")
    closed_before = _MomentFilter(field_name="closed_at", lookup_expr="lt")

    class Meta:
        model = TradeHistory
        fields: list[str] = []


def own(user: User) -> QuerySet[TradeHistory]:
    """The closed trades of the user's own accounts, newest first, without tombstones."""
    return (
        corrections.with_corrections(TradeHistory.objects.filter(account__owner=user, kind=TradeHistory.Kind.TRADE))
        .select_related("account", "strategy")
        .order_by("-closed_at", "-trade_id")
    )


_PAGING = {"cursor", "limit", "format"}


def filtered(request: HttpRequest, rows: QuerySet[TradeHistory]) -> QuerySet[TradeHistory]:
    unknown = set(request.GET) - set(Filter.base_filters) - _PAGING
    if unknown:
        raise Invalid({name[:64]: ["is not a filter of this list"] for name in sorted(unknown)})
    filters = Filter(request.GET, queryset=rows)
    if not filters.is_valid():
        raise Invalid({name: [str(fault) for fault in faults] for name, faults in filters.errors.items()})
    filtered_rows: QuerySet[TradeHistory] = filters.qs
    return filtered_rows


def after(cursor: paging.Cursor, rows: QuerySet[TradeHistory]) -> QuerySet[TradeHistory]:
    older = Q(closed_at__lt=cursor.at) | Q(closed_at=cursor.at, trade_id__lt=cursor.id)
    return rows.filter(older, closed_at__lte=cursor.at)


def row(closed: Any) -> dict[str, Any]:
    """One closed trade with its corrections, as the API and the CSV file show it."""

    def text(value: Any) -> str | None:
        return None if value is None else money.text(value)

    def iso(value: Any) -> str | None:
        return None if value is None else responses.iso(value)

    return {
        "trade_id": str(closed.trade_id),
        "account": closed.account.name,
        "strategy": closed.strategy.name if closed.strategy else None,
        "role": "copy" if closed.is_copy else "master",
        "ticket_id": closed.ticket_id,
        "master_ticket": closed.master_ticket,
        "symbol": closed.symbol,
        "type": closed.type,
        "volume": text(closed.volume),
        "open_price": text(closed.open_price),
        "close_price": text(closed.close_price),
        "sl": text(closed.sl),
        "tp": text(closed.tp),
        "profit": text(closed.profit),
        "corrected_close_price": text(closed.corrected_close_price),
        "corrected_profit": text(closed.corrected_profit),
        "reason": closed.reason,
        "opened_at": iso(closed.opened_at),
        "closed_at": iso(closed.closed_at),
    }


COLUMNS = (
    "closed_at", "opened_at", "account", "strategy", "role", "ticket_id", "master_ticket", "symbol", "type", "volume",
    "open_price", "close_price", "sl", "tp", "profit", "reason", "trade_id", "corrected_close_price",
    "corrected_profit",
)  # fmt: skip


def csv_response(rows: QuerySet[TradeHistory]) -> StreamingHttpResponse:
    figures = corrections.with_corrections(rows).iterator(chunk_size=500)
    return responses.csv_response("history.csv", COLUMNS, map(row, figures))
