from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trades", "0001_initial"), ("audit", "0002_append_only")]
    operations = [sql(__file__)]
