"""Routes for people."""

from django.http.multipartparser import MultiPartParserError
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.authentication import RefuseBots
from accounts.models import User
from accounts.signed_http import MAX_BODY, read_body
from core.errors import CsrfFailed, RequestMalformed
from core.requests import DeskRequest


class Session(SessionAuthentication):
    """A person's session, and a form's token beside it wherever something changes."""

    def enforce_csrf(self, request: Request) -> None:
        plain = request._request
        # Before the token is looked for in it: that would leave the view nothing to read.
        plain._body = read_body(plain, MAX_BODY)
        try:
            super().enforce_csrf(plain)  # type: ignore[arg-type]
        except PermissionDenied as no:
            raise CsrfFailed(str(no.detail)) from None
        except MultiPartParserError as fault:
            raise RequestMalformed(f"The body is not what its Content-Type says: {fault}") from None


class PersonRequest(DeskRequest):
    """A page's request behind `login_required`."""

    user: User


def person_of(request: Request) -> User:
    """Who is signed in, on a route that lets nobody else in."""
    assert isinstance(request.user, User)
    return request.user


class PeopleView(APIView):
    """A route for people in their session. Whoever signs as a bot is shown the door."""

    authentication_classes = [RefuseBots, Session]
    permission_classes = [IsAuthenticated]
