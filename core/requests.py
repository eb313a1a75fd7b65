"""Requests by what stands in them: Django's own class knows nothing of what middleware adds. Types, made nowhere."""

from django.http import HttpRequest


class DeskRequest(HttpRequest):
    """Any request, with the caller's address behind proxies and the id under which it is logged."""

    client_ip: str
    request_id: str
