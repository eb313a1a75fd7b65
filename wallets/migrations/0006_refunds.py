from decimal import Decimal

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [
        ("wallets", "0005_wording"),
    ]

    operations = [
        migrations.AddField(
            model_name="settlement",
            name="corrections",
            field=models.JSONField(default=list, help_text="The corrections of trades that it takes into account."),
        ),
        migrations.AddField(
            model_name="settlement",
            name="mark_corrected",
            field=models.DecimalField(
                decimal_places=8,
                help_text="The mark before as corrections of trades lowered it, where they did.",
                max_digits=20,
                null=True,
            ),
        ),
        migrations.CreateModel(
            name="FeeRefund",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("period_no", models.PositiveIntegerField(help_text="Of the settlement that gave it back.")),
                ("amount", models.DecimalField(decimal_places=8, max_digits=20)),
                ("provider_share", models.DecimalField(decimal_places=8, max_digits=20)),
                (
                    "recovered",
                    models.DecimalField(
                        decimal_places=8, default=Decimal("0"), help_text="Of the provider's share.", max_digits=20
                    ),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "agreement",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="refunds",
                        to="wallets.feeagreement",
                    ),
                ),
                (
                    "payee",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="wallets.wallet"
                    ),
                ),
                (
                    "payer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="wallets.wallet"
                    ),
                ),
            ],
            options={
                "db_table": "fee_refunds",
                "constraints": [
                    models.UniqueConstraint(fields=("agreement", "period_no"), name="fee_refund_is_one_a_settlement"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("amount__gt", 0),
                            ("provider_share__gte", 0),
                            ("provider_share__lte", models.F("amount")),
                            ("recovered__gte", 0),
                            ("recovered__lte", models.F("provider_share")),
                        ),
                        name="fee_refund_amounts_are_within_it",
                    ),
                ],
            },
        ),
        sql(__file__),
    ]
