"""Who is behind a person's request, as the audit log names them."""

from typing import Any

from django.http import HttpRequest

from audit.models import AuditLog
from audit.services import Actor


def actor_of(request: HttpRequest) -> Actor:
    kind = AuditLog.Actor.STAFF if getattr(request.user, "is_staff", False) else AuditLog.Actor.USER
    caller: Any = request  # with client_ip and request_id, by our middleware
    return Actor(kind, str(request.user.pk), caller.client_ip, caller.request_id)
