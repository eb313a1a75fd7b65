"""The calendars that every desk begins with. Listed instruments take the one that their symbol suggests."""

from typing import Any

from django.db import migrations

from market import calendars
from market.symbols import class_of


def add_calendars(apps: Any, schema_editor: Any) -> None:
    calendar_model, holiday_model, instrument_model = (
        apps.get_model("market", name) for name in ("TradingCalendar", "Holiday", "Instrument")
    )
    for name, (zone, sessions) in calendars.SESSIONS.items():
        calendar = calendar_model.objects.create(name=name, zone=zone, sessions=sessions)
        if name in calendars.WITH_HOLIDAYS:
            for date, description in calendars.HOLIDAYS:
                holiday_model.objects.create(calendar=calendar, date=date, is_yearly=True, description=description)
    for instrument in instrument_model.objects.all():
        instrument.asset_class = class_of(instrument.symbol)
        instrument.calendar = calendar_model.objects.filter(
            name=calendars.OF_CLASS.get(instrument.asset_class, "")
        ).first()
        instrument.save(update_fields=["asset_class", "calendar"])


class Migration(migrations.Migration):
    dependencies = [("market", "0005_trading_hours_and_imports")]
    operations = [migrations.RunPython(add_calendars, migrations.RunPython.noop)]
