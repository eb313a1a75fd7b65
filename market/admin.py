"""Instruments. (Candles have a composite key, which the admin cannot show.)"""

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin import Told
from core.admin import number
from market.models import Instrument


@admin.register(Instrument)
class InstrumentAdmin(Told):
    told_as = "instrument"
    list_display = ["symbol", "description", "step", "size"]
    search_fields = ["symbol", "description"]
    ordering = ["symbol"]

    def get_readonly_fields(self, request: HttpRequest, obj: Instrument | None = None) -> list[str]:
        return ["symbol"] if obj else []

    @admin.display(description="point", ordering="point")
    def step(self, instrument: Instrument) -> SafeString:
        return number(instrument.point)

    @admin.display(description="contract size", ordering="contract_size")
    def size(self, instrument: Instrument) -> SafeString:
        return number(instrument.contract_size)
