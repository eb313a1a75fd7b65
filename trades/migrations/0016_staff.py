import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0007_reported_facts"),
        ("strategies", "0011_no_circles"),
        ("trades", "0015_bot_alarms"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="OrderedClose",
            fields=[
                (
                    "copy",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="ordered_close",
                        serialize=False,
                        to="trades.trade",
                    ),
                ),
                ("master_trade", models.UUIDField(db_index=True)),
                ("note", models.CharField(max_length=500)),
                ("ordered_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="accounts.tradingaccount"
                    ),
                ),
                (
                    "ordered_by",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "db_table": "ordered_closes",
            },
        ),
        migrations.CreateModel(
            name="TradeCorrection",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("close_price", models.DecimalField(decimal_places=8, max_digits=20)),
                (
                    "profit",
                    models.DecimalField(
                        decimal_places=8, help_text="Of the whole trade, partial closes included.", max_digits=20
                    ),
                ),
                (
                    "profit_before",
                    models.DecimalField(decimal_places=8, help_text="What counted until now.", max_digits=20),
                ),
                ("reason", models.CharField(max_length=500)),
                (
                    "corrected_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), db_index=True),
                ),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="accounts.tradingaccount"
                    ),
                ),
                (
                    "approved_by",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "requested_by",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "strategy",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="strategies.strategy",
                    ),
                ),
                (
                    "trade",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="corrections", to="trades.trade"
                    ),
                ),
            ],
            options={
                "verbose_name": "correction of a trade",
                "verbose_name_plural": "corrections of trades",
                "db_table": "trade_corrections",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("requested_by", models.F("approved_by")), _negated=True),
                        name="trade_correction_has_two_people",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="TradeRequest",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(choices=[("CLOSE", "force close"), ("CORRECTION", "correction")], max_length=10),
                ),
                ("close_price", models.DecimalField(decimal_places=8, max_digits=20)),
                (
                    "profit",
                    models.DecimalField(
                        decimal_places=8,
                        help_text="Of the final close, or of the whole trade in a correction.",
                        max_digits=20,
                    ),
                ),
                ("reason", models.CharField(max_length=500)),
                ("why_second", models.CharField(max_length=200, verbose_name="why a second person")),
                (
                    "state",
                    models.CharField(
                        choices=[("PENDING", "awaiting approval"), ("DONE", "done"), ("REJECTED", "rejected")],
                        default="PENDING",
                        max_length=8,
                    ),
                ),
                ("decided_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "decided_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "requested_by",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "trade",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="requests", to="trades.trade"
                    ),
                ),
            ],
            options={
                "verbose_name": "request on a trade",
                "verbose_name_plural": "requests on trades",
                "db_table": "trade_requests",
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "PENDING")),
                        fields=("trade", "kind"),
                        name="trade_request_is_the_only_pending",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("decided_at__isnull", True), ("decided_by__isnull", True), ("state", "PENDING")),
                            models.Q(
                                ("decided_at__isnull", False),
                                ("decided_by__isnull", False),
                                ("state__in", ["DONE", "REJECTED"]),
                            ),
                            _connector="OR",
                        ),
                        name="trade_request_is_decided_whole",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("decided_by", models.F("requested_by")), ("state", "DONE"), _negated=True),
                        name="trade_request_has_two_people",
                    ),
                ],
            },
        ),
        sql(__file__),
    ]
