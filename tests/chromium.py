"""Finds a Chromium on the system, or installs one where that is possible."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# The browser must connect to the pages under test only.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--disable-dev-shm-usage",
]  # fmt: skip


@functools.cache
def find() -> Path | None:
    named = os.environ.get("COPYDESK_CHROMIUM")
    program = named or next(filter(None, map(shutil.which, NAMES)), None) or _installed()
    return Path(program) if program else None


def _installed() -> str | None:
    """Install Chromium's package, as root on Debian and its derivatives."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return None
    print("\nInstalling chromium for the browser tests …", file=sys.stderr, flush=True)
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
    subprocess.run(["apt-get", "update", "-q"], **quiet)
    subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"], **quiet)
    return shutil.which("chromium")
