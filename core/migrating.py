"""SQL files as migration steps: tables, keys, constraints and triggers. Functions are deployed by core.functions."""

from pathlib import Path

from django.db.migrations import RunSQL


def sql(migration: str) -> RunSQL:
    """Run the .sql file that has the calling migration's name. It cannot be reversed."""
    return RunSQL(Path(migration).with_suffix(".sql").read_text(encoding="utf-8"), RunSQL.noop)
