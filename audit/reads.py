"""Staff who look at an object's page in the admin leave a row: most objects are a customer's."""

from typing import Any

from django.http import HttpRequest, HttpResponse

from audit import services as audit
from audit.actors import actor_of

_OWN_ROWS = (
    "trades_tradehistory_change",
    "audit_auditlog_change",
)  # history.viewed says more; the log is no customer's


def record_read(request: HttpRequest, response: HttpResponse) -> None:
    """Record the page that was shown, if it is an object's page of the admin."""
    found: Any = request.resolver_match
    if found is None or found.namespace != "admin" or request.method != "GET" or response.status_code != 200:
        return
    name, object_id = str(found.url_name), str(found.kwargs.get("object_id", ""))
    if not object_id or name in _OWN_ROWS:
        return
    model = name.removesuffix("_change").removesuffix("_history").partition("_")[2]
    audit.record("object.viewed", actor=actor_of(request), subject=f"{model}:{object_id[:100]}", page=name)
