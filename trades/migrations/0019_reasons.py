from django.db import migrations, models

REASONS = [
    "missed", "slippage", "symbol_unknown", "market_closed", "no_money", "volume_too_small", "too_many_open",
    "rejected", "lost", "new_install", "halted", "magic_taken", "closed", "not_leased", "paused", "unpaid", "trust",
    "drawdown", "symbol_not_allowed", "not_sizable", "stop_passed", "other", "not_reported",
]  # fmt: skip


class Migration(migrations.Migration):
    dependencies = [("trades", "0018_first_stop")]
    operations = [
        migrations.RemoveConstraint(model_name="copyskip", name="copy_skip_reason_is_known"),
        migrations.AddConstraint(
            model_name="copyskip",
            constraint=models.CheckConstraint(
                condition=models.Q(("reason__in", REASONS)), name="copy_skip_reason_is_known"
            ),
        ),
    ]
