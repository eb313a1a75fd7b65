from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("core", "0001_roles")]
    operations = [sql(__file__)]
