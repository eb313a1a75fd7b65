from django.db import migrations

import core.fields
from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [("strategies", "0012_facts"), ("core", "0002_functions")]
    operations = [
        migrations.AlterField(
            model_name="terms",
            name="max_volume",
            field=core.fields.amount(
                "largest volume",
                null=True,
                blank=True,
                help_text="In lots. Larger copies are reduced to it. Empty: 100, or what the other settings ask for.",
            ),
        ),
        sql(__file__),
    ]
