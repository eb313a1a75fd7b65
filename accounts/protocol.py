"""The CD1 protocol: the checks of a signed request, in their order. `signing` has the signature's arithmetic.

Cheap checks come first, and a caller learns nothing about a key before its signature is good. What a key may do *now*
is checked in the request's own transaction, by signed_call and signed_read.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from accounts import credentials, networks, signing
from accounts.credentials import Credential
from audit import services as audit
from audit.models import AuditLog
from core import crypto, limiting
from core.errors import DomainError, RequestMalformed

_UNKNOWN_SECRET = crypto.new_secret()  # verified against when the key is unknown, so that both cost the same


class HttpsRequired(DomainError):
    code = "https_required"
    status = 403
    detail = "Bots are served over TLS only."


class ClockOutsideWindow(DomainError):
    code = "clock_outside_window"
    status = 401
    retry = "same_key"
    detail = "X-Cd-Time is not within the window of the server's time. Set the clock by GET /api/v2/time."


class SignatureInvalid(DomainError):
    code = "signature_invalid"
    status = 401
    detail = "Unknown key, wrong secret, or the request is not what was signed."


class KeyRevoked(DomainError):
    code = "key_revoked"
    status = 401
    retry = "rotate"
    detail = "This key was revoked."


class KeyExpired(DomainError):
    code = "key_expired"
    status = 401
    retry = "rotate"
    detail = "This key has expired."


class KeyGenerationRetired(DomainError):
    code = "key_generation_retired"
    status = 401
    retry = "rotate"
    detail = "This generation of the key was replaced. Use the newer secret."


class IpDenied(DomainError):
    code = "ip_denied"
    status = 403
    detail = "This address is not on the key's list."


class ScopeDenied(DomainError):
    code = "scope_denied"
    status = 403
    detail = "This kind of key may not do that."


class SeqReplayed(DomainError):
    code = "seq_replayed"
    retry = "new_seq"
    detail = "X-Cd-Seq was used before. Repeat with a higher one and the same Idempotency-Key."


class IdempotencyKeyMissing(DomainError):
    code = "idempotency_key_missing"
    status = 400
    detail = "Every request but GET names its effect by an Idempotency-Key of 16 to 64 letters, digits, - or _."


class IdempotencyConflict(DomainError):
    code = "idempotency_conflict"
    status = 422
    detail = "This Idempotency-Key was used for another request."


class BodyTooLarge(DomainError):
    code = "body_too_large"
    status = 413
    detail = "The body is larger than this route takes."


@dataclass(frozen=True, slots=True)
class SignedCall:
    """A request whose signature is good."""

    credential: Credential
    signable: signing.Signable
    signature: str = field(repr=False)
    ip: str
    request_id: str

    @property
    def actor(self) -> audit.Actor:
        return audit.Actor(AuditLog.Actor.BOT, self.credential.key, self.ip, self.request_id)

    def caller(self) -> dict[str, Any]:
        """Return the caller as the database's functions take it (`p_caller`)."""
        return {**self.actor.caller(), "account": self.credential.account_id}


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it came in, whatever the server. Header names are lower case; a repeated one holds a comma."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    ip: str
    is_secure: bool
    request_id: str


def verify(received: ReceivedRequest) -> SignedCall:
    """Return the signed call, or raise the refusal of the first check that fails."""
    try:
        if not received.is_secure and not (settings.DEBUG and networks.is_loopback(received.ip)):
            raise HttpsRequired
        signable, signature = _read(received)
    finally:  # what cannot be read counts as well: its refusal is audited, and nobody may fill the log at will
        limiting.spend("ip", received.ip, settings.RATE_PER_IP)
    now_ms = time.time_ns() // 1_000_000
    if not signable.is_timely(now_ms):
        raise ClockOutsideWindow(server_time=now_ms)
    credential = credentials.credential_of(signable.key)
    secret = credential.secret if credential else _UNKNOWN_SECRET
    good = signing.agrees(secret, signable.canonical(), signature)
    if not good or credential is None:
        raise SignatureInvalid
    return SignedCall(credential, signable, signature, received.ip, received.request_id)


def _read(received: ReceivedRequest) -> tuple[signing.Signable, str]:
    """The headers by their grammar; RequestMalformed names the first that is not."""

    def header(name: str, grammar: re.Pattern[str], absent: str | None = None) -> str:
        value = received.headers.get(name.lower(), absent)
        if value is None or not grammar.fullmatch(value):
            raise RequestMalformed(f"{name} is missing, repeated or malformed.", header=name)
        return value

    key = header("X-Cd-Key", signing.KEY)
    time_ms = int(header("X-Cd-Time", signing.TIME))
    window_ms = int(header("X-Cd-Window", signing.WINDOW, str(signing.DEFAULT_WINDOW_MS)))
    seq = int(header("X-Cd-Seq", signing.SEQ))
    signature = header("X-Cd-Sig", signing.SIGNATURE)
    if window_ms > signing.MAX_WINDOW_MS:
        raise RequestMalformed(f"X-Cd-Window is at most {signing.MAX_WINDOW_MS}.", header="X-Cd-Window")
    if not signing.PATH.fullmatch(received.path) or not signing.QUERY.fullmatch(received.query):
        raise RequestMalformed("The path or query has characters that are never signed.")
    names = [pair.partition("=")[0] for pair in received.query.split("&") if pair]
    if len(set(names)) != len(names):
        raise RequestMalformed("A name stands twice in the query.")
    if "content-encoding" in received.headers or {"transfer-encoding", "content-length"} <= received.headers.keys():
        raise RequestMalformed("Send the body as it is, with its length.")
    if received.body and received.headers.get("content-type") != "application/json":
        raise RequestMalformed("Content-Type is application/json.", header="Content-Type")
    signable = signing.Signable(
        method=received.method,
        host=received.host,
        path=received.path,
        query=received.query,
        key=key,
        time_ms=time_ms,
        window_ms=window_ms,
        seq=seq,
        idempotency_key=_idempotency_key(received),
        body_sha256=signing.sha256_hex(received.body),
    )
    return signable, signature.removeprefix("v1=").lower()


def _idempotency_key(received: ReceivedRequest) -> str:
    value = received.headers.get("idempotency-key")
    if received.method == "GET":
        if value is not None:
            raise RequestMalformed("A GET has no effect to name: leave Idempotency-Key out.", header="Idempotency-Key")
        return ""
    if value is None:
        raise IdempotencyKeyMissing
    if not signing.IDEMPOTENCY_KEY.fullmatch(value):
        raise RequestMalformed("Idempotency-Key is repeated or malformed.", header="Idempotency-Key")
    return value


def canonical_host(host: str) -> str:
    """The host as it is signed: lower case, with the port only where it is not 443."""
    return host.lower().removesuffix(":443")


def record_refusal(refusal: DomainError, *, actor: audit.Actor, claimed: str, method: str, path: str) -> None:
    """Write the audit row of a refused caller, under the key that it claimed to have. Never its signature."""
    if isinstance(refusal, limiting.RateLimited | BodyTooLarge):
        return  # these protect the log as well
    subject = f"key:{claimed[:32]}" if claimed else ""
    audit.record("request.refused", actor=actor, subject=subject, refused=refusal.code, method=method, path=path[:200])
