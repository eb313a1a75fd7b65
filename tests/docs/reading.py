"""The pages of docs/ as a test reads them: their named blocks, links and tables."""

import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"


def text(page: Any) -> Any:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def blocks(page: Any) -> dict[Any, Any]:
    """The fenced blocks that have a name (```json name=…), by it, without the last line feed."""
    fences = [token for token in MarkdownIt("commonmark").parse(text(page)) if token.type == "fence"]
    named = {
        found[1]: token.content.removesuffix("\n")
        for token in fences
        if (found := re.search(r"name=(\S+)", token.info))
    }
    assert len(named) == sum("name=" in token.info for token in fences), "two blocks have one name"
    return named


def table(page: Any, first_heading: Any) -> list[Any]:
    """The rows of the table whose first column is so called, cell by cell, without backquotes."""
    lines = text(page).splitlines()
    at = (
        next(
            number
            for number, line in enumerate(lines)
            if line.startswith(f"| {first_heading} |".replace("|  |", "| |"))
        )
        + 2
    )
    rows = []
    for line in lines[at:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")])
    return rows
