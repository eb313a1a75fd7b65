from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("wallets", "0003_field_names"), ("core", "0002_functions")]
    operations = [sql(__file__)]
