"""Browsers of signed-in people."""

from typing import Any

from django.contrib.auth.models import Permission
from django.test import Client

from accounts.models import User


def of_staff(name: Any, *codenames: Any) -> Client:
    """Return the browser of a staff user with only these permissions."""
    user = User.objects.create_user(name, password=None, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    browser = Client()
    browser.force_login(user)
    return browser
