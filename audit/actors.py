"""The actor of a person's request, for the audit log."""

from typing import cast

from django.http import HttpRequest

from audit.models import AuditLog
from audit.services import Actor
from core.requests import DeskRequest


def actor_of(request: HttpRequest) -> Actor:
    kind = AuditLog.Actor.STAFF if getattr(request.user, "is_staff", False) else AuditLog.Actor.USER
    desk_request = cast(DeskRequest, request)  # the admin's signatures say HttpRequest
    return Actor(kind, str(request.user.pk), desk_request.client_ip, desk_request.request_id)
