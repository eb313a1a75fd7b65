from django.db import migrations, models


class Migration(migrations.Migration):
    """A name in Python alone: the column keeps its own."""

    dependencies = [("accounts", "0003_money_is_a_number")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField("TradingAccount", "told_at", "reported_at"),
                migrations.AlterField(
                    "TradingAccount",
                    "reported_at",
                    models.DateTimeField(null=True, editable=False, db_column="told_at", help_text="When it said so."),
                ),
            ],
        ),
    ]
