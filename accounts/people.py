"""Routes for people."""

from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.views import APIView

from accounts.authentication import BotsStayOut


class PeopleView(APIView):
    """A route for people in their session. Whoever signs as a bot is shown the door."""

    authentication_classes = [BotsStayOut, SessionAuthentication]
    permission_classes = [IsAuthenticated]
