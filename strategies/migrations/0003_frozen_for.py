from django.db import migrations, models

FROZEN = models.Q(status="CLOSE_ONLY") & ~models.Q(frozen_for="")
OPEN = models.Q(status="ACTIVE", frozen_for="")


class Migration(migrations.Migration):
    dependencies = [("strategies", "0002_paused_for")]
    operations = [
        migrations.AddField(
            model_name="strategy",
            name="frozen_for",
            field=models.CharField(
                blank=True,
                choices=[("HAND", "by hand"), ("TRUST", "for its flow")],
                db_default="",
                default="",
                editable=False,
                max_length=8,
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="paused_for",
            field=models.CharField(
                blank=True,
                choices=[("HAND", "by hand"), ("UNPAID", "for an unpaid fee"), ("TRUST", "for its bot's behaviour")],
                db_default="",
                default="",
                editable=False,
                max_length=8,
            ),
        ),
        migrations.RunSQL("update strategies set frozen_for = 'HAND' where status = 'CLOSE_ONLY'", ""),
        migrations.AddConstraint(
            model_name="strategy",
            constraint=models.CheckConstraint(condition=FROZEN | OPEN, name="strategy_is_frozen_for_something"),
        ),
    ]
