"""Raw statements in a test's database, past everything that the desk's own roles may do."""

from django.db import connections


def as_owner(*statements: str) -> None:
    """Run them as the tables' owner, each in a transaction of its own."""
    with connections["owner"].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
