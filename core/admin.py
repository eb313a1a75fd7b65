"""Base classes of the desk's admin pages."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.core.paginator import Paginator
from django.forms import Field
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from django.utils.text import capfirst

COUNT_LIMIT = 10_000

admin.site.site_title = "Copydesk"
admin.site.index_title = "Back office"
admin.site.empty_value_display = "–"


class BoundedPaginator(Paginator):
    """Counts rows and offers pages up to a limit: a full count of a large table would exceed the statement timeout."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNT_LIMIT].count())


class NoDeleteAdmin(admin.ModelAdmin):
    """For rows that other rows refer to: they are deactivated or ended, never deleted."""

    show_full_result_count = False
    paginator = BoundedPaginator

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def render_change_form(
        self, request: HttpRequest, context: Any, add: bool = False, change: bool = False, form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:  # fmt: skip
        """Offer one way to save, which leads back to the list."""
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        page = {**buttons, **context, **self.page_context(request, obj)}
        return super().render_change_form(request, page, add, change, form_url, obj)

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """Return what the object's page shows besides its fields."""
        return {}

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Leave out the buttons that open related objects in a popup."""
        field: Field | None = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget.can_add_related = field.widget.can_change_related = field.widget.can_view_related = False
        return field


class ReadOnlyAdmin(NoDeleteAdmin):
    """For rows that nobody changes in the admin, superusers included."""

    change_form_template = "admin/read_only.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
