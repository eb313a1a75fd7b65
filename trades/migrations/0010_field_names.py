from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models.functions import Now


def rename_permissions(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Whoever may see the model under its old name may see it under the new one."""
    permissions = apps.get_model("auth", "Permission").objects
    for permission in permissions.filter(content_type__app_label="trades", codename__endswith="_closedebt"):
        permission.codename = permission.codename.replace("closedebt", "overdueclose")
        permission.name = permission.name.replace("close debt", "overdue close")
        permission.save()


class Migration(migrations.Migration):
    """Names in Python alone: tables, columns and indexes keep theirs."""

    dependencies = [
        ("trades", "0009_history_opened_sl"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.RenameModel("CloseDebt", "OverdueClose"),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveIndex("OverdueClose", "close_debt_unpaid_idx"),
                migrations.RenameField("OverdueClose", "paid_at", "closed_at"),
                migrations.AlterField(
                    "OverdueClose", "closed_at", models.DateTimeField(null=True, db_column="paid_at")
                ),
                migrations.AlterField(
                    "OverdueClose",
                    "copy",
                    models.OneToOneField(
                        "trades.Trade",
                        models.PROTECT,
                        primary_key=True,
                        serialize=False,
                        related_name="overdue_close",
                        db_constraint=False,
                    ),
                ),
                migrations.AddIndex(
                    "OverdueClose",
                    models.Index(fields=["since"], condition=models.Q(closed_at=None), name="close_debt_unpaid_idx"),
                ),
                migrations.RenameField("ActiveTrade", "told_ms", "reported_ms"),
                migrations.AlterField(
                    "ActiveTrade",
                    "reported_ms",
                    models.BigIntegerField(
                        null=True, db_column="told_ms", help_text="The master's own clock at its latest modification."
                    ),
                ),
                migrations.RenameField("CopySkip", "told_at", "reported_at"),
                migrations.AlterField(
                    "CopySkip", "reported_at", models.DateTimeField(db_default=Now(), db_column="told_at")
                ),
                migrations.RenameField("Copier", "beat_at", "heartbeat_at"),
                migrations.AlterField("Copier", "heartbeat_at", models.DateTimeField(db_column="beat_at")),
                migrations.RenameField("Copier", "fence", "takeover_number"),
                migrations.AlterField(
                    "Copier",
                    "takeover_number",
                    models.PositiveBigIntegerField(
                        db_column="fence", help_text="Grows by one with each instance that takes over."
                    ),
                ),
                migrations.RenameField("Copier", "told", "reported"),
                migrations.AlterField(
                    "Copier",
                    "reported",
                    models.JSONField(
                        default=list,
                        db_column="told",
                        help_text="By subscription: where it stands, and whether it is in sync.",
                    ),
                ),
            ],
        ),
        migrations.RunPython(rename_permissions, migrations.RunPython.noop),
    ]
