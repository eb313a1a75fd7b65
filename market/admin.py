"""Instruments, each with the bars there are of it: candles have a composite key, which the admin cannot list."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from audit.admin import AuditedAdmin
from core.formatting import number
from market import services
from market.models import Instrument


@admin.register(Instrument)
class InstrumentAdmin(AuditedAdmin):
    audit_subject = "instrument"
    list_display = ["symbol", "description", "step", "size"]
    search_fields = ["symbol", "description"]
    ordering = ["symbol"]
    change_form_template = "admin/instrument.html"

    def get_readonly_fields(self, request: HttpRequest, obj: Instrument | None = None) -> list[str]:
        return ["symbol"] if obj else []

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """With a table of its bars, once it is there to have some."""
        shown = kwargs.get("obj")
        there = {"series": services.series_of(symbol=shown.pk), "most": services.MOST_SHOWN} if shown else {}
        return super().render_change_form(request, {**context, **there}, **kwargs)

    @admin.display(description="point", ordering="point")
    def step(self, instrument: Instrument) -> SafeString:
        return number(instrument.point)

    @admin.display(description="contract size", ordering="contract_size")
    def size(self, instrument: Instrument) -> SafeString:
        return number(instrument.contract_size)
