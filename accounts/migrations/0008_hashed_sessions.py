from django.db import migrations


class Migration(migrations.Migration):
    """Sessions are stored under a hash of their key (core.sessions). People who are signed in stay so."""

    dependencies = [("accounts", "0007_reported_facts"), ("sessions", "0001_initial")]

    operations = [
        migrations.RunSQL(
            "update django_session set session_key = left(encode(sha256(convert_to(session_key, 'UTF8')), 'hex'), 40) "
            "where length(session_key) <> 40",
            migrations.RunSQL.noop,
        )
    ]
