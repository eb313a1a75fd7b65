"""`python -m tests.upgrades.freeze`: stores this version and a database in use, for later versions' upgrade tests.

It starts the desk of this checkout with its demo, lets `life.py` and the demo's bots work on it, and writes
`tests/upgrades/<version>/`: `desk.sql.xz` (a dump that PostgreSQL 15 and later read), `source.tar.xz` (what the version
needs to run) and `facts.json` (keys, secrets and tickets, for the tests). All secrets in there are made for it alone.
"""

import argparse
import io
import json
import lzma
import os
import secrets
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg

from config import embedded, logins
from config.postgres import Postgres
from tests import ports

HERE = Path(__file__).resolve().parent
OLDEST_POSTGRESQL = 15
DEMO_S = 45  # the demo's bots have traded, and the copier has reported orders
# What a version can do without while it serves. Lists of hashes and pictures do not compress.
NOT_SOURCE = (
    "bench/",
    "copybot/mql5/",
    "copybot/tests/",
    "examples/",
    "market/data/",
    "ops/",
    "tests/",
    "requirements",
    ".",
)
NOT_SOURCE_ENDS = (".png", ".csv")
# Django's own tables, which the desk leaves empty.
UNUSED = {"auth_group", "auth_group_permissions", "django_admin_log", "users_groups", "users_user_permissions"}
LIFE = "import runpy; runpy.run_path('tests/upgrades/life.py', run_name='__main__')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=HERE.parent.parent, help="the checkout to freeze; this one")
    tree = parser.parse_args().tree.resolve()
    if subprocess.run(["git", "-C", tree, "diff", "--quiet", "HEAD"]).returncode:
        sys.exit("Commit first: a release is frozen as it is committed.")
    if Postgres(tree, tree).major != OLDEST_POSTGRESQL:
        sys.exit(f"Set COPYDESK_PG_BIN to the programs of PostgreSQL {OLDEST_POSTGRESQL}: later ones read their dumps.")
    version = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]
    folder = HERE / version
    if folder.exists():
        sys.exit(f"{version} is frozen already. Raise the version in pyproject.toml first.")
    with tempfile.TemporaryDirectory() as var:
        environ = {"DJANGO_SECRET_KEY": secrets.token_urlsafe(50), "COPYDESK_KEKS": f"k1:{secrets.token_hex(32)}"}
        facts = {"version": version, "commit": commit_of(tree), "environ": environ, **lived(tree, var, environ)}
        with serving(Path(var)) as postgres:
            url = postgres.url(logins.OWNER)
            facts |= {"rows": rows(url), "last_seq": last_numbers(url)}
            dump = subprocess.check_output([postgres.bin / "pg_dump", "--dbname", url])
            code = source(tree)
            try_source(code, {**environ, **postgres.urls(owner=False)})
    # psql knows \restrict only since the summer of 2025; it protects from a hostile server, which this one was not.
    dump = b"\n".join(line for line in dump.split(b"\n") if not line.startswith((b"\\restrict", b"\\unrestrict")))
    folder.mkdir()
    (folder / "desk.sql.xz").write_bytes(compressed(dump))
    (folder / "source.tar.xz").write_bytes(compressed(code))
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:9,} {path.relative_to(HERE)}")


def commit_of(tree: Path) -> str:
    return subprocess.check_output(["git", "-C", tree, "rev-parse", "HEAD"], text=True).strip()


def lived(tree: Path, var: str, secret: dict[str, str]) -> dict[str, Any]:
    """Return the facts that `life.py` reports of a desk whose demo ran for a while."""
    port = ports.free()
    given = {name: value for name, value in os.environ.items() if name not in (*logins.VARIABLES, "REDIS_URL")}
    environ = {**given, **secret, "COPYDESK_VAR": var, "PORT": str(port), "DEBUG": "1", "COPYDESK_NO_VENV": "1"}
    manage = [sys.executable, "-W", "ignore", "manage.py"]
    desk = subprocess.Popen([*manage, "up"], cwd=tree, env=environ)
    try:
        while not answers(port):
            if desk.poll() is not None:
                sys.exit("The desk did not start.")
            time.sleep(0.2)
        began = time.monotonic()
        time.sleep(DEMO_S / 2)  # the demo's accounts are there
        output = subprocess.check_output([*manage, "shell", "-c", LIFE], cwd=tree, env=environ, text=True)
        time.sleep(max(0.0, DEMO_S - (time.monotonic() - began)))
    finally:
        desk.terminate()
        desk.wait()
    facts: dict[str, Any] = json.loads(output.partition("FACTS ")[2])
    return facts


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def serving(var: Path) -> Iterator[Postgres]:
    """Run the database alone."""
    servers = embedded.Servers(var)
    servers.postgres.start()
    try:
        yield servers.postgres
    finally:
        servers.stop()


def rows(url: str) -> dict[str, int]:
    """Return the number of rows of each table. The upgrade of an empty table would not be tested."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public' order by 1").fetchall()
        counts = {}
        for (table,) in tables:
            row = connection.execute(f'select count(*) from "{table}"').fetchone()
            counts[table] = row[0] if row else 0
    empty = {table for table, count in counts.items() if not count} - UNUSED
    if empty:
        sys.exit(f"life.py must fill these tables too: {', '.join(sorted(empty))}")
    return counts


def last_numbers(url: str) -> dict[str, int]:
    """Return the last number of each key generation, from which the tests continue, whatever their clock says."""
    query = """select k.key_id || '.' || g.generation, g.last_seq
                 from bot_key_generations g join bot_keys k on k.id = g.key_id order by 1"""
    with psycopg.connect(url) as connection:
        return dict(connection.execute(query).fetchall())


def source(tree: Path) -> bytes:
    """Return a tar of the committed files that the version needs to run."""
    listed = subprocess.check_output(["git", "-C", tree, "ls-tree", "-r", "--name-only", "HEAD"], text=True)
    paths = [
        path for path in listed.splitlines() if not (path.startswith(NOT_SOURCE) or path.endswith(NOT_SOURCE_ENDS))
    ]
    return subprocess.check_output(["git", "-C", tree, "archive", "HEAD", "--", *paths])


def try_source(code: bytes, environ: dict[str, str]) -> None:
    """Stop where the version does not run from the stored files on its own database."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(code)) as archive:
            archive.extractall(folder, filter="data")
        serving_environ = {**os.environ, **environ, "DEBUG": "1", "COPYDESK_NO_VENV": "1"}
        for command in (["manage.py", "check", "--database", "default"], ["-c", "import config.asgi"]):
            if subprocess.run([sys.executable, "-W", "ignore", *command], cwd=folder, env=serving_environ).returncode:
                sys.exit("The version does not run from the files that source() keeps: see above.")


def compressed(content: bytes) -> bytes:
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    main()
