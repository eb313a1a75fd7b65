from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("accounts", "0011_credentials_changed"), ("core", "0002_functions")]
    operations = [sql(__file__)]
