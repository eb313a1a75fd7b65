"""Calling a part by itself, as its edges do."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from core.transactions import use_case

P = ParamSpec("P")
T = TypeVar("T")


def committed(verb: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The verb in a transaction of its own."""
    with use_case():
        return verb(*args, **kwargs)
