"""The zombie drill's admin page: the latest report, rule by rule, and a button to start another run."""

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
PERMISSION = "trades.change_activetrade"  # the permission to force a close


@admin.site.admin_view
def page(request: HttpRequest) -> HttpResponse:
    if not caller(request).has_perm(PERMISSION):
        raise PermissionDenied
    if request.method == "POST":
        _request_run(request)
        return redirect("zombie-drill")
    return TemplateResponse(request, "admin/drill.html", {**admin.site.each_context(request), **_context(request)})


def _request_run(request: HttpRequest) -> None:
    if _is_running_or_requested():
        messages.warning(request, reports.AlreadyRunning.detail)
        return
    try:
        app.send_task(TASK, kwargs={"user_id": str(request.user.pk)}, retry=False)
    except OperationalError:
        messages.error(request, "The queue of the workers cannot be reached, so no run was started. See /readyz.")
        return
    reports.request_run(actor_of(request))


def _is_running_or_requested() -> bool:
    request = reports.pending_request()
    return reports.is_running() or (request is not None and not request[1])


def _context(request: HttpRequest) -> dict[str, object]:
    runs, is_running, pending = reports.latest(RUNS), reports.is_running(), reports.pending_request()
    pk = request.GET.get("run", "")
    shown = next((run for run in runs if str(run.pk) == pk), next(iter(runs), None))
    return {
        "title": "Zombie drill",
        "run": shown,
        "is_latest": shown is None or shown == runs[0],
        "runs": runs[::-1],
        "passed": sum(run.passed for run in runs),
        "rules": reports.RULES.values(),
        "is_running": is_running,
        "is_waiting": not is_running and pending is not None and not pending[1],
        "is_late": not is_running and pending is not None and pending[1],
    }
