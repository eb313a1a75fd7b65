"""A user's trust scores with their reasons and remedies, and the form to appeal."""

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

TREND_POINTS = 200


@never_cache
@login_required
def scores(request: PersonRequest) -> HttpResponse:
    rows = []
    for explanation in explanations.explain(request.user):
        trend = services.trend(request.user, explanation.score.kind, TREND_POINTS)
        line = explanations.line([point.score for point in trend], 600, 100)
        rows.append({"explanation": explanation, "line": line})
    return render(request, "portal/trust.html", {"scores": rows, "now": timezone.now()})


@require_POST
@login_required
def appeal(request: PersonRequest) -> HttpResponse:
    def send() -> str:
        kind, note = request.POST.get("kind", ""), request.POST.get("note", "")
        services.appeal(user=request.user, kind=kind, note=note.replace("\r\n", "\n"), actor=actor_of(request))
        return "Appeal sent. Staff will review it with your score. Their answer appears here."

    return perform(request, send, "portal:trust")
