"""`make audit`: what it finds, and that it says what it could not check."""

import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests import security_audit
from tests.security_audit import CLEAN, FOUND, NOT_CHECKED, ROOT, Result

WEAK = """
import hashlib
import pickle
import subprocess

def run(words: str) -> object:
    subprocess.call(words, shell=True)
    hashlib.md5(words.encode())
    return eval(words)
"""


def test_the_code_has_no_pattern_of_weak_code() -> None:
    assert security_audit.weak_code() == Result(CLEAN, "no pattern of weak code")


def test_planted_weak_code_is_found(tmp_path: Path) -> None:
    (tmp_path / "weak.py").write_text(WEAK)

    status, words = security_audit.weak_code(tmp_path)

    assert status == FOUND
    assert {"B602", "B324", "B307"} <= set(re.findall(r"weak.py:[0-9]+: (B[0-9]+)", words))


def test_the_bill_of_materials_has_every_locked_package_with_its_hashes(tmp_path: Path) -> None:
    status, _ = security_audit.bill_of_materials(tmp_path / "bill.json")

    bill = json.loads((tmp_path / "bill.json").read_text())
    locked = set(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert status == CLEAN
    assert bill["bomFormat"] == "CycloneDX"
    assert {(component["name"], component["version"]) for component in bill["components"]} == locked
    assert all(component["externalReferences"][0]["hashes"] for component in bill["components"])


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that sets what the auditor of packages reports: a list, or None for no answer."""
    monkeypatch.setattr(security_audit, "OUTPUT", tmp_path)

    def answer(packages: Any) -> None:
        def run(*command: str, **_: Any) -> "CompletedProcess[str]":
            if packages is not None:
                Path(command[command.index("--output") + 1]).write_text(json.dumps({"dependencies": packages}))
            return CompletedProcess(command, 1, "", "ConnectionError: nobody is there")

        monkeypatch.setattr(security_audit, "run", run)

    return answer


GOOD: dict[str, Any] = {"name": "django", "version": "5.2.19", "vulns": []}
WEAK_ONE: dict[str, Any] = {"name": "django", "version": "1.0", "vulns": [{"id": "CVE-1"}]}
UNKNOWN: dict[str, Any] = {"name": "limits", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([GOOD], CLEAN, "no known weakness"),
        ([GOOD, WEAK_ONE], FOUND, "django 1.0: CVE-1"),
        ([UNKNOWN, WEAK_ONE], FOUND, "django 1.0: CVE-1"),
        ([GOOD, UNKNOWN], NOT_CHECKED, "NOT CHECKED: 1 of the 2 packages"),
        (None, NOT_CHECKED, "NOT CHECKED: the known weaknesses of requirements.txt could not be had"),
    ],
    ids=["clean", "weak", "weak and unknown", "unknown", "no network"],
)
def test_packages_that_could_not_be_checked_are_not_clean(
    packages: Any, status: int, words: str, answering: Any
) -> None:
    answering(packages)

    result = security_audit.known_weaknesses("requirements.txt")

    assert result.status == status
    assert words in result.words


def test_every_requirement_of_developers_has_its_reason() -> None:
    lines = (ROOT / "requirements-dev.in").read_text().splitlines()

    named = [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert [line for line in named if "  # " not in line] == []
