"""Node: the system's where it is new enough, else the one that Playwright's wheel brings along."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

OLDEST = 20


@functools.cache
def find() -> Path:
    """The program. A machine without any fails here, and with it every test that needs one."""
    bundled = compute_driver_executable()[0]
    for candidate in (os.environ.get("COPYDESK_NODE"), shutil.which("node"), shutil.which("nodejs"), bundled):
        if candidate and _major(candidate) >= OLDEST:
            return Path(candidate)
    raise AssertionError(f"NO NODE: install version {OLDEST} or newer, or name it in COPYDESK_NODE")


def _major(program: str) -> int:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return int(said.lstrip("v").partition(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
