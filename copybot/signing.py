"""Signing a request and checking its answer, written from the protocol's page alone. Standard library only."""

import hashlib
import hmac


def sign(
    secret: str, *, method: str, host: str, path: str, query: str, key: str, time_ms: int, window_ms: int, seq: int,
    idempotency_key: str, body: bytes,
) -> str:  # fmt: skip
    """The hex signature of a request. `secret` is used as its 64 ASCII characters."""
    lines = (
        "CD1-HMAC-SHA256", method, host, path, query, key, str(time_ms), str(window_ms), str(seq),
        idempotency_key or "-", hashlib.sha256(body).hexdigest(),
    )  # fmt: skip
    return hmac.new(secret.encode("ascii"), "\n".join(lines).encode("ascii"), hashlib.sha256).hexdigest()


def answers(
    secret: str, *, request_signature: str, status: int, time_ms: str, body: bytes, response_signature: str,
    etag: str = "",
) -> bool:  # fmt: skip
    """Whether the desk signed this answer to this request. With `etag`: whether it signed the answer with this ETag."""
    lines = ["CD1-RESPONSE", request_signature, str(status), time_ms, hashlib.sha256(body).hexdigest()]
    if etag:
        lines = ["CD1-RESPONSE-ETAG", *lines[1:], etag]
    right = hmac.new(secret.encode("ascii"), "\n".join(lines).encode("ascii"), hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"v1={right}", response_signature)
