"""Django's PostgreSQL engine, acting in a database role with fewer rights than the login that owns the tables.

Each alias names its role in OPTIONS["acts_as"]. A connection takes the role only where it exists and the login may take
it: before the first migration there is no role, and a hosted database may not allow to create one
(`manage.py check --database default` then says so).
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
        """True only where a test wants it: with DEBUG on, Django would keep every statement, with its secrets."""
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
        """Return the single value of a statement ($1 … for the arguments), run as a transaction of its own.

        Every signed request makes such calls, so the cursor is kept and the statement prepared. A broken connection is
        closed, so that the next call opens a new one.
        """
        self.ensure_connection()
        try:
            with self.wrap_database_errors:
                cursor = self._raw_cursor
                if cursor is None or cursor.connection is not self.connection:
                    self._raw_cursor = cursor = psycopg.RawCursor(self.connection)
                row = cursor.execute(statement, arguments, prepare=True).fetchone()
        finally:
            if self.connection is not None and self.connection.closed:
                self.close()
        return row[0] if row else None

    _raw_cursor: "psycopg.RawCursor[Any] | None" = None
