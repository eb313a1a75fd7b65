"""Checks by other programs, declared once: `make check` and the suite run this list."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

SLOWEST_S = 600  # types without a cache take about 10 s on an idle machine


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of the environment with its arguments."""

    name: str
    command: tuple[str, ...]

    def run(self, tree: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the program in `tree`. A return code other than 0 means violations, which the output names."""
        return subprocess.run(
            self.command, cwd=tree, env={**os.environ, "COPYDESK_NO_VENV": "1", **environ}, timeout=SLOWEST_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def on(self, path: str) -> "Tool":
        """Return the same tool for one file instead of the whole tree, where it takes files."""
        return replace(self, command=tuple(path if part == "." else part for part in self.command))


def _module(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


LINT = Tool("lint", _module("ruff", "check", "."))
FORMAT = Tool("format", _module("ruff", "format", "--check", "."))
TYPES = Tool("types", _module("mypy", "."))
IMPORTS = Tool("imports", (str(Path(sys.prefix, "bin", "lint-imports")), "--no-logo"))
MIGRATIONS = Tool("migrations", (sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"))
TOOLS = (LINT, FORMAT, TYPES, IMPORTS, MIGRATIONS)
