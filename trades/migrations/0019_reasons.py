from django.db import migrations, models

REASONS = [
    ("missed", "the signal came too late for the provider's price"),
    ("slippage", "the price had moved further than the settings allow"),
    ("symbol_unknown", "the broker has no such symbol"),
    ("market_closed", "the broker's market was closed"),
    ("no_money", "insufficient margin"),
    ("volume_too_small", "the volume was below the smallest"),
    ("too_many_open", "the largest number of open copies was reached"),
    ("rejected", "the broker rejected the order"),
    ("lost", "the broker's answer was lost, and the broker shows no such order"),
    ("new_install", "the trade was open before the copier was set up"),
    ("halted", "the copier had halted itself"),
    ("magic_taken", "another trade at the broker has its magic number"),
    ("closed", "the provider closed it before it could be copied"),
    ("not_leased", "the copier had lost contact with the desk, or another instance was running"),
    ("paused", "the subscription was paused"),
    ("unpaid", "a fee was unpaid"),
    ("trust", "copying was restricted because of the bot's trust score"),
    ("drawdown", "the drawdown stop was reached"),
    ("symbol_not_allowed", "the settings exclude this symbol"),
    ("not_sizable", "the volume could not be calculated: equity or stop loss unknown"),
    ("stop_passed", "the broker's price had already passed the stop or the target"),
    ("other", "another reason, which the detail names"),
    ("not_reported", "not reported: the copier was not running"),
]


class Migration(migrations.Migration):
    dependencies = [("trades", "0018_first_stop")]
    operations = [
        migrations.AlterField(
            model_name="copyskip", name="reason", field=models.CharField(choices=REASONS, max_length=18)
        ),
        migrations.RemoveConstraint(model_name="copyskip", name="copy_skip_reason_is_known"),
        migrations.AddConstraint(
            model_name="copyskip",
            constraint=models.CheckConstraint(
                condition=models.Q(("reason__in", [value for value, _ in REASONS])), name="copy_skip_reason_is_known"
            ),
        ),
    ]
