from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("trades", "0016_staff"), ("market", "0004_nonpositive_prices")]
    operations = [
        migrations.RemoveConstraint(model_name="activetrade", name="active_trade_open_price_is_positive"),
    ]
