import django.contrib.postgres.fields
from django.db import migrations, models

import accounts.models


class Migration(migrations.Migration):
    """Help texts and labels alone: no column changes."""

    dependencies = [
        ("accounts", "0005_limits_of_opens"),
    ]

    operations = [
        migrations.AlterField(
            model_name="botkey",
            name="allowed_networks",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=49),
                blank=True,
                default=list,
                help_text="Networks from which the bot may call, as CIDR, separated by commas, at most 50. Empty: any.",
                size=None,
                validators=[accounts.models.check_networks],
            ),
        ),
        migrations.AlterField(
            model_name="botkey",
            name="kind",
            field=models.CharField(
                choices=[
                    ("master", "master (provider's bot)"),
                    ("copier", "copier (subscriber's bot)"),
                    ("readonly", "read-only"),
                ],
                max_length=8,
            ),
        ),
        migrations.AlterField(
            model_name="botkey",
            name="rate_per_minute",
            field=models.PositiveIntegerField(
                blank=True, help_text="Requests a minute. Empty: no limit for this key.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="tradingaccount",
            name="balance",
            field=models.DecimalField(
                decimal_places=8, editable=False, help_text="As last reported by its bot.", max_digits=20, null=True
            ),
        ),
        migrations.AlterField(
            model_name="tradingaccount",
            name="copy_seq",
            field=models.PositiveBigIntegerField(
                default=0, editable=False, help_text="The number of changes of copies on this account."
            ),
        ),
        migrations.AlterField(
            model_name="tradingaccount",
            name="equity",
            field=models.DecimalField(
                decimal_places=8,
                editable=False,
                help_text="Balance and floating P/L, as last reported by its bot.",
                max_digits=20,
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="tradingaccount",
            name="max_open_trades",
            field=models.PositiveIntegerField(
                db_default=10000,
                default=10000,
                help_text="The most trades, copies aside, that may be open. Closes are never refused.",
            ),
        ),
        migrations.AlterField(
            model_name="tradingaccount",
            name="reported_at",
            field=models.DateTimeField(
                db_column="told_at", editable=False, help_text="When its bot last reported.", null=True
            ),
        ),
    ]
