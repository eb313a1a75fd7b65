from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("strategies", "0014_paused_for_terms"), ("trades", "0019_reasons")]
    operations = [sql(__file__)]
