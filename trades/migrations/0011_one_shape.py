from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trades", "0010_field_names"), ("core", "0002_functions")]
    operations = [sql(__file__)]
