from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trust", "0006_wording"), ("core", "0002_functions")]
    operations = [sql(__file__)]
