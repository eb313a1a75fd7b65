"""The SQL of a released migration never changes: a desk that ran it would otherwise differ from a fresh one."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader

from core import functions

RELEASED = Path(__file__).parent / "released_migrations.json"
ADVICE = (
    "The SQL of a released migration changed. Put it back, and write a new migration. Only where an upgrade of Django"
    " writes the same migrations otherwise: delete the file, run `make released`, compare fresh and upgraded desks."
)


def ours() -> Any:
    labels = {app.label for app in apps.get_app_configs() if not app.name.startswith("django.")}
    loader = MigrationLoader(None)
    return sorted(key for key in loader.disk_migrations if key[0] in labels)


def checksums() -> dict[str, Any]:
    """Return the checksum of each migration's SQL."""
    checksum_by_name = {}
    for app, name in ours():
        out = io.StringIO()
        call_command("sqlmigrate", app, name, stdout=out, no_color=True)
        checksum_by_name[f"{app}.{name}"] = hashlib.sha256(out.getvalue().encode()).hexdigest()
    return checksum_by_name


def test_the_sql_of_a_released_migration_never_changes(desk_db: str) -> None:
    """`make released` adds the migrations of a release; it never changes a line."""
    released = json.loads(RELEASED.read_text())

    now = checksums()

    assert {name: now.get(name) for name in released} == released, ADVICE


def release() -> None:
    """Add the migrations of a release to the list. For `make released`."""
    released = json.loads(RELEASED.read_text()) if RELEASED.exists() else {}
    RELEASED.write_text(json.dumps({**checksums(), **released}, indent=0, sort_keys=True) + "\n")


def test_each_function_has_one_source_file() -> None:
    """Migrations create only functions that they call, and stubs for the functions of their triggers."""
    called_by_migrations = {"grant_to", "protect", "make_append_only", "declare_trigger_function"}
    created = set()
    for app in apps.get_app_configs():
        for path in Path(app.path).glob("migrations/*.*"):
            if path.suffix in (".sql", ".py"):
                created |= set(re.findall(r"create (?:or replace )?function (\w+)\(", path.read_text()))

    assert created == called_by_migrations
    assert created <= {name for file in functions.files() for name in file.bodies}
