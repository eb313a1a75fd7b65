from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    run_before = [("contenttypes", "0001_initial"), ("sessions", "0001_initial")]
    dependencies: list[tuple[str, str]] = []
    operations = [sql(__file__)]
