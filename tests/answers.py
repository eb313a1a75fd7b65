"""Helpers that read responses."""

import re
from typing import Any


def refusal(answer: Any) -> Any:
    """Return status and code of a response; the code is None where it is no refusal."""
    return answer.status_code, answer.json().get("code")


def text(answer: Any, status: int = 200) -> Any:
    """Return the text of a page with this status without markup. Escapes stay, except for the apostrophe."""
    assert answer.status_code == status
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode())).replace("&#x27;", "'")


def markup(answer: Any) -> Any:
    """Return the page's HTML without insignificant white space."""
    assert answer.status_code == 200
    return re.sub(r"> <", "><", re.sub(r"\s+", " ", answer.content.decode()))
