from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trades", "0009_history_opened_sl"), ("core", "0002_functions")]
    operations = [sql(__file__)]
