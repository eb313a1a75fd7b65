"""System checks that stop the start where the configuration is unsafe, with a sentence that says what to set."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections

from config import logins
from config.access import POLICIES
from core import catalogue, crypto
from wallets import limits

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", "testserver")
_FEWEST_SYMBOLS = 12
_LOGINS = {"default": "DATABASE_URL", "bot": "DATABASE_BOT_URL"}
# What the login of a session could do besides what its role is for. `session_user`: a session can always return to it.
_LOGIN = """
select session_user::text, current_user::text, (select system_identifier from pg_control_system()) || '/' || d.oid,
       coalesce((select pg_has_role(r.oid, oid, 'usage') from pg_roles where rolname = %(role)s), false),
       current_setting('statement_timeout'), has_database_privilege(r.oid, d.oid, 'temporary'),
       case when r.rolsuper then array['is a superuser'] else array_remove(array[
         case when session_user <> current_user then 'acts as ' || current_user end,
         case when r.rolcreaterole then 'may create roles' end,
         case when r.rolcreatedb then 'may create databases' end,
         case when r.rolbypassrls then 'bypasses row security' end,
         case when r.rolreplication then 'may replicate' end,
         case when d.datdba = r.oid then 'owns the database' end,
         (select 'owns ' || string_agg(relname, ', ' order by relname) from
           (select relname from pg_class where relowner = r.oid and relkind in ('r', 'p', 'v', 'm') limit 3) owned),
         (select 'owns functions' from pg_proc where proowner = r.oid limit 1),
         case when has_schema_privilege(r.oid, 'public', 'create') then 'may create objects in the schema public' end,
         case when has_database_privilege(r.oid, d.oid, 'create') then 'may create schemas' end,
         (select 'may take on ' || string_agg(rolname, ', ' order by rolname) from pg_roles
           where oid <> r.oid and rolname <> %(role)s and pg_has_role(r.oid, oid, 'member'))
       ], null) end
  from pg_roles r, pg_database d
 where r.rolname = session_user and d.datname = current_database()
