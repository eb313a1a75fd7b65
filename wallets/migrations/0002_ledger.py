from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("wallets", "0001_initial"), ("trades", "0003_transitions")]
    operations = [sql(__file__)]
