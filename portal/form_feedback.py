"""How a page answers a form."""

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from core.errors import DomainError


def perform(request: HttpRequest, do: Callable[[], str], page: str) -> HttpResponse:
    """Do it and say so on that page; a refusal is said there as well."""
    try:
        messages.success(request, do())
    except DomainError as no:
        faults = no.extra.get("fields", {})
        said = "; ".join(f"{name} {fault}" for name, many in faults.items() for fault in many)
        messages.error(request, said or no.message)
    return redirect(page)
