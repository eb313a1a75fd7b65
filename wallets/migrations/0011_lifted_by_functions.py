from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("wallets", "0010_destinations"), ("core", "0002_functions")]
    operations = [sql(__file__)]
