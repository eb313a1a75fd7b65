from decimal import Decimal

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Help texts and labels alone: no column changes."""

    dependencies = [
        ("wallets", "0004_claims_keep_their_transfers"),
    ]

    operations = [
        migrations.AlterField(
            model_name="feeagreement",
            name="postponed",
            field=models.CharField(
                blank=True, help_text="Why a period that has ended is not settled yet.", max_length=200
            ),
        ),
        migrations.AlterField(
            model_name="feeagreement",
            name="terms",
            field=models.ForeignKey(
                help_text="The terms of the open period.",
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="wallets.feeterms",
            ),
        ),
        migrations.AlterField(
            model_name="feeclaim",
            name="detail",
            field=models.JSONField(default=dict, help_text="How the fee was calculated."),
        ),
        migrations.AlterField(
            model_name="feeclaim",
            name="period_no",
            field=models.PositiveIntegerField(help_text="Of a subscription fee: year and month, as in 202611."),
        ),
        migrations.AlterField(
            model_name="feeterms",
            name="performance_bps",
            field=models.PositiveIntegerField(
                default=2000,
                help_text="Of new profit above the high-water mark: 2000 is 20 %.",
                verbose_name="performance fee, bps",
            ),
        ),
        migrations.AlterField(
            model_name="feeterms",
            name="subscription_fee",
            field=models.DecimalField(
                decimal_places=8,
                default=Decimal("0"),
                help_text="Per calendar month; part of a month by the day.",
                max_digits=20,
            ),
        ),
        migrations.AlterField(
            model_name="ledgertransfer",
            name="credit",
            field=models.ForeignKey(
                help_text="The wallet whose balance rises.",
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="wallets.wallet",
            ),
        ),
        migrations.AlterField(
            model_name="ledgertransfer",
            name="debit",
            field=models.ForeignKey(
                help_text="The wallet whose balance falls.",
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="wallets.wallet",
            ),
        ),
        migrations.AlterField(
            model_name="ledgertransfer",
            name="kind",
            field=models.CharField(
                choices=[
                    ("DEPOSIT", "deposit"),
                    ("WITHDRAWAL", "withdrawal"),
                    ("TRANSFER", "transfer"),
                    ("FEE_PERFORMANCE", "performance fee"),
                    ("FEE_SUBSCRIPTION", "subscription fee"),
                    ("ACCRUAL", "fee accrual"),
                    ("PAYOUT", "provider's share of a fee"),
                    ("ADJUSTMENT", "adjustment"),
                    ("REVERSAL", "reversal"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="moneyrequest",
            name="amount",
            field=models.DecimalField(
                decimal_places=8, help_text="A negative adjustment debits the wallet.", max_digits=20
            ),
        ),
        migrations.AlterField(
            model_name="moneyrequest",
            name="needs_second",
            field=models.BooleanField(help_text="Above the limit, or to the requester's own wallet."),
        ),
        migrations.AlterField(
            model_name="moneyrequest",
            name="state",
            field=models.CharField(
                choices=[("PENDING", "awaiting approval"), ("DONE", "done"), ("REJECTED", "rejected")],
                default="PENDING",
                max_length=8,
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="closed_result",
            field=models.DecimalField(
                decimal_places=8, help_text="Realised P/L of all closes since the agreement began.", max_digits=20
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="cumulative_pnl",
            field=models.DecimalField(
                db_column="base",
                decimal_places=8,
                help_text="Realised plus floating: the cumulative net P/L.",
                max_digits=20,
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="floating_result",
            field=models.DecimalField(
                decimal_places=8,
                help_text="Floating P/L of the positions open at the end of the period.",
                max_digits=20,
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="mark_prices",
            field=models.JSONField(
                db_column="marks", default=list, help_text="The prices at which open positions were valued."
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="trades",
            field=models.PositiveIntegerField(default=0, help_text="The number of trades in the cumulative P/L."),
        ),
        migrations.AlterField(
            model_name="wallet",
            name="frozen_at",
            field=models.DateTimeField(help_text="No money can leave a frozen wallet.", null=True),
        ),
        migrations.AlterField(
            model_name="wallet",
            name="held",
            field=models.DecimalField(
                decimal_places=8, default=Decimal("0"), help_text="Reserved by pending holds.", max_digits=20
            ),
        ),
        migrations.AlterField(
            model_name="wallet",
            name="kind",
            field=models.CharField(
                choices=[
                    ("PERSON", "person"),
                    ("CASH_IN", "house: cash in"),
                    ("CASH_OUT", "house: cash out"),
                    ("FEES", "house: fees"),
                    ("RECEIVABLE", "house: receivable"),
                    ("ADJUSTMENTS", "house: adjustments"),
                ],
                default="PERSON",
                max_length=11,
            ),
        ),
        migrations.AlterField(
            model_name="wallet",
            name="shard",
            field=models.PositiveSmallIntegerField(
                default=0, help_text="House accounts have many rows, so that transfers do not wait for one."
            ),
        ),
        migrations.AlterField(
            model_name="wallethold",
            name="posted",
            field=models.DecimalField(
                decimal_places=8, help_text="The amount spent; the rest was released.", max_digits=20, null=True
            ),
        ),
    ]
