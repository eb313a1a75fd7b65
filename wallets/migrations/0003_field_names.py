from django.db import migrations, models

AMOUNT = {"max_digits": 20, "decimal_places": 8}


class Migration(migrations.Migration):
    """Names in Python alone: the columns keep theirs."""

    dependencies = [("wallets", "0002_ledger")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField("Settlement", "base", "cumulative_pnl"),
                migrations.AlterField(
                    "Settlement",
                    "cumulative_pnl",
                    models.DecimalField(
                        db_column="base", help_text="The two together: the cumulative net result.", **AMOUNT
                    ),
                ),
                migrations.RenameField("Settlement", "mark_before", "high_water_mark_before"),
                migrations.AlterField(
                    "Settlement",
                    "high_water_mark_before",
                    models.DecimalField(null=True, db_column="mark_before", **AMOUNT),
                ),
                migrations.RenameField("Settlement", "mark", "high_water_mark"),
                migrations.AlterField(
                    "Settlement",
                    "high_water_mark",
                    models.DecimalField(db_column="mark", help_text="The highest cumulative P/L so far.", **AMOUNT),
                ),
                migrations.RenameField("Settlement", "marks", "mark_prices"),
                migrations.AlterField(
                    "Settlement",
                    "mark_prices",
                    models.JSONField(
                        default=list, db_column="marks", help_text="At which prices what was open was valued."
                    ),
                ),
                migrations.AlterField(
                    "Settlement",
                    "trades",
                    models.PositiveIntegerField(default=0, help_text="How many trades the cumulative P/L rests on."),
                ),
            ],
        ),
    ]
