"""Model fields that all apps define the same way."""

from collections.abc import Callable
from typing import Any

from django.db import models

from core import money


def amount(verbose_name: str | None = None, **more: Any) -> "models.DecimalField[Any, Any]":
    """A price, a volume or money: NUMERIC(20, 8), exact."""
    return models.DecimalField(verbose_name, max_digits=money.DIGITS, decimal_places=money.PLACES, **more)


class SealedField(models.BinaryField):
    """A secret encrypted by core.crypto. `manage.py rekey` finds every such field by itself.

    `binding` returns a row's associated data, which names the row: a ciphertext copied to another row is unreadable.
    """

    def __init__(self, *args: Any, binding: Callable[[Any], str] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._binding = binding

    def binding(self, row: models.Model) -> str:
        if self._binding is None:
            raise TypeError(f"{self} has no binding")
        return self._binding(row)

    def deconstruct(self) -> Any:
        """As a BinaryField: migrations need no binding."""
        name, _, args, options = super().deconstruct()
        return name, "django.db.models.BinaryField", args, options
