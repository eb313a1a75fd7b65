"""The pages for bot authors are served, link to each other, and share their vectors with copybot."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from portal import reference
from tests.docs import reading

COPYBOT = reading.ROOT / "copybot" / "vectors.json"


def test_the_vectors_beside_the_pages_are_copybots_own() -> None:
    """Different copies would let two clients follow two protocols."""
    assert (reading.DOCS / "vectors.json").read_bytes() == COPYBOT.read_bytes()


def test_the_vectors_are_served(client: Client) -> None:
    answer = client.get("/docs/vectors.json")

    assert answer["Content-Type"] == "application/json"
    assert json.loads(answer.content) == json.loads(COPYBOT.read_bytes())


@pytest.mark.parametrize("name", reference.PAGES)
def test_each_page_is_served(name: Any, client: Client) -> None:
    html = client.get(f"/docs/{name}/").content.decode()

    heading = reading.text(name).splitlines()[0].removeprefix("# ")
    assert re.search(rf'<h1 id="[^"]+">{re.escape(heading)}</h1>', html)
    assert re.search(rf'<a href="/docs/{name}/"\s+aria-current="page">', html)


def test_the_first_page_links_to_all_others(client: Client) -> None:
    html = client.get("/docs/").content.decode()

    for name in reference.PAGES:
        assert f'href="/docs/{name}/"' in html
    assert 'href="/docs/vectors.json"' in html
    assert 'href="/api/docs/"' in html


def test_other_files_are_not_served(client: Client) -> None:
    assert client.get("/docs/market-data/").status_code == 404
    assert client.get("/docs/..%2Fsecurity/").status_code == 404


@pytest.mark.parametrize("name", reference.PAGES)
def test_every_link_of_a_page_works(name: Any, client: Client) -> None:
    """Each link leads to a served page and an existing heading."""
    html = client.get(f"/docs/{name}/").content.decode()
    article = html[html.index("<article>") :]

    for target in re.findall(r'href="([^"]+)"', article):
        path, _, anchor = target.partition("#")
        assert path.startswith("/docs/"), f"{target} leads out of the pages"
        answer = client.get(path)
        assert answer.status_code == 200, target
        if anchor:
            assert f'id="{anchor}"' in answer.content.decode(), target


@pytest.mark.parametrize("name", reference.PAGES)
def test_every_link_of_a_file_works(name: Any) -> None:
    """In the repository too, where links lead to files."""
    for target in re.findall(r"\]\(([^)]+)\)", reading.text(name)):
        file, _, anchor = target.partition("#")
        assert (reading.DOCS / file).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (reading.DOCS / file).read_text(), re.MULTILINE)
            assert anchor in [reference.anchor_of(heading) for heading in headings], target


def test_html_in_a_page_is_escaped(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A <script>alert(1)</script> page\n")

    assert "<script>" not in reference._rendered(page, 1)
