"""The API's error body: RFC 9457 with a stable `code`, for refusals of the desk and errors of the framework."""

import time
from http import HTTPStatus
from typing import Any

import orjson
from django.core.exceptions import SuspiciousOperation
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from core import errors
from core.errors import DomainError


def body(
    *, status: int, code: str, detail: str, retry: str = "never", request_id: str = "", **extra: Any
) -> dict[str, Any]:
    """Return the members that every error has, and `extra`. Times are milliseconds since 1970."""
    return {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "retry": retry,
        "request_id": request_id,
        "server_time": time.time_ns() // 1_000_000,
        **extra,
    }


def response(problem: dict[str, Any]) -> HttpResponse:
    encoded = orjson.dumps(problem)
    response = HttpResponse(encoded, status=problem["status"], content_type="application/problem+json")
    response["Content-Length"] = str(len(encoded))
    response["Cache-Control"] = "no-store"
    if "retry_after_ms" in problem:
        response["Retry-After"] = str(-(-problem["retry_after_ms"] // 1000))
    if "limit" in problem:
        response["RateLimit-Limit"] = str(problem["limit"])
        response["RateLimit-Remaining"] = "0"
        response["RateLimit-Reset"] = response["Retry-After"]
    if problem["status"] == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = "CD1"
    return response


def of(refusal: DomainError, request_id: str = "") -> dict[str, Any]:
    return body(
        status=refusal.status,
        code=refusal.code,
        detail=refusal.message,
        retry=refusal.retry,
        request_id=request_id,
        **refusal.extra,
    )


_FRAMEWORK: dict[type[Exception], tuple[int, str, str]] = {
    exceptions.NotAuthenticated: (401, "not_authenticated", "Sign in, or sign the request."),
    exceptions.AuthenticationFailed: (401, "not_authenticated", "Sign in, or sign the request."),
    exceptions.PermissionDenied: (403, "permission_denied", "You do not have permission to do this."),
    exceptions.MethodNotAllowed: (405, "method_not_allowed", "This route does not support that method."),
    exceptions.NotAcceptable: (406, "not_acceptable", "The API responds with application/json only."),
    exceptions.UnsupportedMediaType: (415, "unsupported_media_type", "Send application/json."),
}


def statuses() -> dict[str, int]:
    """Return the HTTP status of every code of a response."""
    framework = {code: status for status, code, _ in _FRAMEWORK.values()}
    return {"internal": 500, **framework, **{cls.code: int(cls.status) for cls in errors.every_error()}}


def of_framework(fault: Exception) -> tuple[int, str, str] | None:
    """Return status, code and detail of an error of the framework; None for any other exception, which is a bug."""
    if isinstance(fault, SuspiciousOperation):
        return 400, "request_malformed", errors.RequestMalformed.detail
    if isinstance(fault, Http404):
        return 404, "not_found", errors.NotFound.detail
    return next((problem for kind, problem in _FRAMEWORK.items() if isinstance(fault, kind)), None)


DATA_EXCEPTION = "22"  # the class of SQLSTATEs for values that no column or comparison accepts
LOCK_NOT_AVAILABLE, QUERY_CANCELED, DEADLOCK, SERIALIZATION = "55P03", "57014", "40P01", "40001"


def of_database(fault: DatabaseError | InterfaceError) -> DomainError | None:
    """Return the refusal for a lock conflict, a bad value or an unreachable database; None for a bug of the desk."""
    state = getattr(fault.__cause__, "sqlstate", None)
    if state in (LOCK_NOT_AVAILABLE, QUERY_CANCELED, DEADLOCK, SERIALIZATION):
        return errors.Busy(retry_after_ms=100)
    if state is not None and state.startswith(DATA_EXCEPTION):
        return errors.Invalid({"request": ["contains or results in a value that cannot be stored or compared"]})
    if isinstance(fault, OperationalError | InterfaceError):
        return errors.Unavailable(retry_after_ms=1000)
    return None


def handle(fault: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """REST framework's exception handler: every response that is not a success is a problem document."""
    request_id = getattr(context["request"], "request_id", "")
    if isinstance(fault, DatabaseError | InterfaceError):
        fault = of_database(fault) or fault
    if isinstance(fault, DomainError):
        refusal = response(of(fault, request_id))
        if fault.replayed:
            refusal["Idempotency-Replayed"] = "true"
        return refusal
    framework_problem = of_framework(fault)
    if framework_problem is None:
        return None
    status, code, detail = framework_problem
    problem_response = response(body(status=status, code=code, detail=detail, request_id=request_id))
    if isinstance(fault, exceptions.MethodNotAllowed):
        allowed = getattr(context["view"], "allowed_methods", [])
        problem_response["Allow"] = ", ".join(allowed)
    return problem_response
