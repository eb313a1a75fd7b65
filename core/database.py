"""Calls of the database's functions outside the ORM."""

from typing import Any

from django.db import DatabaseError, connections

from core.postgres.base import DatabaseWrapper

BOT = "bot"  # the alias that acts as copydesk_bot, which can read no table and call only the bots' functions


def ask(alias: str, statement: str, *arguments: Any) -> Any:
    """Return the single value of a statement ($1 … for the arguments), run as a transaction of its own."""
    wrapper = connections[alias]
    assert isinstance(wrapper, DatabaseWrapper)
    return wrapper.ask(statement, *arguments)


def constraint_name(error: DatabaseError) -> str:
    """The name of the constraint that refused a statement; empty where none did."""
    diagnostics = getattr(error.__cause__, "diag", None)
    return getattr(diagnostics, "constraint_name", None) or ""
