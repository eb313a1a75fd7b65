"""What the desk needs of a bot's key to check signatures: looked up once, cached, and decrypted for each request.

Only what never changes in a generation is cached. Whether a key may call *now* (revoked, expired, address, sequence
number) is checked in the request's own transaction, by signed_call and signed_read.
"""

import functools
import time
from dataclasses import dataclass, field
from typing import Literal

import structlog
from django.db import connections

from core import crypto, database
from core.errors import DomainError

log = structlog.get_logger()


class KeyUnreadable(DomainError):
    code = "key_unreadable"
    status = 503
    retry = "same_key"
    detail = "The desk cannot read its record of this key. Its operators have been alerted; repeat later."


KeyKind = Literal["master", "copier", "readonly"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What never changes in one generation of a key."""

    generation_id: int
    key_pk: int
    key: str
    kind: KeyKind
    account_id: int
    account_name: str
    rate_per_minute: int | None
    secret: str = field(repr=False)


def credential_of(key: str) -> Credential | None:
    """Return the credential of `ck_….generation`; None where there is no such key."""
    row = _cached(key)
    if row is None:
        return None
    generation_id, key_pk, kind, account_id, account_name, sealed, rate = row
    key_id, _, generation = key.partition(".")
    try:
        secret = crypto.decrypt(sealed, bound_to=f"bot_key|{key_id}|{generation}")
    except crypto.SecretUnreadable as fault:  # copied between rows, or encrypted under a key that is not loaded
        log.error("key.unreadable", key=key, fault=str(fault))
        raise KeyUnreadable from None
    return Credential(generation_id, key_pk, key, kind, account_id, account_name, rate, secret)


_Row = tuple[int, int, KeyKind, int, str, bytes, int | None]


class _UnknownKey(Exception):
    """Raised so that lru_cache does not store the absence of a key, which may be created a moment later."""


def _cached(key: str) -> _Row | None:
    try:
        return _look_up(connections[database.BOT].settings_dict["NAME"], key, int(time.monotonic() // 60))
    except _UnknownKey:
        return None


@functools.lru_cache(maxsize=20_000)
def _look_up(_database: str, key: str, _minute: int) -> _Row:
    """The secret stays sealed in the cache. `_minute` lets a changed rate limit take effect within a minute."""
    key_id, _, generation = key.partition(".")
    with connections[database.BOT].cursor() as cursor:
        cursor.execute("select * from bot_key_lookup(%s, %s)", [key_id, int(generation)])
        row: _Row | None = cursor.fetchone()
    if row is None:
        raise _UnknownKey
    return row
