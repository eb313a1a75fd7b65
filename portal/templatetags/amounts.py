"""Amounts and times for people. static/js/desk.js formats what it adds to the page in the same way."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template

from core import formatting, money

register = template.Library()


@register.filter
def plain(value: Any, places: int = 0) -> str:
    """Without trailing zeros, but with at least `places` decimals."""
    return "–" if value in (None, "") else money.plain(Decimal(value), places)


@register.filter
def amount(value: Any) -> str:
    """Money or lots, with at least two decimals and separated thousands."""
    return "–" if value in (None, "") else money.grouped(Decimal(value))


register.filter("side", formatting.side)


@register.filter
def of(decimals: dict[str, int], symbol: str) -> int:
    """The decimals of a symbol's prices: `price|plain:digits`, with `decimals|of:symbol as digits`."""
    return decimals.get(symbol, 0)


@register.filter
def fees(terms: Any, currency: str) -> str:
    """Fee terms in one phrase; None: no fees."""
    if terms is None or terms.is_free:
        return "no fees"
    rate = f"{money.plain(terms.percent)} % of new profit" if terms.performance_bps else ""
    amount = f"{money.grouped(terms.subscription_fee)} {currency}".rstrip()
    monthly = f"{amount} a month" if terms.subscription_fee else ""
    return " and ".join(filter(None, (rate, monthly)))


@register.filter
def as_json(value: Any) -> str:
    """For a data attribute that the page's script reads."""
    return json.dumps(value)


@register.filter
def result(value: Decimal) -> str:
    """Money with two decimals and its sign; zero has no sign."""
    cents = round(value, 2)
    return f"{'+' if cents > 0 else '−' if cents < 0 else ''}{abs(cents):,.2f}"


@register.filter
def change(value: Decimal) -> str:
    """Money with all its digits and its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{money.grouped(abs(value))}"


@register.filter
def tone(value: Decimal) -> str:
    """The CSS class for the colour of a result."""
    cents = round(value, 2)
    return "pos" if cents > 0 else "neg" if cents < 0 else ""


@register.filter
def ago(moment: datetime, now: datetime) -> str:
    minutes = int((now - moment).total_seconds() // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    if minutes < 24 * 60:
        return f"{minutes // 60} h ago"
    return f"{minutes // (24 * 60)} d ago"


@register.filter
def moment(time: datetime, now: datetime) -> str:
    """The time of day, with the date unless it is today."""
    return f"{time:%H:%M:%S}" if time.date() == now.date() else f"{time.day} {time:%b %H:%M}"
