from django.db import migrations, models


class Migration(migrations.Migration):
    """Help texts alone: no column changes."""

    dependencies = [
        ("trust", "0005_incidents"),
    ]

    operations = [
        migrations.AlterField(
            model_name="trustappeal",
            name="version",
            field=models.PositiveBigIntegerField(help_text="The version of the score."),
        ),
        migrations.AlterField(
            model_name="trustassessment",
            name="features",
            field=models.JSONField(default=list, help_text="Each with value, limits, weight, contribution and text."),
        ),
        migrations.AlterField(
            model_name="trustassessment",
            name="inputs",
            field=models.JSONField(
                default=dict, help_text="The number of inputs of each kind, and the days they cover."
            ),
        ),
        migrations.AlterField(
            model_name="trustscore",
            name="as_of",
            field=models.CharField(blank=True, help_text="The latest event in the calculation.", max_length=64),
        ),
        migrations.AlterField(
            model_name="trustscore",
            name="by_hold",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Restricted by a hold alone: the restriction ends with the hold.",
            ),
        ),
        migrations.AlterField(
            model_name="trustscore",
            name="clean_since",
            field=models.DateTimeField(
                help_text="Since when the score has been high enough to lift the restriction.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="trustsubject",
            name="seen_until",
            field=models.DateTimeField(help_text="Events up to this time are in the latest assessment."),
        ),
    ]
