"""How a page answers a form: a message, then the page again."""

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from core.errors import DomainError


def perform(request: HttpRequest, action: Callable[[], str], page: str) -> HttpResponse:
    """Run the action and redirect to the page, with the message that it returns or the reason of its refusal."""
    try:
        messages.success(request, action())
    except DomainError as error:
        messages.error(request, in_words(error))
    return redirect(page)


def in_words(error: DomainError) -> str:
    """The reason of a refusal, with the faults of each field where it names fields."""
    fields = error.extra.get("fields", {})
    faults = "; ".join(f"{name} {fault}" for name, messages_of in fields.items() for fault in messages_of)
    return faults or error.message
