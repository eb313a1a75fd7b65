"""Two kinds of verbs: a use case begins and commits its own transaction, a part runs inside its caller's."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import connection, transaction
from django.db.transaction import Atomic, TransactionManagementError

P = ParamSpec("P")
T = TypeVar("T")


def use_case(using: str | None = None) -> Atomic:
    """One durable transaction, as a decorator or a context manager: its writes are committed when it returns.

    Raises RuntimeError inside another transaction, which could still roll back what the caller believes committed.
    """
    return transaction.atomic(using, durable=True)


def part(verb: Callable[P, T]) -> Callable[P, T]:
    """Let `verb` run only inside its caller's transaction; raise TransactionManagementError outside one."""

    @functools.wraps(verb)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        if not connection.in_atomic_block:
            raise TransactionManagementError(f"{verb.__name__} is a part: open a transaction around it")
        return verb(*args, **kwargs)

    return inside


def savepoint() -> Atomic:
    """A part of the caller's transaction that may be refused without the rest."""
    return transaction.atomic()


def use_case_or_part() -> Atomic:
    """The caller's transaction, or a new one where none is open. For the ledger's verbs, which scripts call alone."""
    return transaction.atomic()
