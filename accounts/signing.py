"""The signatures of requests and responses, "CD1". Pure: no clock, no database.

The key of the HMAC is the secret *as shown*: its 64 ASCII characters, not the 32 bytes to which they could be decoded.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

ALGORITHM = "CD1-HMAC-SHA256"
DEFAULT_WINDOW_MS = 5000
MAX_WINDOW_MS = 30_000
AHEAD_MS = 1000
NO_IDEMPOTENCY_KEY = "-"

KEY = re.compile(r"ck_[0-9a-f]{16}\.[1-9][0-9]{0,5}")
TIME = re.compile(r"[1-9][0-9]{12}")
WINDOW = re.compile(r"[1-9][0-9]{0,4}")
SEQ = re.compile(r"[1-9][0-9]{0,17}")
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")
SIGNATURE = re.compile(r"v1=[0-9a-fA-F]{64}")
PATH = re.compile(r"(/[A-Za-z0-9_-]+)+/?")
QUERY = re.compile(r"[A-Za-z0-9_.~=&-]{0,512}")


@dataclass(frozen=True, slots=True)
class Signable:
    """The signed parts of a request. `host` is lower case and has the port only where it is not 443."""

    method: str
    host: str
    path: str
    query: str
    key: str
    time_ms: int
    window_ms: int
    seq: int
    idempotency_key: str
    body_sha256: str

    def canonical(self) -> bytes:
        """Return eleven lines joined by LF. No line can contain LF, so no field can move into another."""
        return "\n".join(
            (
                ALGORITHM,
                self.method,
                self.host,
                self.path,
                self.query,
                self.key,
                str(self.time_ms),
                str(self.window_ms),
                str(self.seq),
                self.idempotency_key or NO_IDEMPOTENCY_KEY,
                self.body_sha256,
            )
        ).encode("ascii")

    def is_timely(self, now_ms: int) -> bool:
        return self.time_ms < now_ms + AHEAD_MS and now_ms - self.time_ms <= self.window_ms

    def fingerprint(self) -> str:
        """Return a hex hash of the requested effect: equal for a repeat with another time and number."""
        effect = "\n".join((self.method, self.path, self.query, self.body_sha256))
        return hashlib.sha256(effect.encode("ascii")).hexdigest()


def sha256_hex(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def sign(secret: str, message: bytes) -> str:
    """Return the HMAC-SHA256 in lower-case hex."""
    return hmac.new(secret.encode("ascii"), message, "sha256").hexdigest()


def is_signature_of(secret: str, message: bytes, signature_hex: str) -> bool:
    """Compare in constant time. The signature may be in upper-case hex."""
    return hmac.compare_digest(sign(secret, message), signature_hex.lower())


def sign_response(secret: str, *, request_signature: str, status: int, time_ms: int, body: bytes) -> str:
    """Return the value of X-Cd-Response-Sig. It covers the request's signature, so an old response does not verify."""
    message = "\n".join(("CD1-RESPONSE", request_signature.lower(), str(status), str(time_ms), sha256_hex(body)))
    return f"v1={sign(secret, message.encode('ascii'))}"


def sign_response_etag(
    secret: str, *, request_signature: str, status: int, time_ms: int, body: bytes, etag: str
) -> str:
    """Return the value of X-Cd-Response-Etag-Sig, which covers what sign_response covers and the ETag.

    It is a signature of its own, because clients of the first version check the other one to the letter.
    """
    lines = ("CD1-RESPONSE-ETAG", request_signature.lower(), str(status), str(time_ms), sha256_hex(body), etag)
    message = "\n".join(lines)
    return f"v1={sign(secret, message.encode('ascii'))}"
