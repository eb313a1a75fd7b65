import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from core.migrating import sql


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_wording"),
        ("strategies", "0010_labels"),
        ("trades", "0014_labels"),
    ]

    operations = [
        migrations.CreateModel(
            name="BotAlarm",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "bot",
                    models.CharField(
                        help_text="The kind of the key that reports it: its own alarms are one set.", max_length=8
                    ),
                ),
                (
                    "kind",
                    models.CharField(max_length=20),
                ),
                ("ticket_id", models.CharField(blank=True, db_default="", max_length=19, verbose_name="ticket")),
                (
                    "master_trade",
                    models.UUIDField(db_index=True, help_text="The provider's trade that it is about.", null=True),
                ),
                (
                    "trade",
                    models.UUIDField(db_index=True, help_text="The account's own trade with this ticket.", null=True),
                ),
                ("detail", models.CharField(blank=True, db_default="", max_length=300)),
                ("raised_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "reported_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="When the bot last reported that it is present.",
                    ),
                ),
                ("cleared_at", models.DateTimeField(null=True)),
                ("times", models.PositiveIntegerField(db_default=1, help_text="How often it was raised.")),
                (
                    "is_logged",
                    models.BooleanField(db_default=False, help_text="Whether the audit log shows it as raised."),
                ),
                ("logged_at", models.DateTimeField(null=True)),
                (
                    "account",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="accounts.tradingaccount",
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
            ],
            options={
                "verbose_name": "alarm of a bot",
                "verbose_name_plural": "alarms of bots",
                "db_table": "bot_alarms",
                "indexes": [
                    models.Index(
                        condition=models.Q(("cleared_at", None)), fields=["raised_at"], name="bot_alarm_present_idx"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("account", "bot", "kind", "ticket_id", "strategy", "master_trade"),
                        name="bot_alarm_is_one_row",
                        nulls_distinct=False,
                    )
                ],
            },
        ),
        sql(__file__),
    ]
