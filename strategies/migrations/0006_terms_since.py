from django.db import migrations, models

_NUMBERS = ("multiplier", "fixed_lots", "risk_pct", "min_volume", "max_volume", "max_slippage_bps", "max_drawdown_pct", "equity",
            "master_equity")  # fmt: skip


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_money_is_a_number"),
        ("strategies", "0005_terms"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="terms",
            index=models.Index(fields=["subscription", "since", "id"], name="terms_since_idx"),
        ),
        migrations.RunSQL(  # NaN is above every number, so no "> 0" keeps it out; a name must fit into a signed packet
            f"""
            alter table subscription_terms
              add constraint terms_amounts_are_numbers check ({" and ".join(f"{name} < 'NaN'" for name in _NUMBERS)}),
              add constraint terms_symbols_are_well_formed check (
                jsonb_typeof(symbol_map) = 'object' and not symbol_map @?
                '$.* ? (@.type() != "string" || !(@ like_regex "^[A-Za-z0-9._#/+&!@$^~-]{{1,32}}$"))')
            """,
            "",
        ),
    ]
