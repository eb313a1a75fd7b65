"""Instruments, each with a summary of its bars. The admin cannot list candles, because their key is composite."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin import AuditedAdmin
from core.formatting import number
from market import services
from market.models import Instrument


@admin.register(Instrument)
class InstrumentAdmin(AuditedAdmin):
    audit_subject = "instrument"
    list_display = ["symbol", "description", "step", "size", "allows_nonpositive_prices"]
    search_fields = ["symbol", "description"]
    ordering = ["symbol"]
    change_form_template = "admin/instrument.html"

    def get_readonly_fields(self, request: HttpRequest, obj: Instrument | None = None) -> list[str]:
        return ["symbol"] if obj else []

    def page_context(self, request: HttpRequest, obj: Instrument | None) -> dict[str, Any]:
        """The table of an existing instrument's stored bars."""
        return {"series": services.series_of(symbol=obj.pk), "most": services.MOST_COUNTED} if obj else {}

    @admin.display(description="point", ordering="point")
    def step(self, instrument: Instrument) -> SafeString:
        return number(instrument.point)

    @admin.display(description="contract size", ordering="contract_size")
    def size(self, instrument: Instrument) -> SafeString:
        return number(instrument.contract_size)
