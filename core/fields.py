"""Model fields that all apps define the same way."""

from typing import Any

from django.db import models

from core import money


def amount(verbose_name: str | None = None, **more: Any) -> "models.DecimalField[Any, Any]":
    """A price, a volume or money: NUMERIC(20, 8), exact."""
    return models.DecimalField(verbose_name, max_digits=money.DIGITS, decimal_places=money.PLACES, **more)
