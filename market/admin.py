"""Instruments. (Candles have a composite key, which the admin cannot show.)"""

from django.contrib import admin

from core.admin import NeverDeleted
from market.models import Instrument


@admin.register(Instrument)
class InstrumentAdmin(NeverDeleted):
    list_display = ["symbol", "description", "point", "contract_size"]
    search_fields = ["symbol", "description"]
    ordering = ["symbol"]
