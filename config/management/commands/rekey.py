"""`manage.py rekey`: re-encrypts every secret under the newest key, in batches, while the desk runs."""

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db.models import BinaryField, Model

from core import crypto
from core.fields import SealedField
from core.transactions import use_case

BATCH = 200


def sealed_fields() -> Iterator[tuple[type[Model], SealedField]]:
    """Every field of every model that holds a sealed secret."""
    for model in apps.get_models():
        for field in model._meta.get_fields():
            if isinstance(field, SealedField):
                yield model, field
            elif isinstance(field, BinaryField) and field.name.startswith("sealed_"):
                raise CommandError(f"{model.__name__}.{field.name} must be a SealedField: its secret was not found.")


class Command(BaseCommand):
    help = (
        "Re-encrypt every secret under the first key of COPYDESK_KEKS. May be interrupted and run again. "
        "Afterwards the older keys can be removed from the setting."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        fields = list(sealed_fields())
        for model, field in fields:
            name = f"{model._meta.verbose_name_plural}, {field.verbose_name}"
            last_id, rewritten = 0, 0
            while batch := rekey_batch(model, field, last_id):
                last_id, rewritten = batch[0], rewritten + batch[1]
                self.stdout.write(f"{name}: {rewritten} rewritten, up to row {last_id}")
        left = {f"{model.__name__}.{field.name}": count_stale(model, field) for model, field in fields}
        if any(left.values()):  # written meanwhile by a process that still has the older setting
            names = ", ".join(f"{count} in {name}" for name, count in left.items() if count)
            raise CommandError(
                f"Secrets are still encrypted under an older key: {names}. Restart every process of the desk with the "
                "new COPYDESK_KEKS, then run this command again. Keep the older keys until it succeeds."
            )
        self.stdout.write(f"All secrets of {len(fields)} fields are encrypted under the newest key.")


@use_case()
def rekey_batch(model: Any, field: SealedField, after: int) -> tuple[int, int] | None:
    """Re-encrypt the next rows; return the last row's id and how many were rewritten, or None at the end."""
    rows = list(model.objects.lock().filter(pk__gt=after).order_by("pk")[:BATCH])
    stale = [row for row in rows if _is_stale(getattr(row, field.name))]
    for row in stale:
        bound_to = field.binding(row)
        secret = crypto.decrypt(getattr(row, field.name), bound_to=bound_to)
        setattr(row, field.name, crypto.encrypt(secret, bound_to=bound_to))
        row.save(update_fields=[field.name])
    return (rows[-1].pk, len(stale)) if rows else None


def count_stale(model: Any, field: SealedField) -> int:
    sealed = model._base_manager.values_list(field.name, flat=True).iterator()
    return sum(map(_is_stale, sealed))


def _is_stale(sealed: bytes | memoryview | None) -> bool:
    return sealed is not None and not crypto.is_current(sealed)
