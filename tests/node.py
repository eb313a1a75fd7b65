"""Finds Node: the system's where it is new enough, else the one in Playwright's wheel."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

OLDEST = 20


@functools.cache
def find() -> Path:
    """Return Node's path. Where there is none, this and every test that needs Node fail."""
    bundled = compute_driver_executable()[0]
    for candidate in (os.environ.get("COPYDESK_NODE"), shutil.which("node"), shutil.which("nodejs"), bundled):
        if candidate and _major(candidate) >= OLDEST:
            return Path(candidate)
    raise AssertionError(f"NO NODE: install version {OLDEST} or newer, or name it in COPYDESK_NODE")


def _major(program: str) -> int:
    try:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return int(version.lstrip("v").partition(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
