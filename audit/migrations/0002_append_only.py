from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]
    operations = [sql(__file__)]
