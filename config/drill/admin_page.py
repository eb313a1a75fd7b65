"""The zombie drill's page: what the latest run found, rule by rule, and a button for another."""

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from kombu.exceptions import OperationalError

from audit.actors import actor_of
from config.celery import app
from config.drill import reports
from core.confirmed_actions import caller

RUNS = 30
TASK = "config.tasks.zombie_drill"
MAY = "trades.change_activetrade"


@admin.site.admin_view
def page(request: HttpRequest) -> HttpResponse:
    """Who may close a trade by hand may look, and run it."""
    if not caller(request).has_perm(MAY):
        raise PermissionDenied
    if request.method == "POST":
        _request_run(request)
        return redirect("zombie-drill")
    return TemplateResponse(request, "admin/drill.html", {**admin.site.each_context(request), **_context(request)})


def _request_run(request: HttpRequest) -> None:
    if _is_under_way():
        messages.warning(request, reports.AlreadyRunning.detail)
        return
    try:
        app.send_task(TASK, kwargs={"user_id": str(request.user.pk)}, retry=False)
    except OperationalError:
        messages.error(request, "The workers' queue cannot be reached: nothing was started. Look at /readyz.")
        return
    reports.request_run(actor_of(request))


def _is_under_way() -> bool:
    wish = reports.pending_request()
    return reports.is_running() or (wish is not None and not wish[1])


def _context(request: HttpRequest) -> dict[str, object]:
    runs, is_running, wish = reports.latest(RUNS), reports.is_running(), reports.pending_request()
    asked = request.GET.get("run", "")
    shown = next((run for run in runs if str(run.pk) == asked), next(iter(runs), None))
    return {
        "title": "Zombie drill",
        "run": shown,
        "is_latest": shown is None or shown == runs[0],
        "runs": runs[::-1],
        "passed": sum(run.passed for run in runs),
        "rules": reports.RULES.values(),
        "is_running": is_running,
        "waits": not is_running and wish is not None and not wish[1],
        "is_late": not is_running and wish is not None and wish[1],
    }
