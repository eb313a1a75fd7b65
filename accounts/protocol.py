"""The CD1 protocol: the checks of a signed request, in order. `signing` calculates the signature.

Cheap checks come first, and a caller learns nothing about a key before its signature is verified. What a key may do
*now* is checked in the request's own transaction, by signed_call and signed_read.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from django.conf import settings

from accounts import credentials, networks, signing
from accounts.credentials import Credential
from audit import services as audit
from audit.models import AuditLog
from core import crypto, limiting
from core.errors import DomainError, RequestMalformed

_UNKNOWN_SECRET = crypto.new_secret()  # stands in for an unknown key's, so that the check takes as long


class HttpsRequired(DomainError):
    code = "https_required"
    status = 403
    detail = "Bots must use https://."


class ClockOutsideWindow(DomainError):
    """`call`: the call, if its signature is right. Then the answer is signed, and its bot may set the clock by it."""

    code = "clock_outside_window"
    status = 401
    retry = "same_key"
    detail = "X-Cd-Time is outside the window around the server's time. Set the clock by X-Cd-Response-Time."
    call: "SignedCall | None" = None


class SignatureInvalid(DomainError):
    code = "signature_invalid"
    status = 401
    detail = "The key is unknown, the secret is wrong, or the request differs from what was signed."


class KeyRevoked(DomainError):
    code = "key_revoked"
    status = 401
    retry = "rotate"
    detail = "This key was revoked. Ask its owner for a new one."


class KeyExpired(DomainError):
    code = "key_expired"
    status = 401
    retry = "rotate"
    detail = "This key has expired. Ask its owner for a new one."


class KeyGenerationRetired(DomainError):
    code = "key_generation_retired"
    status = 401
    retry = "rotate"
    detail = "This generation of the key was replaced by a newer one. Use the newer secret."


class IpDenied(DomainError):
    code = "ip_denied"
    status = 403
    detail = "The caller's address is not on the key's list of allowed networks."


class OwnerInactive(DomainError):
    code = "owner_inactive"
    status = 403
    detail = "The owner of this key's account is deactivated. Opens and reads are refused; closes pass."


class ScopeDenied(DomainError):
    code = "scope_denied"
    status = 403
    detail = "Keys of this kind may not call this operation."


class SeqReplayed(DomainError):
    code = "seq_replayed"
    retry = "new_seq"
    detail = "X-Cd-Seq is not higher than the last one used. Repeat with a higher one and the same Idempotency-Key."


class IdempotencyKeyMissing(DomainError):
    code = "idempotency_key_missing"
    status = 400
    detail = "Every request except GET needs an Idempotency-Key of 16 to 64 letters, digits, - or _."


class IdempotencyConflict(DomainError):
    code = "idempotency_conflict"
    status = 422
    detail = "This Idempotency-Key was used for a different request. Use a new one for each effect."


class BodyTooLarge(DomainError):
    code = "body_too_large"
    status = 413
    detail = "The body is larger than this route accepts."


@dataclass(frozen=True, slots=True)
class SignedCall:
    """A request whose signature was verified."""

    credential: Credential
    signable: signing.Signable
    signature: str = field(repr=False)
    ip: str
    request_id: str

    @property
    def actor(self) -> audit.Actor:
        return audit.Actor(AuditLog.Actor.BOT, self.credential.key, self.ip, self.request_id)

    def caller(self) -> dict[str, Any]:
        """Return what `signed_call` cannot know of the caller (`p_caller`). Key and account are in the key's row."""
        caller = self.actor.caller()
        known = {name: caller[name] for name in ("ip", "request_id", "has_limits")}
        return known | {"signed_ms": self.signable.time_ms}


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it was received, by any server. Header names are lower case; a repeated header holds a comma."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    ip: str
    is_secure: bool
    request_id: str


def count(ip: str) -> None:
    """Count one signed request against its address, before anything of it is looked at or recorded; or RateLimited."""
    limiting.spend("ip", networks.block_of(ip))


def verify(received: ReceivedRequest) -> SignedCall:
    """Return the signed call, or raise the refusal of the first check that fails. The request has been counted."""
    if not received.is_secure and not (settings.DEBUG and networks.is_loopback(received.ip)):
        raise HttpsRequired
    signable, signature = _read(received)
    now_ms = time.time_ns() // 1_000_000
    credential = credentials.credential_of(signable.key)
    secret = credential.secret if credential else _UNKNOWN_SECRET
    is_genuine = signing.is_signature_of(secret, signable.canonical(), signature)
    call = SignedCall(credential, signable, signature, received.ip, received.request_id) if credential else None
    if not signable.is_timely(now_ms):
        refusal = ClockOutsideWindow(server_time=now_ms)
        refusal.call = call if is_genuine else None
        raise refusal
    if not is_genuine or call is None:
        raise SignatureInvalid
    return call


def _read(received: ReceivedRequest) -> tuple[signing.Signable, str]:
    """Read the headers by their grammar; RequestMalformed names the first one that does not match."""

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
        raise RequestMalformed("The path or query has characters that cannot be signed.")
    names = [pair.partition("=")[0] for pair in received.query.split("&") if pair]
    if len(set(names)) != len(names):
        raise RequestMalformed("A name occurs twice in the query.")
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
            raise RequestMalformed("A GET has no effect: leave Idempotency-Key out.", header="Idempotency-Key")
        return ""
    if value is None:
        raise IdempotencyKeyMissing
    if not signing.IDEMPOTENCY_KEY.fullmatch(value):
        raise RequestMalformed("Idempotency-Key is repeated or malformed.", header="Idempotency-Key")
    return value


def canonical_host(host: str) -> str:
    """Return the host as it is signed: in lower case, with the port only where it is not 443."""
    return host.lower().removesuffix(":443")


def refuse(call: SignedCall, refusal: DomainError) -> NoReturn:
    """Record a refusal of a call whose signature was verified, and raise it."""
    record_refused_call(call, refusal)
    raise refusal


def record_refused_call(call: SignedCall, refusal: DomainError) -> None:
    request = call.signable
    record_refusal(refusal, actor=call.actor, claimed=request.key, method=request.method, path=request.path)


def record_refusal(refusal: DomainError, *, actor: audit.Actor, claimed: str, method: str, path: str) -> None:
    """Write the audit row of a refused caller under the key that it claimed, without its signature; sampled."""
    if isinstance(refusal, BodyTooLarge):
        return
    audit.record_sampled(
        "request.limited" if isinstance(refusal, limiting.RateLimited) else "request.refused",
        of=actor.name or networks.block_of(actor.ip or networks.UNKNOWN),
        actor=actor,
        subject=f"key:{claimed[:32]}" if claimed else "",
        refused=refusal.code,
        method=method,
        path=path[:200],
    )
