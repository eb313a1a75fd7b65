"""CD1 over Django's HTTP: reads a signed request, verifies it, and signs the response."""

import re
import time
from typing import Any

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse

from accounts import protocol, signing
from accounts.protocol import BodyTooLarge, ReceivedRequest, SignedCall
from audit import services as audit
from audit.models import AuditLog
from core.errors import DomainError, RequestMalformed
from core.limiting import Allowance
from core.requests import DeskRequest

MAX_BODY = 64 * 1024
MAX_BATCH_BODY = 1024 * 1024


class SignedRequest(DeskRequest):
    """A bot's request after `verify` has read it; `signed_call` is set after its signature was verified."""

    signed_body: bytes
    signed_call: SignedCall
    untimely_call: SignedCall | None  # signed rightly, at another time: not a caller, but its answer is signed too
    rate_allowance: Allowance | None


def is_signed(request: HttpRequest) -> bool:
    return "HTTP_X_CD_KEY" in request.META or "HTTP_X_CD_SIG" in request.META


def verify(request: SignedRequest, limit: int = MAX_BODY) -> SignedCall:
    """Verify a request and store its SignedCall on it, to sign the response. Refusals are audited."""
    try:
        return check(request, limit)
    except DomainError as refusal:
        record_refusal(refusal, request)
        raise


def check(request: SignedRequest, limit: int = MAX_BODY) -> SignedCall:
    """Do what `verify` does, and leave the audit row of a refusal to the caller."""
    protocol.count(request.client_ip)
    request.signed_body = read_body(request, limit)
    try:
        request.signed_call = protocol.verify(received_request(request, request.signed_body))
    except protocol.ClockOutsideWindow as refusal:
        request.untimely_call = refusal.call
        raise
    return request.signed_call


def read_body(request: HttpRequest, limit: int) -> bytes:
    """Return the body, read before other code can consume it."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise RequestMalformed("Content-Length is not a number.")
    if int(length) > limit:
        raise BodyTooLarge(limit_bytes=limit)
    # Django takes a body without a length for an empty one; the server ends this stream itself.
    chunked = "HTTP_TRANSFER_ENCODING" in request.META
    body = request.META["wsgi.input"].read(limit + 1) if chunked else request.read(int(length))
    if len(body) > limit:
        raise BodyTooLarge(limit_bytes=limit)
    return body


_UNPREFIXED = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}


def received_request(request: DeskRequest, body: bytes) -> ReceivedRequest:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in request.META.items() if name[:5] == "HTTP_"}
    headers |= {name: request.META[key] for key, name in _UNPREFIXED.items() if request.META.get(key)}
    try:
        host = protocol.canonical_host(request.get_host())
    except DisallowedHost:
        raise RequestMalformed("The desk does not serve this Host.", header="Host") from None
    return ReceivedRequest(
        method=request.method or "",
        host=host,
        path=path_as_sent(request),
        query=request.META.get("QUERY_STRING", ""),
        headers=headers,
        body=body,
        ip=request.client_ip,
        is_secure=request.is_secure(),
        request_id=request.request_id,
    )


def path_as_sent(request: HttpRequest) -> str:
    """Return the path before decoding, where the server gives it: a signed path has one spelling only."""
    return str(request.META.get("RAW_PATH", request.path))


def sign_response(call: SignedCall, response: HttpResponse) -> None:
    """Add the response's time and signature, which covers the request's signature, the status and the body.

    A second signature covers the ETag too, if there is one.
    """
    time_ms, secret = time.time_ns() // 1_000_000, call.credential.secret
    response["X-Cd-Response-Time"] = str(time_ms)
    signed: dict[str, Any] = {
        "request_signature": call.signature,
        "status": response.status_code,
        "time_ms": time_ms,
        "body": response.content,
    }
    response["X-Cd-Response-Sig"] = signing.sign_response(secret, **signed)
    if response.has_header("ETag"):
        response["X-Cd-Response-Etag-Sig"] = signing.sign_response_etag(secret, **signed, etag=response["ETag"])


def record_refusal(refusal: DomainError, request: DeskRequest) -> None:
    """Write the audit row of a refused request: under its verified key, or under the key it claimed."""
    call: SignedCall | None = getattr(request, "signed_call", None)
    actor = call.actor if call else audit.Actor(AuditLog.Actor.NOBODY, "", request.client_ip, request.request_id)
    claimed = request.META.get("HTTP_X_CD_KEY", "")
    protocol.record_refusal(refusal, actor=actor, claimed=claimed, method=request.method or "", path=request.path)
