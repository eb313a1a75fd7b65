"""Who is behind a person's request, as the audit log names them."""

from typing import cast

from django.http import HttpRequest

from audit.models import AuditLog
from audit.services import Actor
from core.requests import DeskRequest


def actor_of(request: HttpRequest) -> Actor:
    kind = AuditLog.Actor.STAFF if getattr(request.user, "is_staff", False) else AuditLog.Actor.USER
    caller = cast(DeskRequest, request)  # the admin's signatures say HttpRequest
    return Actor(kind, str(request.user.pk), caller.client_ip, caller.request_id)
