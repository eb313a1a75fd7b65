"""Markup for amounts, prices, sides and ids in the admin and on pages."""

from decimal import Decimal
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

from core import money

PRICE = 5  # least number of decimals, so that columns align


def chip(text: str, kind: str = "") -> SafeString:
    return format_html('<span class="chip {}">{}</span>', kind, text)


def side(type_: str | None) -> SafeString:
    """A trade's direction by word, arrow and colour; a tombstone has none."""
    if type_ is None:
        return chip("tombstone")
    return chip(f"{'▲' if type_ == 'BUY' else '▼'} {type_}", type_.lower())


def ref(value: Any) -> SafeString:
    """An id that one click selects as a whole, to copy it."""
    return format_html('<code class="ref">{}</code>', value)


def number(value: Decimal | None, places: int = 0) -> SafeString:
    """A right-aligned amount with at least `places` decimals."""
    return format_html('<span class="number">{}</span>', "–" if value is None else money.plain(value, places))


def amount(value: Decimal | None) -> SafeString:
    """Money or lots, right-aligned."""
    return format_html('<span class="number">{}</span>', "–" if value is None else money.grouped(value))


def signed(value: Decimal | None, note: str = "") -> SafeString:
    """A result with its sign and colour, and a note before it."""
    if value is None:
        return number(None)
    kind, sign = ("pos", "+") if value > 0 else ("neg", "−") if value < 0 else ("", "")
    mark = format_html('<span class="help">{}</span> ', note) if note else ""
    return format_html('<span class="number {}">{}{}{}</span>', kind, mark, sign, money.grouped(abs(value)))
