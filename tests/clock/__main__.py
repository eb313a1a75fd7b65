"""`python -m tests.clock [part of a name]`: runs the suites at all moments, or at those with a matching name."""

import subprocess
import sys

from tests import clock

# All tests except long ones that are not marked as dated: so there is no list of date-bound tests to keep complete.
SUITES = {
    "desk": ["-m", "dated or not (crash or model or browser)", "--ignore=tests/rules", "tests"],
    # Django sets TZ to UTC for its process. Bots run without Django, in the time zone of their machine.
    "bots": [
        "-o", "addopts=", "-o", "filterwarnings=error", "-p", "no:django", "-q", "-n", "auto",
        "-m", "not (crash or model)", "copybot",
    ],
}  # fmt: skip


def main(words: list[str]) -> int:
    wanted = " ".join(words).lower()
    chosen = {name: moment for name, moment in clock.MOMENTS.items() if wanted in name.lower()}
    if not chosen:
        sys.exit(f"No moment has {wanted!r} in its name. The moments are: {'; '.join(clock.MOMENTS)}.")
    failed = []
    for name, moment in chosen.items():
        for suite, arguments in SUITES.items():
            print(f"--- {name} ({moment.at:%Y-%m-%d %H:%M} UTC, TZ={moment.zone}): {suite}", flush=True)
            with clock.shifted(moment) as environ:
                if subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environ).returncode:
                    failed.append(f"{name}: {suite}")
    print("\n".join(["Failed:", *failed]) if failed else "All passed at each moment.")
    return len(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except clock.CannotShift as fault:
        sys.exit(str(fault))