"""


def refuse_unsafe() -> None:
    """End this process where its configuration is unsafe. For servers and workers, which run no system checks."""
    messages = secrets_are_set(None) + limits_make_sense(None)
    if all(os.environ.get(variable) for variable in _LOGINS.values()):
        # A server may import this in its event loop, where Django refuses database queries: use a thread.
        with ThreadPoolExecutor(1) as executor:
            messages += executor.submit(_check_database).result()
    errors = [message for message in messages if message.level >= ERROR]
    if errors:
        lines = "\n".join(f"{error.id}: {error.msg}\n    {error.hint}" for error in errors)
        raise SystemExit(f"Copydesk cannot start with this configuration:\n{lines}")


def _check_database() -> list[CheckMessage]:
    try:
        of_logins = logins_are_limited(None, ["default"])
        if settings.DEBUG:
            return of_logins
        return [*of_logins, *database_is_durable(None, ["default"]), *limits_are_in_force(None, ["default"])]
    finally:
        for alias in _LOGINS:
            connections[alias].close()


@register(Tags.security)
def secrets_are_set(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if len(settings.SECRET_KEY) < 50 or _is_guessable(settings.SECRET_KEY):
        messages.append(
            Error(
                "DJANGO_SECRET_KEY is missing or shorter than 50 characters, or is not random.",
                hint='Set it to the output of: python3 -c "import secrets; print(secrets.token_urlsafe(50))"',
                id="copydesk.E001",
            )
        )
    try:
        crypto.keyring()
        weak = [name for name, key in crypto.key_texts().items() if _is_guessable(_pairs(key))]
        if weak and not settings.DEBUG:
            raise ValueError(f"{', '.join(weak)} is not random")
    except ValueError as fault:
        messages.append(
            Error(
                f"COPYDESK_KEKS is missing or malformed: {fault}.",
                hint="Set it to the output of: python3 -c \"import secrets; print('k1:' + secrets.token_hex(32))\""
                " and keep it: without it, bots' secrets cannot be decrypted.",
                id="copydesk.E002",
            )
        )
    if not settings.DEBUG and not settings.ALLOWED_HOSTS:
        messages.append(
            Error(
                "ALLOWED_HOSTS is empty.",
                hint="Set it to the host names of the desk, separated by commas. Bots sign one of them.",
                id="copydesk.E003",
            )
        )
    if not settings.DEBUG and "*" in settings.ALLOWED_HOSTS:
        messages.append(
            Error("ALLOWED_HOSTS allows every name.", hint="List the names: bots sign the host.", id="copydesk.E004")
        )
    public = [host for host in settings.ALLOWED_HOSTS if host.strip("[]") not in _LOCAL_NAMES]
    if settings.DEBUG and public and os.environ.get("DATABASE_URL"):
        messages.append(
            Error(
                f"DEBUG is on, for {', '.join(public)} and a database of its own.",
                hint="Set DEBUG=0: pages of errors show the desk's inside to every visitor. On a developer's machine "
                "leave ALLOWED_HOSTS empty.",
                id="copydesk.E006",
            )
        )
    unknown = [f"{name}_ACCESS" for name, policy in settings.ACCESS.items() if policy not in POLICIES]
    if unknown:
        messages.append(
            Error(
                f"{', '.join(unknown)} is none of {', '.join(POLICIES)}.",
                hint="Say who may see the page: everybody, those with METRICS_TOKEN, or this machine.",
                id="copydesk.E009",
            )
        )
    if not settings.DEBUG and not os.environ.get("DATABASE_URL"):
        messages.append(
            Error("DATABASE_URL is missing.", hint="Set it to the URL of the desk's PostgreSQL.", id="copydesk.E005")
        )
    if os.environ.get("DATABASE_URL") and not os.environ.get("DATABASE_BOT_URL"):
        messages.append(
            Error(
                "DATABASE_BOT_URL is missing: bots' requests need a login of their own.",
                hint=f"As the database's administrator run ops/roles.sql. Set it to the URL of {logins.BOT}, and "
                f"DATABASE_URL to that of {logins.APP}.",
                id="copydesk.E008",
            )
        )
    return messages


@register
def limits_make_sense(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    try:
        limits.of_settings(settings)
    except ValueError as fault:
        return [
            Error(
                f"SECOND_PERSON_ABOVE, SECOND_PERSON_SUMS or a cooling time is malformed: {fault}.",
                hint="Set them as .env.example shows, for example SECOND_PERSON_ABOVE=1000,EUR=900.",
                id="copydesk.E007",
            )
        ]
    return []


def _pairs(digits: str) -> list[str]:
    return [digits[i : i + 2] for i in range(0, len(digits), 2)]


def _is_guessable(symbols: Iterable[str]) -> bool:
    """Whether a key repeats a few symbols, as no random one of 32 bytes or 50 characters does."""
    return len(set(symbols)) < _FEWEST_SYMBOLS


@register(Tags.database)
def database_is_durable(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """An acknowledged close must survive a crash. Runs with `check --database default`."""
    if not databases or "default" not in databases:
        return []
    try:
        with connections["default"].cursor() as cursor:
            cursor.execute(
                "select current_setting('fsync'), current_setting('synchronous_commit'), "
                "current_setting('full_page_writes'), current_setting('server_version_num')::int"
            )
            (row,) = cursor.fetchall()
    except DatabaseError:
        return []  # no answer: the first query of the process will report that
    fsync, commit, pages, version = row
    messages: list[CheckMessage] = []
    if not settings.DEBUG and (fsync, pages) != ("on", "on"):
        messages.append(
            Error(
                "PostgreSQL runs with fsync or full_page_writes off.",
                hint="Turn both on: an acknowledged close would not survive a power failure.",
                id="copydesk.E010",
            )
        )
    if not settings.DEBUG and commit not in ("on", "remote_apply", "remote_write"):
        messages.append(Error(f"synchronous_commit is {commit}.", hint="Set it to on.", id="copydesk.E011"))
    if not 150000 <= version < 190000:
        messages.append(
            Warning(f"PostgreSQL {version // 10000} is not supported; versions 15 to 18 are.", id="copydesk.W010")
        )
    return messages


@register(Tags.database)
def logins_are_limited(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """The logins of people's and bots' processes can do what their roles are for and nothing else, in DEBUG too."""
    if not databases or "default" not in databases:
        return []
    messages: list[CheckMessage] = []
    names = set()
    for alias, variable in _LOGINS.items():
        role = logins.VARIABLES[variable]
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute(_LOGIN, {"role": role})
                login, _, database, has_role, time_out, makes_tables, powers = cursor.fetchone()
        except (DatabaseError, ImproperlyConfigured):
            return []  # no answer: the first query of the process will report that; or missing, as another check says
        names.add(database)
        messages += _faults_of_login(variable, role, login, powers if has_role else [f"has not the rights of {role}"])
        if time_out == "0":
            messages.append(
                Error(
                    f"{variable} gives sessions without a statement_timeout: a pooler drops what the desk asks for.",
                    hint="As the database's administrator run ops/roles.sql, which gives the logins their limits.",
                    id="copydesk.E016",
                )
            )
        if makes_tables:
            messages.append(
                Warning(
                    f"{login} may create temporary tables, which the desk does not need.",
                    hint="As the database's owner: revoke temporary on database … from public.",
                    id="copydesk.W013",
                )
            )
    if len(names) > 1:
        messages.append(
            Error(
                "DATABASE_URL and DATABASE_BOT_URL are URLs of different databases.",
                hint="Set both to the same database: bots and people share one desk.",
                id="copydesk.E015",
            )
        )
    return messages


def _faults_of_login(variable: str, role: str, login: str, powers: Iterable[str]) -> list[CheckMessage]:
    if not powers:
        return []
    return [
        Error(
            f"The login of {variable}, {login}, {', '.join(powers)}. The desk's processes do not run with that.",
            hint=f"As the database's administrator run ops/roles.sql, and set {variable} to the URL of {role}.",
            id="copydesk.E017",
        )
    ]


@register(Tags.database)
def limits_are_in_force(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """The database decides who needs a second person: a limit that was only set in the environment holds nobody."""
    if not databases or "default" not in databases:
        return []
    try:
        wanted = limits.of_settings(settings).rows()
        with connections["default"].cursor() as cursor:
            cursor.execute("select name, currency, value from money_settings")
            is_in_force = wanted == {(name, currency): value for name, currency, value in cursor.fetchall()}
    except (DatabaseError, ValueError):  # not migrated yet, which /readyz reports; malformed, which E007 says
        return []
    if is_in_force:
        return []
    return [
        Error(
            "The database has other limits for one person's movements of money than the settings.",
            hint="Run manage.py migrate, which writes SECOND_PERSON_ABOVE, SECOND_PERSON_SUMS and the cooling times.",
            id="copydesk.E014",
        )
    ]


@register(Tags.database)
def database_is_as_the_code_wants_it(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Functions, triggers, constraints, indexes, columns and rights, compared by definition (core.catalogue)."""
    if not databases or "default" not in databases:
        return []
    try:
        differences = catalogue.differences()
    except DatabaseError as fault:
        message = f"The database could not be compared with what the code wants: {fault}".strip()
        return [Error(message, hint="Check that the database answers, then run manage.py migrate.", id="copydesk.E013")]
    return [
        (Warning if difference.is_addition else Error)(
            f"{difference.subject} {difference.problem}.",
            hint=difference.remedy,
            id="copydesk.W012" if difference.is_addition else "copydesk.E012",
        )
        for difference in differences
    ]
