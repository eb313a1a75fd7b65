"""A new password by a link in an e-mail: Django's own views and tokens, with the desk's rules.

A link holds for an hour and for one use. Staff accounts get one only after two colleagues said so, and nobody gets one
within a day of a changed e-mail address.
"""

from collections.abc import Iterable
from typing import Any, cast

from django import forms
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.views import (
    PasswordResetCompleteView,
    PasswordResetConfirmView,
    PasswordResetDoneView,
    PasswordResetView,
)
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse_lazy

from accounts import networks, services
from accounts.models import User
from accounts.sign_in import actor_of
from audit import services as audit
from core import limiting
from core.errors import DomainError
from core.requests import DeskRequest

_NOT_AGAIN_MS = 120_000  # of one person
_MAIL = {
    "subject_template_name": "mail/password_reset_subject.txt",
    "email_template_name": "mail/password_reset.txt",
    "html_email_template_name": "mail/password_reset.html",
}


class ResetForm(PasswordResetForm):
    """Asks for an address, and answers the same whether somebody has it."""

    request: DeskRequest

    def get_users(self, email: str) -> Iterable[User]:
        actor = actor_of(self.request, None)
        found = cast(list[User], list(super().get_users(email)))
        for person in found:
            code = _refusal(person)
            if code:
                _record_refusal(actor, f"user:{person.pk}", code)
            else:
                audit.record("password.reset_sent", actor=actor, subject=f"user:{person.pk}")
                yield person
        if not found:
            _record_refusal(actor, "", "address_unknown")


def _refusal(person: User) -> str:
    if person.is_privileged:
        return "two_people_needed"
    try:
        services.check_may_reset(person)
    except DomainError as refusal:
        return refusal.code
    return "sent_already" if limiting.seen_before(f"reset:{person.pk}", for_ms=_NOT_AGAIN_MS) else ""


def _record_refusal(actor: audit.Actor, subject: str, code: str) -> None:
    of = networks.block_of(actor.ip or networks.UNKNOWN)
    audit.record_sampled("password.reset_refused", of=of, actor=actor, subject=subject, refused=code)


class _ForOne(PasswordResetForm):
    """Sends the link to one person, also to one who has no password yet."""

    send = PasswordResetForm.save  # as Django calls it; nothing is stored

    def __init__(self, person: User) -> None:
        super().__init__({"email": person.email})
        self.person = person

    def get_users(self, email: str) -> Iterable[User]:
        return [self.person]


def send_link(person: User, request: HttpRequest, actor: audit.Actor) -> None:
    """Send a link for a new password, as staff said. Raises a refusal if that may not be; ValidationError without a
    usable address."""
    services.check_may_reset(person)
    form = _ForOne(person)
    if not person.is_active or not form.is_valid():
        raise forms.ValidationError("This person is not active, or has no e-mail address.")
    audit.record("password.reset_sent", actor=actor, subject=f"user:{person.pk}")
    form.send(request=request, use_https=request.is_secure(), **_MAIL)  # type: ignore[arg-type]


def tell_old_address(address: str, person: User) -> None:
    """Tell the address that an account had until now, so that its owner can object."""
    if address:
        context = {"person": person}
        send_mail(
            "The e-mail address of your Copydesk account was changed",
            render_to_string("mail/email_changed.txt", context),
            None,
            [address],
            fail_silently=True,  # the change is made, and recorded
            html_message=render_to_string("mail/email_changed.html", context),
        )


class Ask(PasswordResetView):
    template_name = "reset/ask.html"
    form_class = ResetForm
    success_url = reverse_lazy("password-reset-sent")
    subject_template_name = _MAIL["subject_template_name"]
    email_template_name = _MAIL["email_template_name"]
    html_email_template_name = _MAIL["html_email_template_name"]

    def get_form(self, form_class: Any = None) -> Any:
        form: Any = super().get_form(form_class)
        form.request = self.request
        return form

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        block = networks.block_of(cast(DeskRequest, request).client_ip)
        try:
            limiting.spend("reset", block)
        except limiting.RateLimited:
            form = self.get_form()
            form.full_clean()
            form.add_error(None, "Too many requests from your address. Wait a minute, then try again.")
            page = self.form_invalid(form)
            page.status_code, page["Retry-After"] = 429, "60"
            return page
        return super().post(request, *args, **kwargs)


class Sent(PasswordResetDoneView):
    template_name = "reset/sent.html"


class Choose(PasswordResetConfirmView):
    template_name = "reset/choose.html"
    success_url = reverse_lazy("password-reset-done")


class Done(PasswordResetCompleteView):
    template_name = "reset/done.html"
