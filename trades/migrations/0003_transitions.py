from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("trades", "0002_keys"), ("market", "0001_initial")]
    operations = []  # made functions, which core.functions deploys now
