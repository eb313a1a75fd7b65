"""Base classes for routes of signed-in people."""

from collections.abc import Sequence

from django.http.multipartparser import MultiPartParserError
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.authentication import RefuseBots
from accounts.models import User
from accounts.signed_http import MAX_BODY, read_body
from core import limiting
from core.errors import CsrfFailed, RequestMalformed
from core.requests import DeskRequest


class Session(SessionAuthentication):
    """Authenticates by a person's session, with the CSRF token where the request has an effect."""

    def enforce_csrf(self, request: Request) -> None:
        django_request = request._request
        # Read now: the search for the token would consume the body, and the view would find it empty.
        django_request._body = read_body(django_request, MAX_BODY)
        try:
            super().enforce_csrf(django_request)  # type: ignore[arg-type]
        except PermissionDenied as denial:
            raise CsrfFailed(str(denial.detail)) from None
        except MultiPartParserError as fault:
            raise RequestMalformed(f"The body does not match its Content-Type: {fault}") from None


class PersonRequest(DeskRequest):
    """A request of a page behind `login_required`."""

    user: User


def person_of(request: Request) -> User:
    """Return the signed-in user of a route that requires one."""
    assert isinstance(request.user, User)
    return request.user


class PersonRate(BaseThrottle):
    """Limit a person's requests, from any address; raises RateLimited."""

    bucket = "person"

    def allow_request(self, request: Request, view: APIView) -> bool:
        limiting.spend(self.bucket, str(request.user.pk))
        return True


class ExportRate(PersonRate):
    bucket = "export"


EXPORTS = [PersonRate, ExportRate]


class PeopleView(APIView):
    """A route for people with a session. Signed requests of bots are refused."""

    authentication_classes = [RefuseBots, Session]
    permission_classes = [IsAuthenticated]
    throttle_classes: Sequence[type[BaseThrottle]] = [PersonRate]
