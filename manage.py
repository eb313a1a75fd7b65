#!/usr/bin/env python3
"""The way in: makes `.venv` from the hashed lock, goes on inside it, and sees that there are servers.

Standard library only until the environment stands.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
RUNTIME, DEVELOPMENT = "requirements.txt", "requirements-dev.txt"

# Commands that work without a database. All others have one, embedded where none is given.
SERVERLESS = {"check", "help", "version", "--version", "--help", "-h", "makemigrations", "makemessages"}
SERVERLESS |= {"collectstatic", "compilemessages", "findstatic", "spectacular"}


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"Copydesk needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if not os.environ.get("COPYDESK_NO_VENV"):
        enter_environment(DEVELOPMENT if command == "test" else RUNTIME)
    os.chdir(ROOT)
    if command == "test":
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[2:]])
    run(command)


def enter_environment(lock: str) -> None:
    """Make sure that `.venv` has what the lock names, and be its Python."""
    if not has(lock):
        with (ROOT / ".venv.lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)  # two commands at once: the second waits
            if not has(lock):
                install(lock)
    if Path(sys.prefix) != VENV:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])


def mark(lock: str) -> Path:
    """Written last, so that an interrupted installation is seen and done again."""
    return VENV / f".{lock}.sha256"


def has(lock: str) -> bool:
    """Whether this lock is installed as it is now; the developers' lock holds the other one too."""
    enough = {lock, DEVELOPMENT}
    return PYTHON.exists() and any(mark(name).exists() and mark(name).read_text() == digest(name) for name in enough)


def digest(lock: str) -> str:
    return hashlib.sha256((ROOT / lock).read_bytes()).hexdigest()


def install(lock: str) -> None:
    for name in (RUNTIME, DEVELOPMENT):
        mark(name).unlink(missing_ok=True)  # from here on it is neither the one nor the other
    if not runs(PYTHON, "-m", "pip", "--version"):
        if find_spec("ensurepip") is None:
            sys.exit("This Python makes no virtual environments. On Debian and Ubuntu: sudo apt install python3-venv")
        say("Making .venv")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"No virtual environment can be made in {VENV}: {(made.stdout + made.stderr).strip()[-300:]}")
    count = sum(line[:1].isalnum() for line in (ROOT / lock).read_text().splitlines())
    say(f"Installing {count} packages of {lock} into .venv, about {'half ' if lock == RUNTIME else ''}a minute")
    command: list[str | Path] = [
        PYTHON,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-input",
        "--require-hashes",
    ]
    quiet = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    if subprocess.run([*command, "-r", ROOT / lock], env=quiet).returncode:
        sys.exit("The packages could not be installed: see above. Run the same command again when that is mended.")
    mark(lock).write_text(digest(lock))
    say("Installed")


def runs(*command: object) -> bool:
    try:
        return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0
    except OSError:
        return False


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: str) -> None:
    """A Django command, with servers where it needs some and none are given."""
    from config import embedded

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    var = ROOT / os.environ.get("COPYDESK_VAR", "var")
    given = bool(os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"))
    if command == "up" or not given or embedded.is_up(var):
        os.environ.setdefault("DEBUG", "1")  # the desk of this folder listens on this machine alone
    from django.core.management import execute_from_command_line

    serverless = command in SERVERLESS and not any(argument.startswith("--database") for argument in sys.argv)
    if serverless or "--help" in sys.argv or (given and command != "up"):
        execute_from_command_line(sys.argv)
        return
    with embedded.serving(var, port=embedded.wanted_port() if command == "up" else None):
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
