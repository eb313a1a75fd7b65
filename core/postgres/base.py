"""Django's PostgreSQL engine. Each alias has a login of its own, so no session takes on a role (config.logins)."""

from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    @property
    def queries_logged(self) -> bool:
        """True only where a test wants it: with DEBUG on, Django would keep every statement, with its secrets."""
        return bool(self.force_debug_cursor)

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        if variable := params.pop("missing", ""):
            raise ImproperlyConfigured(f"{variable} is not set, so this process cannot log in with it (ops/README.md).")
        return params

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
