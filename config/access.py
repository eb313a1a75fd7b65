"""Who may see the pages for operators and authors: /readyz, /metrics, the API's document. `settings.ACCESS` decides."""

import functools
import hmac
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http.response import HttpResponseBase

from accounts import networks
from core import problem
from core.requests import DeskRequest

POLICIES = ("open", "token", "loopback")


def is_trusted(request: DeskRequest) -> bool:
    """Whether the caller has METRICS_TOKEN; where none is set, whether it is this machine."""
    if token := settings.METRICS_TOKEN:
        return hmac.compare_digest(request.META.get("HTTP_AUTHORIZATION", "").encode(), f"Bearer {token}".encode())
    return is_local(request)


def is_local(request: DeskRequest) -> bool:
    """Whether the caller is on this machine. A proxy here, of which the desk knows nothing, is not the caller."""
    is_forwarded = not settings.TRUSTED_PROXIES and any(name in request.META for name in networks.FORWARDING)
    return networks.is_loopback(request.client_ip) and not is_forwarded


def by_policy(name: str) -> Callable[[Callable[..., HttpResponseBase]], Callable[..., HttpResponseBase]]:
    """Decorate a view that only those may see whom `settings.ACCESS[name]` names."""

    def decorate(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        @functools.wraps(view)
        def guarded(request: DeskRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            policy = settings.ACCESS[name]
            if policy == "open" or (policy == "token" and is_trusted(request)):
                return view(request, *args, **kwargs)
            if policy == "loopback" and is_local(request):
                return view(request, *args, **kwargs)
            return _refusal(policy)

        return guarded

    return decorate


def _refusal(policy: str) -> HttpResponseBase:
    if policy == "loopback":
        return problem.response(
            problem.body(status=403, code="permission_denied", detail="Only this machine may see this page.")
        )
    refusal = problem.response(
        problem.body(status=401, code="not_authenticated", detail="Send Authorization: Bearer METRICS_TOKEN.")
    )
    refusal["WWW-Authenticate"] = "Bearer"
    return refusal
