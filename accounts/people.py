"""Routes for people."""

from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.authentication import BotsStayOut
from core.errors import CsrfFailed


class Session(SessionAuthentication):
    """A person's session, and a form's token beside it wherever something changes."""

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as no:
            raise CsrfFailed(str(no.detail)) from None


class PeopleView(APIView):
    """A route for people in their session. Whoever signs as a bot is shown the door."""

    authentication_classes = [BotsStayOut, Session]
    permission_classes = [IsAuthenticated]
