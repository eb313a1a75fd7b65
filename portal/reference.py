"""The pages of docs/ for authors of bots, rendered by the desk itself, and the test vectors of the signature."""

import functools
import itertools
import re
from pathlib import Path

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe
from markdown_it import MarkdownIt
from markdown_it.token import Token

FOLDER = Path(settings.BASE_DIR, "docs")
PAGES = {
    "protocol": "The signed protocol",
    "stream": "The stream",
    "copier": "What a copier does",
    "errors": "Error codes",
}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "portal/reference.html", {"pages": PAGES})


@require_safe
def page(request: HttpRequest, name: str) -> HttpResponse:
    if name not in PAGES:
        raise Http404
    file = FOLDER / f"{name}.md"
    context = {"pages": PAGES, "name": name, "title": PAGES[name], "text": _rendered(file, file.stat().st_mtime_ns)}
    return render(request, "portal/reference.html", context)


@require_safe
def vectors(request: HttpRequest) -> HttpResponse:
    return HttpResponse((FOLDER / "vectors.json").read_bytes(), content_type="application/json")


@functools.lru_cache(maxsize=len(PAGES))
def _rendered(file: Path, _changed_ns: int) -> SafeString:
    """The page as HTML. The text is the desk's own, and raw HTML inside it is escaped."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(file.read_text(encoding="utf-8"))
    for opening, token in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", anchor_of(token.content))
        for child in token.children or ():
            _relink(child)
    return SafeString(parser.renderer.render(tokens, parser.options, {}))  # our own documents  # nosec B703


def anchor_of(heading: str) -> str:
    """The anchor of a heading, spelled as code hosts spell it, so that links work there and here."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _relink(token: Token) -> None:
    """Turn a link between the files into a link between the pages."""
    target = str(token.attrs.get("href", "")) if token.type == "link_open" else ""
    name, _, anchor = target.partition("#")
    if name == "vectors.json":
        token.attrSet("href", reverse("portal:vectors"))
    elif name.removesuffix(".md") in PAGES:
        url = reverse("portal:reference-page", args=[name.removesuffix(".md")])
        token.attrSet("href", f"{url}#{anchor}" if anchor else url)
