from django.db import migrations, models

PAUSED = models.Q(status="PAUSED")
FOR_NOTHING = models.Q(paused_for="")


class Migration(migrations.Migration):
    dependencies = [("strategies", "0001_initial")]
    operations = [
        migrations.AddField(
            model_name="subscription",
            name="paused_for",
            field=models.CharField(
                blank=True,
                choices=[("HAND", "by hand"), ("UNPAID", "for an unpaid fee")],
                db_default="",
                default="",
                editable=False,
                max_length=8,
            ),
        ),
        migrations.RunSQL("update subscriptions set paused_for = 'HAND' where status = 'PAUSED'", ""),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=PAUSED & ~FOR_NOTHING | ~PAUSED & FOR_NOTHING,
                name="subscription_is_paused_for_something",
            ),
        ),
    ]
