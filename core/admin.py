"""What the desk's admin pages have in common."""

from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.core.paginator import Paginator
from django.forms import Field
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

COUNTED = 10_000
LOTS, MONEY, PRICE = 2, 2, 5  # decimals that are always shown, so that a column lines up

admin.site.site_title = "Copydesk"
admin.site.index_title = "Back office"
admin.site.empty_value_display = "–"


class Bounded(Paginator):
    """Counts and turns pages up to a limit: to count a large table in full would outlast the statement's time-out."""

    @cached_property
    def count(self) -> int:
        found: Any = self.object_list
        return int(found.order_by()[:COUNTED].count())


class NeverDeleted(admin.ModelAdmin):
    """Rows that others point to: deactivated or ended, never deleted."""

    show_full_result_count = False
    paginator = Bounded

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """Saving leads back to the list; nothing here is entered by the dozen."""
        one_way = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, {**one_way, **context}, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Without the buttons that open other objects in a window of their own."""
        field: Field | None = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget.can_add_related = field.widget.can_change_related = field.widget.can_view_related = False
        return field


class ReadOnly(NeverDeleted):
    """Nobody changes these here, superusers included."""

    change_form_template = "admin/read_only.html"

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


def ref(value: Any) -> SafeString:
    """An id to copy: one click marks all of it."""
    return format_html('<code class="ref">{}</code>', value)


def number(value: Decimal | None, places: int = 0) -> SafeString:
    """An amount with at least so many decimals, right-aligned."""
    return format_html('<span class="number">{}</span>', "–" if value is None else plain(value, places))


def signed(value: Decimal | None) -> SafeString:
    """A result with its sign and colour."""
    if value is None:
        return number(None)
    kind, sign = ("pos", "+") if value > 0 else ("neg", "−") if value < 0 else ("", "")
    return format_html('<span class="number {}">{}{}</span>', kind, sign, plain(abs(value), MONEY))


def plain(value: Decimal, places: int = 0) -> str:
    """Without trailing zeros, but for those that the places ask for."""
    whole, _, digits = f"{value:f}".partition(".")
    digits = digits.rstrip("0").ljust(places, "0")
    return f"{whole}.{digits}" if digits else whole
