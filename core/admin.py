"""What the desk's admin pages have in common."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString


class NeverDeleted(admin.ModelAdmin):
    """Rows that others point to: deactivated or ended, never deleted."""

    show_full_result_count = False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnly(NeverDeleted):
    """Nobody changes these here, superusers included."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def chip(text: str, kind: str = "") -> SafeString:
    return format_html('<span class="chip {}">{}</span>', kind, text)


def side(type_: str | None) -> SafeString:
    """A trade's direction, told by word, arrow and colour."""
    if type_ is None:
        return chip("tombstone")
    return chip(f"{'▲' if type_ == 'BUY' else '▼'} {type_}", type_.lower())


def number(value: Any) -> SafeString | str:
    """An amount without its trailing zeros, right-aligned."""
    return "" if value is None else format_html('<span class="number">{}</span>', plain(value))


def signed(value: Any) -> SafeString | str:
    """A result with its sign and colour."""
    if value is None:
        return ""
    return format_html(
        '<span class="number {}">{}{}</span>',
        "pos" if value > 0 else "neg" if value < 0 else "",
        "+" if value > 0 else "",
        plain(value),
    )


def plain(value: Any) -> str:
    digits = f"{value:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
