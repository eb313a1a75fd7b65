"""Asking the database's functions."""

from typing import Any

from django.db import connections

from core.postgres.base import DatabaseWrapper

BOT = "bot"  # the alias that acts as copydesk_bot, which can read no table and call only the bots' functions


def ask(alias: str, statement: str, *arguments: Any) -> Any:
    """The one value that a statement answers ($1 … for the arguments), as a transaction of its own."""
    wrapper = connections[alias]
    assert isinstance(wrapper, DatabaseWrapper)
    return wrapper.ask(statement, *arguments)
