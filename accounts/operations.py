"""Describes the API's operations by their callers: bots that sign requests, and people with a session."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.conf import settings

from core import openapi, shapes
from core.shapes import Schema

CD1 = shapes.security(
    "CD1",
    {
        "type": "apiKey",
        "in": "header",
        "name": "X-Cd-Sig",
        "description": "v1= and the hex HMAC-SHA256 of eleven lines: the other X-Cd headers, the request and its body. "
        "See /docs/protocol/.",
    },
)
SESSION = shapes.security(
    "Session",
    {
        "type": "apiKey",
        "in": "cookie",
        "name": settings.SESSION_COOKIE_NAME,
        "description": "The cookie of a signed-in person.",
    },
)


def _header(name: str, pattern: str, description: str, *, required: bool = True) -> Schema:
    shape = {"type": "string", "pattern": f"^{pattern}$"}
    return shapes.parameter(name, shape, description, where="header", required=required)


SIGNED_HEADERS = (
    _header("X-Cd-Key", r"ck_[0-9a-f]{16}\.[1-9][0-9]{0,5}", "Key and generation."),
    _header("X-Cd-Time", "[1-9][0-9]{12}", "Milliseconds since 1970."),
    _header("X-Cd-Window", "[1-9][0-9]{0,4}", "Milliseconds of validity; 5000 if absent.", required=False),
    _header("X-Cd-Seq", "[1-9][0-9]{0,17}", "Strictly increasing for each generation of a key."),
    _header("X-Cd-Sig", "v1=[0-9a-f]{64}", "HMAC-SHA256 of the canonical request."),
)
IDEMPOTENCY_KEY = _header(
    "Idempotency-Key", "[A-Za-z0-9_-]{16,64}", "Names the effect: the same key in every repetition of the request."
)
CSRF_TOKEN = _header(
    "X-CSRFToken", "[A-Za-z0-9]{32,64}", f"The value of the cookie {settings.CSRF_COOKIE_NAME}, or a form's token."
)

_ANYBODY = ("request_malformed", "method_not_allowed", "internal")
_SIGNED = (
    *_ANYBODY, "clock_outside_window", "signature_invalid", "key_revoked", "key_expired", "key_generation_retired",
    "https_required", "ip_denied", "owner_inactive", "scope_denied", "seq_replayed", "busy", "body_too_large",
    "invalid", "rate_limited", "unavailable", "key_unreadable",
)  # fmt: skip
_SIGNED_EFFECT = ("idempotency_key_missing", "idempotency_conflict")
# A person's route refuses signed requests after verifying them, so it also has the refusals of bots' routes.
_PERSONAL = (
    *_ANYBODY, "not_authenticated", "clock_outside_window", "signature_invalid", "history_closed_to_bots",
    "https_required", "not_found", "not_acceptable", "busy", "body_too_large", "invalid", "rate_limited", "unavailable",
    "key_unreadable",
)  # fmt: skip
_PERSONAL_EFFECT = ("csrf_failed",)

Described = Callable[[Any], Any]


def public(name: str, summary: str, answers: Mapping[int, Schema | None]) -> Described:
    """Describe an operation that anyone may call, unsigned."""
    refuses = (*_ANYBODY, "not_found", "not_acceptable")
    return openapi.operation(name, summary, answers, tag="bots", security=None, refuses=refuses)


def signed(
    name: str,
    summary: str,
    answers: Mapping[int, Schema | None],
    body: Schema | None = None,
    *,
    parameters: Iterable[Schema] = (),
    refuses: Iterable[str] = (),
    deprecated: bool = False,
) -> Described:
    """Describe a signed operation of bots. `refuses`: its own codes, besides those of the protocol."""

    def decorate(method: Any) -> Any:
        is_read = method.__name__ == "get"
        described = openapi.operation(
            name,
            summary,
            answers,
            tag="bots",
            security=CD1,
            parameters=[*SIGNED_HEADERS, *(() if is_read else (IDEMPOTENCY_KEY,)), *parameters],
            body=body,
            refuses=[*_SIGNED, *(() if is_read else _SIGNED_EFFECT), *refuses],
            deprecated=deprecated,
        )
        return described(method)

    return decorate


def personal(
    name: str,
    summary: str,
    answers: Mapping[int, Schema | None],
    body: Schema | None = None,
    *,
    parameters: Iterable[Schema] = (),
    refuses: Iterable[str] = (),
) -> Described:
    """Describe an operation of a signed-in person. Operations with an effect need the CSRF token."""

    def decorate(method: Any) -> Any:
        is_read = method.__name__ == "get"
        described = openapi.operation(
            name,
            summary,
            answers,
            tag="people",
            security=SESSION,
            parameters=[*(() if is_read else (CSRF_TOKEN,)), *parameters],
            body=body,
            refuses=[*_PERSONAL, *(() if is_read else _PERSONAL_EFFECT), *refuses],
        )
        return described(method)

    return decorate
