from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trades", "0002_keys"), ("market", "0001_initial")]
    operations = [sql(__file__, "transitions")]
