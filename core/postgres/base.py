"""Django's PostgreSQL engine, acting in a database role of less power than the login that owns the tables.

Each alias names its role in OPTIONS["acts_as"]. The role is taken only where it exists and the login
may take it: before the first migration there is none, and a hosted database may not allow to make any
(`manage.py check --database default` says so then).
"""

from typing import Any

import psycopg
from django.db.backends.postgresql import base

_TAKE_ROLE = """
select set_config('role', rolname, false) from pg_roles
 where rolname = %s
   and pg_has_role(session_user, oid,
                   case when current_setting('server_version_num')::int < 160000 then 'MEMBER' else 'SET' end)
"""


class DatabaseWrapper(base.DatabaseWrapper):
    @property
    def queries_logged(self) -> bool:
        """Only where a test asks: Django would keep every statement, with its secrets, wherever DEBUG is on."""
        return bool(self.force_debug_cursor)

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        self.acts_as: str | None = params.pop("acts_as", None)
        return params

    def init_connection_state(self) -> None:
        super().init_connection_state()
        if self.acts_as is not None:
            with self.connection.cursor() as cursor:
                cursor.execute(_TAKE_ROLE, [self.acts_as])
            if not self.get_autocommit():
                self.connection.commit()

    def ask(self, statement: str, *arguments: Any) -> Any:
        """The one value that a statement answers ($1 … for the arguments), as a transaction of its own.

        For the calls that every signed request makes: the cursor is kept, the statement prepared, and a connection
        that broke is put away, so that the next call begins with a new one.
        """
        self.ensure_connection()
        try:
            with self.wrap_database_errors:
                asking = self._asking
                if asking is None or asking.connection is not self.connection:
                    self._asking = asking = psycopg.RawCursor(self.connection)
                found = asking.execute(statement, arguments, prepare=True).fetchone()
        finally:
            if self.connection is not None and self.connection.closed:
                self.close()
        return found[0] if found else None

    _asking: "psycopg.RawCursor[Any] | None" = None
