"""One version number, equal in packages, tags and the changelog."""

import re
import tomllib
from typing import Any

from tests.docs.reading import ROOT


def version_of(file: Any) -> Any:
    return tomllib.loads((ROOT / file).read_text())["project"]["version"]


def test_copybot_is_released_with_the_desk() -> None:
    assert version_of("copybot/pyproject.toml") == version_of("pyproject.toml")


def test_the_changelog_begins_with_the_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0].split()[0] == version_of("pyproject.toml")
    assert [
        heading for heading in headings if not re.fullmatch(r"\d+\.\d+\.\d+ \((\d{4}-\d\d-\d\d|unreleased)\)", heading)
    ] == []


def test_versions_only_grow_and_only_the_latest_is_unreleased() -> None:
    headings = re.findall(r"^## (\d+)\.(\d+)\.(\d+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    numbers = [tuple(map(int, version[:3])) for version in headings]

    assert numbers == sorted(set(numbers), reverse=True)
    assert "unreleased" not in [state for *_, state in headings[1:]]
