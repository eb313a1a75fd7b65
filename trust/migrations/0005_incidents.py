from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("trust", "0004_by_hold"), ("audit", "0003_refused_idx"), ("trades", "0005_masters_opened")]
    operations = []  # made functions, which core.functions deploys now
