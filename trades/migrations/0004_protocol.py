from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trades", "0003_transitions"), ("accounts", "0001_initial")]
    operations = [sql(__file__)]
