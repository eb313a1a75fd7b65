"""SQL files as migration steps: tables, keys, constraints and triggers. Functions are deployed by core.functions."""

from pathlib import Path

from django.db.migrations import RunSQL


def sql(migration: str) -> RunSQL:
    """The file of the calling migration's name with the ending .sql, run whole. It cannot be undone."""
    return RunSQL(Path(migration).with_suffix(".sql").read_text(encoding="utf-8"), RunSQL.noop)
