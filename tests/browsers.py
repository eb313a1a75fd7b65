"""Browsers of signed-in people."""

from typing import Any

from django.test import Client

from tests.people import colleague


def of_staff(name: Any, *codenames: Any) -> Client:
    """Return the browser of a staff user with only these permissions."""
    browser = Client()
    browser.force_login(colleague(name, *codenames))
    return browser
