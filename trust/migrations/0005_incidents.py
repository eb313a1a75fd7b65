from django.db import migrations

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("trust", "0004_by_hold"), ("audit", "0003_refused_idx"), ("trades", "0005_masters_opened")]
    operations = [sql(__file__, "incidents")]
