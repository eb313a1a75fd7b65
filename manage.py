#!/usr/bin/env python3
"""The entry point: creates `.venv` from the hashed lock, re-runs itself in it, and provides database and Redis.

Until the environment exists it uses the standard library only.
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

# Commands that need no database. All others get one, an embedded one where none is given.
SERVERLESS = {"check", "help", "version", "--version", "--help", "-h", "makemigrations", "makemessages"}
SERVERLESS |= {"collectstatic", "compilemessages", "findstatic", "spectacular"}
# Commands that log in as the owner of the embedded desk's tables; so does a command with `--database owner`.
OWNERS = {"migrate", "catalogue", "up"}


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
    """Install what the lock names into `.venv` where that is missing, and continue with its Python."""
    if not is_installed(lock):
        with (ROOT / ".venv.lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)  # of two commands at once the second waits
            if not is_installed(lock):
                install(lock)
    if Path(sys.prefix) != VENV:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])


def stamp(lock: str) -> Path:
    """The file with the installed lock's hash. It is written last, so that an interrupted installation is repeated."""
    return VENV / f".{lock}.sha256"


def is_installed(lock: str) -> bool:
    """Whether the lock's present content is installed. The developers' lock contains the other one."""
    return PYTHON.exists() and any(
        stamp(name).exists() and stamp(name).read_text() == digest(name) for name in {lock, DEVELOPMENT}
    )


def digest(lock: str) -> str:
    return hashlib.sha256((ROOT / lock).read_bytes()).hexdigest()


def install(lock: str) -> None:
    for name in (RUNTIME, DEVELOPMENT):
        stamp(name).unlink(missing_ok=True)  # during the installation neither lock is installed
    if not runs(PYTHON, "-m", "pip", "--version"):
        if find_spec("ensurepip") is None:
            sys.exit(
                "This Python cannot create virtual environments. On Debian and Ubuntu: sudo apt install python3-venv"
            )
        say("Creating .venv")
        result = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
        if result.returncode:
            output = (result.stdout + result.stderr).strip()[-300:]
            sys.exit(f"A virtual environment could not be created in {VENV}: {output}")
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
        sys.exit("The packages could not be installed, see above. Fix the cause, then run the same command again.")
    stamp(lock).write_text(digest(lock))
    say("Installed")


def runs(*command: object) -> bool:
    try:
        return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0
    except OSError:
        return False


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: str) -> None:
    """Run a Django command, with embedded servers where it needs servers and none are given."""
    from config import embedded

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    var = ROOT / os.environ.get("COPYDESK_VAR", "var")
    given = bool(os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"))
    if command == "up" or not given or embedded.is_up(var):
        os.environ.setdefault("DEBUG", "1")  # an embedded desk listens on this machine only
    from django.core.management import execute_from_command_line

    serverless = command in SERVERLESS and not any(argument.startswith("--database") for argument in sys.argv)
    if serverless or "--help" in sys.argv or (given and command != "up"):
        execute_from_command_line(sys.argv)
        return
    as_owner = command in OWNERS or not {"owner", "--database=owner"}.isdisjoint(sys.argv)
    with embedded.serving(var, port=embedded.wanted_port() if command == "up" else None, as_owner=as_owner):
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
