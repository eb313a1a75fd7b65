"""Types of requests with the attributes that middleware adds. They annotate; no code creates them."""

from django.http import HttpRequest


class DeskRequest(HttpRequest):
    """Any request, with the caller's address (behind proxies) and the id under which it is logged."""

    client_ip: str
    request_id: str
