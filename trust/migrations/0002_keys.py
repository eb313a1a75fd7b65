from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trust", "0001_initial"), ("core", "0001_roles"), ("audit", "0002_append_only")]
    operations = [sql(__file__)]
