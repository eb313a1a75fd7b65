"""Who signed this request. The checks come in the protocol's order: cheap first, nothing told before the MAC is good.

What a key is allowed to do *now* (revoked, expired, address, number) is read in the request's own transaction
(signed_call, signed_read); what is kept here of a key can never change.
"""

import contextlib
import functools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.db import connections
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import networks, signing
from audit import services as audit
from audit.models import AuditLog
from core import crypto, limiting
from core.errors import DomainError, RequestMalformed

BOT_DATABASE = "bot"
MAX_BODY = 64 * 1024
MAX_BATCH_BODY = 1024 * 1024
log = structlog.get_logger()
_UNKNOWN_SECRET = crypto.new_secret()  # verified against when the key is unknown, so that both cost the same


class BodyTooLarge(DomainError):
    code = "body_too_large"
    status = 413
    detail = "The body is larger than this route takes."


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


class KeyUnreadable(DomainError):
    code = "key_unreadable"
    status = 503
    retry = "same_key"
    detail = "The desk cannot read what it keeps of this key. Its operators have been told; repeat later."


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


class HistoryClosedToBots(DomainError):
    code = "history_closed_to_bots"
    status = 403
    detail = "No key can read history or wallets. Ask what is active."


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


Kind = Literal["master", "copier", "readonly"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What never changes of one generation of a key."""

    generation_id: int
    key_pk: int
    key: str
    kind: Kind
    account_id: int
    account_name: str
    rate_per_minute: int | None
    secret: str = field(repr=False)


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

    def caller(self) -> dict[str, str | int]:
        """As the database's functions take it."""
        return {
            "kind": "bot",
            "actor": self.credential.key,
            "account": self.credential.account_id,
            "ip": self.ip,
            "request_id": self.request_id,
        }


@dataclass(frozen=True, slots=True)
class Received:
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


def verify(received: Received) -> SignedCall:
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
    credential = credential_of(signable.key)
    secret = credential.secret if credential else _UNKNOWN_SECRET
    good = signing.agrees(secret, signable.canonical(), signature)
    if not good or credential is None:
        raise SignatureInvalid
    return SignedCall(credential, signable, signature, received.ip, received.request_id)


def _read(received: Received) -> tuple[signing.Signable, str]:
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


def _idempotency_key(received: Received) -> str:
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


def credential_of(key: str) -> Credential | None:
    """The credential of `ck_….generation`; None where there is no such key."""
    row = _stored(key)
    if row is None:
        return None
    generation_id, key_pk, kind, account_id, account_name, sealed, rate = row
    key_id, _, generation = key.partition(".")
    try:
        secret = crypto.decrypt(sealed, bound_to=f"bot_key|{key_id}|{generation}")
    except crypto.SecretUnreadable as fault:  # moved between rows, or sealed under a key that is not loaded
        log.error("key.unreadable", key=key, fault=str(fault))
        raise KeyUnreadable from None
    return Credential(generation_id, key_pk, key, kind, account_id, account_name, rate, secret)


_Stored = tuple[int, int, Kind, int, str, bytes, int | None]


class _Unknown(Exception):
    """Keeps lru_cache from remembering that a key does not exist: it may be made a moment later."""


def _stored(key: str) -> _Stored | None:
    try:
        return _look_up(connections[BOT_DATABASE].settings_dict["NAME"], key, int(time.monotonic() // 60))
    except _Unknown:
        return None


@functools.lru_cache(maxsize=20_000)
def _look_up(_database: str, key: str, _minute: int) -> _Stored:
    """Kept sealed. A generation's secret, kind and account never change; its rate does, and counts within a minute."""
    key_id, _, generation = key.partition(".")
    with connections[BOT_DATABASE].cursor() as cursor:
        cursor.execute("select * from bot_key_lookup(%s, %s)", [key_id, int(generation)])
        row = cursor.fetchone()
    if row is None:
        raise _Unknown
    return row  # type: ignore[no-any-return]


_REFUSALS: dict[str, type[DomainError]] = {
    cls.code: cls for cls in (KeyRevoked, KeyExpired, KeyGenerationRetired, IpDenied, SeqReplayed)
}


def refusal(code: str, **extra: str) -> DomainError:
    """The refusal that signed_call or signed_read answered for the call as a whole."""
    return _REFUSALS[code](**extra)


# --- Django and DRF


def host_of(host: str) -> str:
    """As it is signed: lower case, the port only where it is not 443."""
    return host.lower().removesuffix(":443")


def read_body(request: HttpRequest, limit: int) -> bytes:
    """The body, read before anything else may consume it."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise RequestMalformed("Content-Length is not a number.")
    if int(length) > limit:
        raise BodyTooLarge(limit_bytes=limit)
    # Django reads a body without a length as an empty one; the server ends this stream itself.
    chunked = "HTTP_TRANSFER_ENCODING" in request.META
    body = request.META["wsgi.input"].read(limit + 1) if chunked else request.read(int(length))
    if len(body) > limit:
        raise BodyTooLarge(limit_bytes=limit)
    return body


_UNPREFIXED = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}


def received(request: HttpRequest, body: bytes) -> Received:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in request.META.items() if name[:5] == "HTTP_"}
    headers |= {name: request.META[key] for key, name in _UNPREFIXED.items() if request.META.get(key)}
    try:
        host = host_of(request.get_host())
    except DisallowedHost:
        raise RequestMalformed("The desk is not reached by this Host.", header="Host") from None
    return Received(
        method=request.method or "",
        host=host,
        path=path_as_sent(request),
        query=request.META.get("QUERY_STRING", ""),
        headers=headers,
        body=body,
        ip=request.client_ip,  # type: ignore[attr-defined]
        is_secure=request.is_secure(),
        request_id=request.request_id,  # type: ignore[attr-defined]
    )


def path_as_sent(request: HttpRequest) -> str:
    """Not decoded, where the server tells: what is signed has no second spelling."""
    return str(request.META.get("RAW_PATH", request.path))


def is_signed(request: HttpRequest) -> bool:
    return "HTTP_X_CD_KEY" in request.META or "HTTP_X_CD_SIG" in request.META


def verify_http(request: HttpRequest, limit: int = MAX_BODY) -> SignedCall:
    """Verify a Django request and remember the call on it, so that the answer is signed. Refusals are audited."""
    try:
        body = read_body(request, limit)
        request.signed_body = body  # type: ignore[attr-defined]
        call = verify(received(request, body))
    except DomainError as no:
        audit_refusal(no, request)
        raise
    request.signed_call = call  # type: ignore[attr-defined]
    return call


def audit_refusal(no: DomainError, request: HttpRequest) -> None:
    """A refused HTTP request leaves a row."""
    call: SignedCall | None = getattr(request, "signed_call", None)
    caller: Any = request  # with client_ip and request_id, by our middleware
    actor = call.actor if call else audit.Actor(AuditLog.Actor.NOBODY, "", caller.client_ip, caller.request_id)
    claimed = request.META.get("HTTP_X_CD_KEY", "")
    audit_refused(no, actor=actor, claimed=claimed, method=request.method or "", path=request.path)


def audit_refused(no: DomainError, *, actor: audit.Actor, claimed: str, method: str, path: str) -> None:
    """A refused caller leaves a row, by the key it claimed to have. Never its signature."""
    if isinstance(no, limiting.RateLimited | BodyTooLarge):
        return  # these protect the log as well
    subject = f"key:{claimed[:32]}" if claimed else ""
    audit.record("request.refused", actor=actor, subject=subject, refused=no.code, method=method, path=path[:200])


class Signed(BaseAuthentication):
    """DRF's door for bots: `request.auth` is the SignedCall."""

    def authenticate(self, request: Request) -> tuple[None, SignedCall]:
        limit = getattr(request.parser_context["view"], "max_body", MAX_BODY)
        return None, verify_http(request._request, limit)

    def authenticate_header(self, request: Request) -> str:
        return "CD1"


class BotsStayOut(BaseAuthentication):
    """Before people's routes: whoever signs as a bot is told that this is not for bots."""

    def authenticate(self, request: Request) -> None:
        if not is_signed(request._request):
            return
        with contextlib.suppress(RequestMalformed):  # a bot, though what it sent cannot be signed
            verify_http(request._request)
        no = HistoryClosedToBots()
        audit_refusal(no, request._request)
        raise no
