"""Amounts for people: without trailing zeros; results with their sign and two decimals."""

from decimal import Decimal
from typing import Any

from django import template

register = template.Library()


@register.filter
def plain(value: Any) -> str:
    if value in (None, ""):
        return "–"
    digits = f"{Decimal(value):f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


@register.filter
def result(value: Decimal) -> str:
    return f"{value:+.2f}"
