"""Pages for subscribers and providers."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


@login_required
def desk(request: HttpRequest) -> HttpResponse:
    """What is open now, live."""
    return render(request, "portal/desk.html")
