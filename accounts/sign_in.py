"""Signing in by name and password: limited by address, one password hash at a time, and recorded in the audit log."""

import threading
from contextlib import suppress
from typing import Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.auth.views import LoginView, LogoutView
from django.dispatch import receiver
from django.http import HttpResponse

from accounts import networks
from accounts.models import User
from audit import services as audit
from audit.models import AuditLog
from core import limiting
from core.requests import DeskRequest

FAILURES_PER_MINUTE = limiting.per_minute("sign-in")
LONGEST_WAIT_S = 3.0
_hashing = threading.BoundedSemaphore(1)  # a password hash is made to be slow, and bots need the processor


class _Limited:
    """A form of user name and password. `is_limited`: it was refused before the password was looked at."""

    is_limited = False

    def clean(self) -> Any:
        block = networks.block_of(self.request.client_ip)  # type: ignore[attr-defined]
        if limiting.is_spent("sign-in", block, FAILURES_PER_MINUTE):
            raise self._refused("Too many attempts from your address. Wait a minute, then try again.")
        if not _hashing.acquire(timeout=LONGEST_WAIT_S):
            raise self._refused("Too many people are signing in. Try again in a moment.")
        try:
            return super().clean()  # type: ignore[misc]
        except forms.ValidationError:
            with suppress(limiting.RateLimited):
                limiting.spend("sign-in", block, FAILURES_PER_MINUTE)
            if self.user_cache is not None:  # type: ignore[attr-defined]
                self._record("session.refused", "not_allowed_here", self.user_cache)  # type: ignore[attr-defined]
            raise
        finally:
            _hashing.release()

    def _refused(self, words: str) -> forms.ValidationError:
        self.is_limited = True
        self._record("session.limited", "rate_limited")
        return forms.ValidationError(words, code="rate_limited")

    def _record(self, action: str, code: str, user: User | None = None) -> None:
        """`user`: who gave the right password, at a door that is not theirs."""
        actor = actor_of(self.request, None)  # type: ignore[attr-defined]
        of, subject = networks.block_of(actor.ip or networks.UNKNOWN), f"user:{user.pk}" if user else ""
        audit.record_sampled(action, of=of, actor=actor, subject=subject, refused=code)


class SignInForm(_Limited, AuthenticationForm):
    """For people."""


class StaffSignInForm(_Limited, AdminAuthenticationForm):
    """For staff, at the admin's own door."""


class SignIn(LoginView):
    template_name = "login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def form_invalid(self, form: Any) -> HttpResponse:
        response = super().form_invalid(form)
        if form.is_limited:
            response.status_code = 429
            response["Retry-After"] = "60"
        return response


class SignOut(LogoutView):
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().dispatch(request, *args, **kwargs)
        response["Clear-Site-Data"] = '"cache"'  # of pages that the browser kept for its back button
        return response


# --- the audit log


def actor_of(request: DeskRequest | None, user: User | None) -> audit.Actor:
    kind = AuditLog.Actor.NOBODY if user is None else AuditLog.Actor.STAFF if user.is_staff else AuditLog.Actor.USER
    name = "" if user is None else str(user.pk)
    return audit.Actor(kind, name, getattr(request, "client_ip", None), getattr(request, "request_id", ""))


@receiver(user_logged_in)
def _record_sign_in(request: DeskRequest, user: User, **_: Any) -> None:
    audit.record("session.opened", actor=actor_of(request, user), subject=f"user:{user.pk}")


@receiver(user_logged_out)
def _record_sign_out(request: DeskRequest, user: User | None, **_: Any) -> None:
    if user is not None:
        audit.record("session.ended", actor=actor_of(request, user), subject=f"user:{user.pk}")


@receiver(user_login_failed)
def _record_refusal(credentials: dict[str, Any], request: DeskRequest | None = None, **_: Any) -> None:
    """The account is named only if there is one: what was typed as a name may be a password."""
    user = User.objects.filter(username=str(credentials.get("username", ""))[:150]).first()
    subject = f"user:{user.pk}" if user else ""
    actor = actor_of(request, None)
    of = networks.block_of(actor.ip) if actor.ip else ""
    audit.record_sampled("session.refused", of=of, actor=actor, subject=subject, refused="password_wrong")
