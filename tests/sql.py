"""Raw statements in a test's database, with rights that the desk's roles do not have."""

from django.db import connections


def as_owner(*statements: str) -> None:
    """Run the statements as the tables' owner, each in a transaction of its own."""
    with connections["owner"].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
