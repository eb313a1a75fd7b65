"""The logins of the desk's database, each with a password of its own and no way to become another one.

The owner of the tables migrates and does nothing else; people's pages, the admin and workers log in as APP; bots'
requests as BOT. A role that a session takes on (SET ROLE) is no boundary: the session can always go back to its login.
Nothing here needs Django.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUPERUSER = "postgres"
OWNER, APP, BOT = "copydesk", "copydesk_app", "copydesk_bot"
VARIABLES = {"DATABASE_URL": APP, "DATABASE_BOT_URL": BOT, "DATABASE_OWNER_URL": OWNER}

_LIMITS = {"lock_timeout": "2s", "statement_timeout": "5s", "idle_in_transaction_session_timeout": "10s"}
SETTINGS: Mapping[str, Mapping[str, str]] = {
    APP: _LIMITS,
    # Plans of functions last as long as a connection. On a fresh desk, whose tables are almost empty, PostgreSQL would
    # plan sequential scans, and keep them while the tables grow.
    BOT: {**_LIMITS, "enable_seqscan": "off"},
    OWNER: {},
}
"""What each session begins with. Connections ask for it; the logins have it as well, for poolers that drop it."""


def passwords(path: Path, roles: tuple[str, ...]) -> dict[str, str]:
    """Return the passwords of these logins, by login, from this file; the file is written the first time, mode 0600."""
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=path.parent)  # 0600
        with os.fdopen(handle, "w") as file:
            json.dump({role: secrets.token_urlsafe(32) for role in roles}, file)
            os.fsync(file.fileno())
        Path(name).replace(path)
    stored: dict[str, str] = json.loads(path.read_text())
    return stored


def set_up(superuser: Any, database: str, passwords: Mapping[str, str]) -> None:
    """Create what is missing of the logins and their database, over a superuser's connection, and take back every power
    that a login has gained. Memberships of the owner stay: version 0.1.0, which has one login, works by them."""
    for role in (OWNER, APP, BOT):
        if not superuser.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
            superuser.execute(f"create role {role}")
        powers = "login inherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls"
        superuser.execute(f"alter role {role} {powers} connection limit -1 valid until 'infinity'")
        set_password(superuser, role, passwords[role])
        superuser.execute(f"alter role {role} reset all")
        for name, value in SETTINGS[role].items():
            superuser.execute(f"alter role {role} set {name} = '{value}'")
    taken_on = superuser.execute(
        "select roleid::regrole::text, member::regrole::text from pg_auth_members where member = any(%s::regrole[])",
        [[APP, BOT]],
    )
    for role, member in taken_on.fetchall():
        superuser.execute(f"revoke {role} from {member} cascade")
    superuser.execute(f"grant {APP}, {BOT} to {OWNER} with admin option")
    if not superuser.execute("select 1 from pg_database where datname = %s", [database]).fetchone():
        superuser.execute(f"create database {database} owner {OWNER}")
    superuser.execute(f"revoke all on database {database} from public, {APP}, {BOT}")
    superuser.execute(f"grant connect on database {database} to {APP}, {BOT}")


def set_password(superuser: Any, role: str, password: str) -> None:
    """Set it as a verifier, so that the password itself is in no log of statements."""
    verifier = superuser.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    superuser.execute(f"alter role {role} password '{verifier.decode()}'")
