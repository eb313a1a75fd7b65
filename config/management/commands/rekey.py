"""`manage.py rekey`: re-encrypts every secret under the newest key, in batches, while the desk runs."""

from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand

from accounts.models import BotKeyGeneration
from core import crypto
from core.transactions import use_case
from strategies import services as strategies
from strategies.models import Subscription

BATCH = 200


def _of_key(row: BotKeyGeneration) -> str:
    return row.BINDING.format(key=row.key.key_id, generation=row.generation)


SEALED: list[tuple[Any, str, Callable[[Any], str]]] = [
    (BotKeyGeneration, "sealed_secret", _of_key),
    (Subscription, "sealed_packet_secret", strategies.binding),
]


class Command(BaseCommand):
    help = "Re-encrypt every secret under the first key of COPYDESK_KEKS. Then the older keys can be removed from it."

    def handle(self, *args: Any, **options: Any) -> None:
        for model, column, binding in SEALED:
            last_id, rewritten = 0, 0
            while batch := rekey_batch(model, column, binding, last_id):
                last_id, rewritten = batch[0], rewritten + batch[1]
            self.stdout.write(f"{model._meta.verbose_name_plural}: {rewritten} secrets rewritten")
        self.stdout.write("All secrets are encrypted under the newest key.")


@use_case()
def rekey_batch(model: Any, column: str, binding: Callable[[Any], str], after: int) -> tuple[int, int] | None:
    """Re-encrypt the next rows; return the last row's id and how many were rewritten, or None at the end."""
    rows = list(model.objects.lock().filter(pk__gt=after).order_by("pk")[:BATCH])
    stale = [row for row in rows if not crypto.is_current(getattr(row, column))]
    for row in stale:
        secret = crypto.decrypt(getattr(row, column), bound_to=binding(row))
        setattr(row, column, crypto.encrypt(secret, bound_to=binding(row)))
        row.save(update_fields=[column])
    return (rows[-1].pk, len(stale)) if rows else None
