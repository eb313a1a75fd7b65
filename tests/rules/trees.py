"""The tree that the rules check, and copies of it for planted violations."""

import os
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = ("core", "audit", "accounts", "market", "strategies", "trades", "wallets", "trust", "portal", "config")
_NOT_COPIED = (".git", ".venv", "var", "node_modules", "staticfiles", "build", "__pycache__", ".*_cache", ".hypothesis")


def copy_to(folder: Path) -> Path:
    """Copy the tree, so that a test can plant a violation."""
    return shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*_NOT_COPIED))


def files(tree: Path, *suffixes: str) -> list[Path]:
    """The files of the tree with these endings, by their path in it."""
    paths = []
    for folder, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in _NOT_COPIED)]
        paths += [Path(folder, name).relative_to(tree) for name in names if name.endswith(suffixes)]
    return sorted(paths)


def plant(tree: Path, path: str, text: str) -> None:
    """Append `text` to a file of the copy."""
    with (tree / path).open("a") as file:
        file.write(text)


def contracts(tree: Path) -> list[dict[str, Any]]:
    """Return the import contracts of the tree's pyproject.toml."""
    settings = tomllib.loads((tree / "pyproject.toml").read_text())
    declared: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return declared
