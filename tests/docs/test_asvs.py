"""docs/asvs.md has a line for each requirement, and the tests that it names exist; so do the proofs of SECURITY.md."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/asvs.md").read_text()
LINE = re.compile(r"^\| (\d+\.\d+\.\d+) \| [^|]+ \| (met|not applicable|open)([^|]*) \|$", re.MULTILINE)
# How many requirements of levels 1 and 2 each section has.
SECTIONS = {
    "2.1": 3, "2.2": 3, "2.3": 4, "2.4": 1, "4.1": 3, "4.2": 1, "4.3": 2, "4.4": 4, "8.1": 2, "8.2": 3, "8.3": 1,
    "8.4": 1, "11.1": 2, "11.2": 3, "11.3": 3, "11.4": 4, "11.5": 1, "11.6": 1, "12.1": 3, "12.2": 2, "12.3": 4,
    "13.1": 1, "13.2": 5, "13.3": 2, "13.4": 5, "14.1": 2, "14.2": 4, "14.3": 3, "15.1": 3, "15.2": 3, "15.3": 7,
    "16.1": 1, "16.2": 5, "16.3": 4, "16.4": 3, "16.5": 3,
}  # fmt: skip


def names_of_tests() -> set[str]:
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "copybot/tests").rglob("test_*.py")]
    return {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}


def lines(page: str) -> list[tuple[str, str, str]]:
    return LINE.findall(page)


def faults(page: str, tests: set[str]) -> list[str]:
    found = [f"{id}: met without a test" for id, state, more in lines(page) if state == "met" and "`test_" not in more]
    found += [f"{id}: {state} without a reason" for id, state, more in lines(page) if state != "met" and len(more) < 10]
    return found + [f"no test {name}" for name in re.findall(r"`(test_\w+)`", page) if name not in tests]


def test_every_requirement_of_these_chapters_has_one_line() -> None:
    ids = [id for id, _, _ in lines(PAGE)]

    assert len(ids) == len(set(ids))
    counts = {section: sum(id.startswith(f"{section}.") for id in ids) for section in SECTIONS}
    assert counts == SECTIONS
    assert len(ids) == sum(SECTIONS.values())
    assert len(re.findall(r"^\| \d", PAGE, re.MULTILINE)) == len(ids)  # no line is written otherwise


def test_every_named_test_exists_and_every_other_line_has_its_reason() -> None:
    assert faults(PAGE, names_of_tests()) == []


def test_control_a_line_without_its_test_is_found() -> None:
    page = "| 1.1.1 | Words | met `test_nowhere` |\n| 1.1.2 | Words | met |\n| 1.1.3 | Words | open: |\n"

    assert faults(page, {"test_here"}) == [
        "1.1.2: met without a test", "1.1.3: open without a reason", "no test test_nowhere",
    ]  # fmt: skip


def test_every_threat_has_its_proof() -> None:
    table = (ROOT / "SECURITY.md").read_text().partition("| threat | answer | proof |")[2]
    proofs = [line.rstrip(" |").rpartition(" | ")[2] for line in table.splitlines() if line.startswith("| ")]

    assert len(proofs) > 40
    assert [proof for proof in proofs if not proof.startswith("`")] == []
    files = {name for proof in proofs for name in re.findall(r"`([\w/]+\.py)`", proof)}
    assert [name for name in files if not (ROOT / name).exists()] == []
