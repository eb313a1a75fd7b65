"""Amounts and times for people. What the page's script shows later is spelled the same way (static/js/desk.js)."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template

from core import formatting, money

register = template.Library()


@register.filter
def plain(value: Any, places: int = 0) -> str:
    """Without trailing zeros, but for those that the places ask for."""
    return "–" if value in (None, "") else money.plain(Decimal(value), places)


register.filter("side", formatting.side)


@register.filter
def of(places: dict[str, int], symbol: str) -> int:
    """The decimals of a symbol's prices: `price|plain:digits`, with `places|of:symbol as digits`."""
    return places.get(symbol, 0)


@register.filter
def as_json(value: Any) -> str:
    """For an attribute that the page's script reads."""
    return json.dumps(value)


@register.filter
def result(value: Decimal) -> str:
    """Money with two decimals and its sign; nothing is neither won nor lost."""
    cents = round(value, 2)
    return f"{'+' if cents > 0 else '−' if cents < 0 else ''}{abs(cents):.2f}"


@register.filter
def change(value: Decimal) -> str:
    """Money to its last digit, with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{money.plain(abs(value), 2)}"


@register.filter
def tone(value: Decimal) -> str:
    """The class of a result's colour."""
    cents = round(value, 2)
    return "pos" if cents > 0 else "neg" if cents < 0 else ""


@register.filter
def ago(then: datetime, now: datetime) -> str:
    minutes = int((now - then).total_seconds() // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    if minutes < 24 * 60:
        return f"{minutes // 60} h ago"
    return f"{minutes // (24 * 60)} d ago"


@register.filter
def moment(then: datetime, now: datetime) -> str:
    """The time of day; before today with the day."""
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then.day} {then:%b %H:%M}"
