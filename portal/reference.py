"""The pages of docs/ that a bot's author needs, rendered by the desk itself, with the signing vectors beside them."""

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
    "errors": "Every code of a refusal",
}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "portal/reference.html", {"pages": PAGES})


@require_safe
def page(request: HttpRequest, name: str) -> HttpResponse:
    """One page; 404 where it is not one of PAGES."""
    if name not in PAGES:
        raise Http404
    file = FOLDER / f"{name}.md"
    shown = {"pages": PAGES, "name": name, "title": PAGES[name], "text": _rendered(file, file.stat().st_mtime_ns)}
    return render(request, "portal/reference.html", shown)


@require_safe
def vectors(request: HttpRequest) -> HttpResponse:
    return HttpResponse((FOLDER / "vectors.json").read_bytes(), content_type="application/json")


@functools.lru_cache(maxsize=len(PAGES))
def _rendered(file: Path, _changed_ns: int) -> SafeString:
    """The page as HTML. It is our own text, and HTML inside it is shown as text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(file.read_text(encoding="utf-8"))
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            before.attrSet("id", anchor_of(token.content))
        for child in token.children or ():
            _point(child)
    return SafeString(reader.renderer.render(tokens, reader.options, {}))


def anchor_of(heading: str) -> str:
    """The heading's anchor, as code hosts make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _point(token: Token) -> None:
    """A link between the files becomes a link between the pages."""
    target = str(token.attrs.get("href", "")) if token.type == "link_open" else ""
    name, _, anchor = target.partition("#")
    if name == "vectors.json":
        token.attrSet("href", reverse("portal:vectors"))
    elif name.removesuffix(".md") in PAGES:
        there = reverse("portal:reference-page", args=[name.removesuffix(".md")])
        token.attrSet("href", f"{there}#{anchor}" if anchor else there)
