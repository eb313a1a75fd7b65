"""Each change of a password is recorded, whichever form or command makes it."""

from typing import Any

from accounts.models import User
from accounts.sign_in import actor_of
from audit import services as audit
from core import requests


class RecordsChanges:
    """A password validator that takes every password. Django calls `password_changed` after each save of a new one."""

    def validate(self, password: str, user: Any = None) -> None:
        return

    def get_help_text(self) -> str:
        return ""

    def password_changed(self, password: str, user: User) -> None:
        request = requests.current.get()
        person = getattr(request, "user", None)
        actor = audit.SYSTEM if request is None else actor_of(request, person if isinstance(person, User) else None)
        audit.record("password.changed", actor=actor, subject=f"user:{user.pk}")
