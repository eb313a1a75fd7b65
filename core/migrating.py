"""SQL files as migration steps."""

from pathlib import Path

from django.db.migrations import RunSQL


def sql(migration: str, name: str) -> RunSQL:
    """The file `../sql/<name>.sql` beside the calling migration's folder, run whole. There is no way back."""
    path = Path(migration).resolve().parent.parent / "sql" / f"{name}.sql"
    return RunSQL(path.read_text(encoding="utf-8"), RunSQL.noop)
