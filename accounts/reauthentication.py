"""The password again, before money leaves: a session that somebody else found open moves none."""

import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver

from accounts.models import User
from accounts.session_views import PersonRequest
from accounts.sign_in import SignInForm
from core.errors import DomainError
from core.requests import DeskRequest

GIVEN_AT = "password_given_at"  # in the session: seconds since 1970


class ReauthenticationNeeded(DomainError):
    code = "reauthentication_needed"
    status = 403
    detail = "Enter your password again: it was given too long ago for this."


def is_recent(request: PersonRequest) -> bool:
    """Whether the password was given in this session lately. The guest of a demo has none."""
    if settings.DEMO_GUEST and request.user.get_username() == settings.DEMO_GUEST:
        return True
    age_s: float = time.time() - request.session.get(GIVEN_AT, 0)
    return 0 <= age_s < timedelta(minutes=settings.REAUTHENTICATE_AFTER_MIN).total_seconds()


def require(request: PersonRequest, given: str) -> None:
    """Raise ReauthenticationNeeded unless the password was given lately, or is the one given now.

    A wrong one is limited and recorded as at the sign-in.
    """
    if is_recent(request):
        return
    if not given:
        raise ReauthenticationNeeded
    form = SignInForm(request, {"username": request.user.get_username(), "password": given})
    if not form.is_valid() or form.get_user() != request.user:
        limited = form.non_field_errors() if form.is_limited else []
        raise ReauthenticationNeeded(str(limited[0]) if limited else "This is not your password.")
    request.session[GIVEN_AT] = time.time()


@receiver(user_logged_in)
def _note_the_password(request: DeskRequest, user: User, **_: Any) -> None:
    request.session[GIVEN_AT] = time.time()
