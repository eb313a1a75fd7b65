from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("strategies", "0006_terms_since"),
        ("trades", "0007_masters_by_id"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="tradehistory",
            index=models.Index(
                condition=models.Q(("master_trade__isnull", False)),
                fields=["account", "master_trade"],
                name="history_copies_idx",
            ),
        ),
    ]
