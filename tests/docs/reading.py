"""Reads the pages of docs/: their named blocks, links and tables."""

import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"


def text(page: Any) -> Any:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def blocks(page: Any) -> dict[Any, Any]:
    """Return the fenced blocks with a name (```json name=…) by name, without the last line feed."""
    fences = [token for token in MarkdownIt("commonmark").parse(text(page)) if token.type == "fence"]
    named = {
        name[1]: token.content.removesuffix("\n") for token in fences if (name := re.search(r"name=(\S+)", token.info))
    }
    assert len(named) == sum("name=" in token.info for token in fences), "two blocks have one name"
    return named


def table(page: Any, first_heading: Any) -> list[Any]:
    """Return the rows of the table whose first column has this heading, cell by cell, without backquotes."""
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
