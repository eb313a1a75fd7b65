"""What tests read from an answer."""

import re
from typing import Any


def refusal(answer: Any) -> Any:
    """Status and code of an answer that may be a refusal."""
    return answer.status_code, answer.json().get("code")


def text(answer: Any) -> Any:
    """The words of a page, without its markup. What is escaped stays escaped, but for the apostrophe."""
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode())).replace("&#x27;", "'")


def markup(answer: Any) -> Any:
    """The page's HTML without the white space that shows nothing."""
    assert answer.status_code == 200
    return re.sub(r"> <", "><", re.sub(r"\s+", " ", answer.content.decode()))
