"""A real Chromium: the system's, or on a machine where that is ours to do, one that is installed for the occasion."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Nothing but the pages under test is to be asked for anything.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--disable-dev-shm-usage",
]  # fmt: skip


@functools.cache
def find() -> Path | None:
    named = os.environ.get("COPYDESK_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None) or _installed()
    return Path(found) if found else None


def _installed() -> str | None:
    """As root on Debian and its kin, Chromium is one package away."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return None
    print("\nInstalling chromium for the browser tests …", file=sys.stderr, flush=True)
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
    subprocess.run(["apt-get", "update", "-q"], **quiet)
    subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"], **quiet)
    return shutil.which("chromium")
