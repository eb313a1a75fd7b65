"""`python -m tests.clock [words of a moment's name]`: the suites at each of the moments, or at those named."""

import subprocess
import sys

from tests import clock

# All there is, but what takes long and is not marked as dated: so no list of date-bound tests can be incomplete.
SUITES = {
    "desk": ["-m", "dated or not (crash or model or browser)", "--ignore=tests/rules", "tests"],
    # Django sets TZ to UTC for its process. Bots have no Django, and run in the zone of their machine.
    "bots": [
        "-o", "addopts=", "-o", "filterwarnings=error", "-p", "no:django", "-q", "-n", "auto",
        "-m", "not (crash or model)", "copybot",
    ],
}  # fmt: skip


def main(words: list[str]) -> int:
    wanted = " ".join(words).lower()
    chosen = {name: moment for name, moment in clock.MOMENTS.items() if wanted in name.lower()}
    if not chosen:
        sys.exit(f"No moment is named {wanted}. There are: {'; '.join(clock.MOMENTS)}.")
    failed = []
    for name, moment in chosen.items():
        for suite, arguments in SUITES.items():
            print(f"--- {name} ({moment.at:%Y-%m-%d %H:%M} UTC, TZ={moment.zone}): {suite}", flush=True)
            with clock.shifted(moment) as environ:
                if subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environ).returncode:
                    failed.append(f"{name}: {suite}")
    print("\n".join(["Failed:", *failed]) if failed else "Green at each of them.")
    return len(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except clock.CannotShift as fault:
        sys.exit(str(fault))
