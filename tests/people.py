"""Members of staff beyond the cast. Only an operator on the server, or two colleagues, make somebody one."""

from typing import Any

from django.contrib.auth.models import Permission

from accounts.models import User


def colleague(name: str = "vera", *codenames: str, superuser: bool = False) -> User:
    """Create a member of staff with these permissions, as the tables' owner does on the server."""
    people: Any = User.objects.db_manager("owner")
    person = people.create_user(name, password=None, is_staff=True, is_superuser=superuser)
    person.user_permissions.set(Permission.objects.using("owner").filter(codename__in=codenames))
    return User.objects.get(pk=person.pk)


def promote(*people: Any, **rights: bool) -> None:
    """Give people these rights, as the tables' owner does on the server."""
    User.objects.using("owner").filter(pk__in=people).update(**rights)
