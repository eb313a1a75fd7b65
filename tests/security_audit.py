"""`make audit`: known weaknesses of the locked packages, patterns of weak code, and a bill of materials (CycloneDX).

Ends with 1 where something was found, and with 2 where the list of known weaknesses could not be had: then nothing is
known of the packages, which is not the same as nothing found.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "var" / "audit"
LOCKS = ("requirements.txt", "requirements-dev.txt")
CLEAN, FOUND, NOT_CHECKED = 0, 1, 2


class Result(NamedTuple):
    status: int
    words: str


def run(*command: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)


def known_weaknesses(lock: str, *options: str) -> Result:
    """Ask for the known weaknesses of a lock's packages."""
    report = OUTPUT / f"{lock}.json"
    report.unlink(missing_ok=True)
    answer = run(
        "pip_audit", "--requirement", lock, "--require-hashes", "--disable-pip", "--progress-spinner", "off",
        "--timeout", "10", "--format", "json", "--output", str(report), *options,
    )  # fmt: skip
    if not report.exists():
        why = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        return Result(NOT_CHECKED, f"NOT CHECKED: the known weaknesses of {lock} could not be had ({why[:200]})")
    packages = json.loads(report.read_text())["dependencies"]
    weak = [f"{each['name']} {each['version']}: {flaw['id']}" for each in packages for flaw in each.get("vulns", [])]
    if weak:
        return Result(FOUND, "\n".join(weak))
    skipped = [each for each in packages if "skip_reason" in each]
    if skipped:
        few = ", ".join(each["name"] for each in skipped[:5])
        words = f"{len(skipped)} of the {len(packages)} packages of {lock} are unknown there ({few} …)"
        return Result(NOT_CHECKED, f"NOT CHECKED: {words}: {skipped[0]['skip_reason'][:200]}")
    return Result(CLEAN, f"{lock}: {len(packages)} packages, no known weakness")


def weak_code(tree: Path = ROOT) -> Result:
    """Look for patterns of weak code (pyproject.toml says which, and where)."""
    form = "{relpath}:{line}: {test_id} {msg}"
    answer = run(
        "bandit", "-q", "-r", ".", "-c", str(ROOT / "pyproject.toml"), "-f", "custom", "--msg-template", form, cwd=tree
    )
    found = answer.stdout.strip()
    if answer.returncode not in (0, 1):
        return Result(NOT_CHECKED, f"NOT CHECKED: bandit ended with {answer.returncode}: {answer.stderr[-500:]}")
    return Result(FOUND if found else CLEAN, found or "no pattern of weak code")


def bill_of_materials(output: Path) -> Result:
    """Write what a release consists of, from its lock."""
    answer = run(
        "cyclonedx_py", "requirements", "requirements.txt", "--pyproject", "pyproject.toml", "--output-reproducible",
        "--output-format", "JSON", "--output-file", str(output),
    )  # fmt: skip
    if answer.returncode:
        return Result(NOT_CHECKED, f"no bill of materials: {answer.stderr[-500:]}")
    components = json.loads(output.read_text())["components"]
    return Result(CLEAN, f"{output}: {len(components)} components")


def main() -> int:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    results = [weak_code(), bill_of_materials(OUTPUT / "copydesk.cdx.json"), *map(known_weaknesses, LOCKS)]
    for result in results:
        print(result.words)
    statuses = {result.status for result in results}
    return FOUND if FOUND in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
