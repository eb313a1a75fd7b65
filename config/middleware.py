"""Middleware: a request id of the desk's own and a log line, headers for browsers, and sessions on people's routes."""

import re
import time
import uuid
from collections.abc import Callable
from typing import cast

import structlog
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseForbidden,
    HttpResponseNotAllowed,
    HttpResponseNotFound,
    HttpResponsePermanentRedirect,
)  # fmt: skip
from django.utils.module_loading import import_string
from prometheus_client import Counter

from accounts import networks
from accounts.protocol import HttpsRequired
from audit import reads
from core import limiting, problem, requests
from core.errors import CsrfFailed, NotFound, RequestMalformed
from core.requests import DeskRequest

log = structlog.get_logger("request")
REQUESTS = Counter("copydesk_requests", "Requests answered.", ["method", "status"])
METHODS = frozenset({"GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "PUT"})
Handler = Callable[[DeskRequest], HttpResponse]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
BOT_ROUTES = (
    "/api/v2/trades/active",
    "/api/v2/trades/orders",
    "/api/v2/copier/",
    "/api/v2/account",
    "/api/v2/actives",
    "/api/v2/signal",
    "/api/v2/time",
    "/signal",
)
_TEXT = "text/plain; charset=utf-8"
_QUIET = ("/healthz", "/readyz", "/metrics", "/static/")


class RequestLog:
    """Sets the request's id and the caller's address, and logs one line with the response."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: DeskRequest) -> HttpResponse:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        request.request_id = uuid.uuid4().hex
        request.caller_request_id = given if _REQUEST_ID.fullmatch(given) else ""
        request.client_ip = networks.client_address(
            request.META.get("REMOTE_ADDR", ""), request.META.get("HTTP_X_FORWARDED_FOR", ""), settings.TRUSTED_PROXIES
        )
        began = time.perf_counter()
        token = requests.current.set(request)
        try:
            response = self.get_response(request)
        finally:
            requests.current.reset(token)
        method = request.method if request.method in METHODS else "other"
        REQUESTS.labels(method, str(response.status_code)).inc()
        response["X-Request-ID"] = request.request_id
        if request.caller_request_id:
            response["X-Caller-Request-ID"] = request.caller_request_id
        if not request.path.startswith(_QUIET):
            self._log(request, response, began)
        return response

    @staticmethod
    def _log(request: DeskRequest, response: HttpResponse, began: float) -> None:
        log.info(
            "request",
            method=request.method,
            path=_without_token(request.path)[:200],
            status=response.status_code,
            ms=round((time.perf_counter() - began) * 1000, 1),
            **requests.caller_of(request),
        )


def _without_token(path: str) -> str:
    """The path without the part that is a key: the link to a new password."""
    return "/password-reset/…" if path.startswith("/password-reset/") and path.count("/") > 3 else path


_HEADERS = {
    # No script or style of the desk, the admin or the API's page is inline.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}


class SecurityHeaders:
    """Adds security headers for browsers, and HSTS. What does not say how it may be cached is not cached."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: DeskRequest) -> HttpResponse:
        response = self.get_response(request)
        for name, value in _HEADERS.items():
            response.setdefault(name, value)
        response.setdefault("Cache-Control", "no-store")
        if not settings.DEBUG and request.is_secure():
            response.setdefault("Strict-Transport-Security", "max-age=31536000; includeSubDomains; preload")
        return response


def _unfit_for_people(request: DeskRequest) -> HttpResponse | None:
    """The response to a request that reaches no page: one of another method, as TRACE; one with a NUL, which no name
    has and PostgreSQL cannot store; and one over plain HTTP in production, where a page is moved to https and anything
    else is refused."""
    if request.method not in METHODS:
        return HttpResponseNotAllowed(sorted(METHODS))
    if "\x00" in request.path or ("%00" in request.META.get("QUERY_STRING", "") and not _is_api(request)):
        if _is_api(request):
            return problem.response(problem.of(NotFound(), request.request_id))
        return HttpResponseNotFound("There is no such page.", content_type=_TEXT)
    limited = _over_the_limit(request)
    if limited is not None:
        return limited
    if settings.DEBUG or request.is_secure() or request.path.startswith(_QUIET):
        return None
    if _is_api(request):
        return problem.response(problem.of(HttpsRequired("Use https://."), request.request_id))
    if request.method in ("GET", "HEAD"):
        return HttpResponsePermanentRedirect(f"https://{request.get_host()}{request.get_full_path()}")
    return HttpResponseForbidden("This form was sent without encryption. Open the page again at https://, and sign in.")


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def _over_the_limit(request: DeskRequest) -> HttpResponse | None:
    if request.path.startswith(_QUIET):
        return None
    try:
        limiting.spend("visitor", networks.block_of(request.client_ip))
    except limiting.RateLimited as refusal:
        document = problem.response(problem.of(refusal, request.request_id))
        if _is_api(request):
            return document
        page = HttpResponse("Too many requests from your address. Wait a minute, then reload.", status=429)
        page["Content-Type"], page["Retry-After"] = _TEXT, document["Retry-After"]
        return page
    return None


class PeopleOnly:
    """Runs Django's own middleware on people's routes only. Bots' routes need none of it and are faster without."""

    def __init__(self, get_response: Handler) -> None:
        self.bots = self.people = get_response
        self.view_hooks: list[Callable[..., HttpResponse | None]] = []
        for path in reversed(settings.PEOPLE_MIDDLEWARE):
            self.people = import_string(path)(self.people)
            if hasattr(self.people, "process_view"):
                self.view_hooks.insert(0, self.people.process_view)

    def __call__(self, request: DeskRequest) -> HttpResponse:
        if request.path.startswith(BOT_ROUTES):
            return self.bots(request)
        try:
            response = _unfit_for_people(request) or self.people(request)
            reads.record_read(request, response)
            return response
        except DisallowedHost:
            if not _is_api(request):
                raise
            refusal = RequestMalformed("The desk does not serve this Host.", header="Host")
            return problem.response(problem.of(refusal, request.request_id))

    def process_view(self, request: HttpRequest, *args: object) -> HttpResponse | None:
        """Django calls this hook only on middleware in its own list, so the hooks of the inner ones (CSRF) run here."""
        if request.path.startswith(BOT_ROUTES):
            return None
        answers = (hook(request, *args) for hook in self.view_hooks)
        return next((answer for answer in answers if answer is not None), None)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if _is_api(request):
        request_id = getattr(request, "request_id", "")
        return problem.response(problem.of(CsrfFailed(f"CSRF: {reason}"), request_id))
    return cast(
        HttpResponse, HttpResponseForbidden("This form has expired. Go back, reload the page, and send it again.")
    )
