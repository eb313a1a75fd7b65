"""What the desk thinks of a user's bots and trades, why, what would raise it, and the place to object."""

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from accounts.session_views import PersonRequest
from audit.actors import actor_of
from portal.form_feedback import perform
from trust import explanations, services

POINTS = 200  # of the line


@never_cache
@login_required
def scores(request: PersonRequest) -> HttpResponse:
    """Each score with its reasons in plain words, and a form to appeal."""
    found = explanations.explain(request.user)
    lines = [services.trend(request.user, one.score.kind, POINTS) for one in found]
    shown = [
        {"told": one, "line": explanations.line([each.score for each in lately], 600, 100), "since": lately[0].at}
        for one, lately in zip(found, lines, strict=True)
    ]
    return render(request, "portal/trust.html", {"scores": shown, "now": timezone.now()})


@require_POST
@login_required
def appeal(request: PersonRequest) -> HttpResponse:
    def say() -> str:
        kind, note = request.POST.get("kind", ""), request.POST.get("note", "")
        services.appeal(user=request.user, kind=kind, note=note.replace("\r\n", "\n"), actor=actor_of(request))
        return "Sent. Staff read it beside your score, and their answer will stand here."

    return perform(request, say, "portal:trust")
