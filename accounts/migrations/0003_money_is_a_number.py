from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_equity"),
    ]

    operations = [
        migrations.RunSQL(
            """
            alter table trading_accounts
              add constraint account_money_is_a_number check (balance < 'NaN' and equity < 'NaN')
            """,
            "",
        ),
    ]
