from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("strategies", "0014_paused_for_terms"), ("core", "0002_functions")]
    operations = [sql(__file__)]
