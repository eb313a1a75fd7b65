from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("strategies", "0010_labels"), ("core", "0002_functions")]
    operations = [sql(__file__)]
