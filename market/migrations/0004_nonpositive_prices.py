from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("market", "0003_field_texts")]
    operations = [
        migrations.AddField(
            model_name="instrument",
            name="allows_nonpositive_prices",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Trades of this instrument may open at a price of zero or below. Closes may always.",
                verbose_name="opens at or below zero",
            ),
        ),
    ]
