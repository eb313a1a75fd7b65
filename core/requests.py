"""Types of requests with the attributes that middleware adds. They annotate; no code creates them."""

from contextvars import ContextVar
from typing import Any

from django.http import HttpRequest
from django.utils.functional import LazyObject


class DeskRequest(HttpRequest):
    """Any request, with the caller's address (behind proxies) and the desk's own id of the request.

    `caller_request_id` is the X-Request-ID that the caller sent, if it is well-formed, else empty. It is never used as
    an id of the desk: two callers may send the same.
    """

    client_ip: str
    request_id: str
    caller_request_id: str


current: ContextVar[DeskRequest | None] = ContextVar("request", default=None)


def caller_of(request: DeskRequest) -> dict[str, Any]:
    """Return the request's id, and who sent it from where: `key` of a bot, `user` (id) of a person, None if unknown.

    A person is known once the session was read; a log line causes no query.
    """
    call, user = getattr(request, "signed_call", None), _known_user(request)
    own = {"caller_request_id": request.caller_request_id} if request.caller_request_id else {}
    return {
        "request_id": request.request_id,
        **own,
        "ip": request.client_ip,
        "key": call.credential.key if call else None,
        "user": str(user.pk) if user is not None and user.pk else None,
    }


def _known_user(request: DeskRequest) -> Any:
    """The user where it was read already, also one who has signed out or in with this request."""
    before, now = getattr(request, "_cached_user", None), getattr(request, "user", None)
    return before if before is not None and before.pk else None if isinstance(now, LazyObject) else now
