""".env.example has each variable that the desk reads, once, and no other."""

import re

from tests.docs.reading import ROOT

EXAMPLE = (ROOT / ".env.example").read_text()
READ = re.compile(r'(?:env\.\w+|environ\.get|secret|database)\(\s*"([A-Z][A-Z0-9_]+)"')
READERS = [*(ROOT / "config").rglob("*.py"), ROOT / "manage.py"]
PAGES = re.compile(r'"([A-Z]+)": "(?:open|token|loopback)"')  # settings.ACCESS: their variables end with _ACCESS


def variables_read(text: str) -> set[str]:
    return {*READ.findall(text), *(f"{page}_ACCESS" for page in PAGES.findall(text))}


def variables_in(example: str) -> list[str]:
    return re.findall(r"^([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)


def test_the_example_has_each_variable_once_and_no_other() -> None:
    named = variables_in(EXAMPLE)
    read = set().union(*(variables_read(path.read_text()) for path in READERS))

    assert sorted(named) == sorted(set(named))
    assert {"DATABASE_OWNER_URL", "COPYDESK_KEKS", "READYZ_ACCESS", "PORT"} <= read
    assert set(named) ^ read == set()


def without_comment(example: str) -> list[str]:
    """A comment stands above a variable, or above a few that belong together."""
    lines = example.splitlines()
    return [line for above, line in zip(["", *lines], lines, strict=False) if line and line[0] != "#" and not above]


def test_each_variable_has_a_comment() -> None:
    assert without_comment(EXAMPLE) == []


def test_control_a_variable_that_is_not_named_is_found() -> None:
    assert variables_read('X = env.int("NEW_LIMIT", 3)\n"DOCS": "open"') == {"NEW_LIMIT", "DOCS_ACCESS"}
    assert variables_in("# It is off.\nOLD_LIMIT=1\n") == ["OLD_LIMIT"]
    assert without_comment("# It is off.\nOLD_LIMIT=1\n\nBARE=1\n") == ["BARE=1"]
