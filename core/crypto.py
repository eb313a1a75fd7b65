"""Secrets at rest: AES-256-GCM under a named key, bound to the row that holds them.

Without the binding (associated data), a person with UPDATE on the table could copy the ciphertext of their own secret
into another person's row, and sign as that person.
"""

import functools
import re
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

_KEK = re.compile(r"^([A-Za-z0-9_-]{1,16}):([0-9a-f]{64})$")
_NONCE_BYTES = 12


class SecretUnreadable(Exception):
    """The ciphertext was moved, altered, or written under a key that is no longer loaded."""


@functools.lru_cache(maxsize=4)
def _keyring(spec: str) -> dict[str, AESGCM]:
    return {name: AESGCM(bytes.fromhex(digits)) for name, digits in _key_texts(spec).items()}


def _key_texts(spec: str) -> dict[str, str]:
    keys = [_KEK.fullmatch(part.strip()) for part in spec.split(",")]
    if not all(keys):
        raise ValueError('COPYDESK_KEKS must be "name:64 hex digits", newest first, separated by commas')
    return {key[1]: key[2] for key in keys if key}


def key_texts() -> dict[str, str]:
    """The key-encrypting keys as set, by name, for the check that they are random."""
    return _key_texts(settings.COPYDESK_KEKS)


def keyring() -> dict[str, AESGCM]:
    """Return the key-encrypting keys by name; the first one encrypts. ValueError where the setting is malformed."""
    return _keyring(settings.COPYDESK_KEKS)


def new_secret() -> str:
    """Return 256 random bits as 64 hex digits, the form in which a bot's owner sees them once."""
    return secrets.token_hex(32)


def encrypt(secret: str, *, bound_to: str) -> bytes:
    """Return `name ‖ ":" ‖ nonce ‖ ciphertext` under the newest key."""
    name, key = next(iter(keyring().items()))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return name.encode() + b":" + nonce + key.encrypt(nonce, secret.encode(), bound_to.encode())


def decrypt(sealed: bytes | memoryview, *, bound_to: str) -> str:
    name, _, rest = bytes(sealed).partition(b":")
    key = keyring().get(name.decode("ascii", "replace"))
    if key is None:
        raise SecretUnreadable(f"no key named {name!r} is loaded")
    try:
        return key.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], bound_to.encode()).decode()
    except (InvalidTag, ValueError) as fault:  # ValueError: too short to hold a nonce
        raise SecretUnreadable("the ciphertext does not belong to this row") from fault


def is_current(sealed: bytes | memoryview) -> bool:
    """Whether the newest key encrypted this secret."""
    return bytes(sealed).partition(b":")[0].decode("ascii", "replace") == next(iter(keyring()))
