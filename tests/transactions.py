"""Calls a part alone, as the edges do."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from core.transactions import use_case

P = ParamSpec("P")
T = TypeVar("T")


def committed(verb: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the verb in a transaction of its own."""
    with use_case():
        return verb(*args, **kwargs)
